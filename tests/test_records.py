"""What a record holds."""

from hypothesis import given
from hypothesis import strategies as st

from bioclip2_jax.data.records import TEXT_FIELDS, make_record, taxon_of
from bioclip2_jax.text.taxonomy import RANKS, Taxon

BEAR = Taxon("Animalia", "Chordata", "Mammalia", "Carnivora", "Ursidae", "Ursus", "arctos")


def test_a_record_has_every_field_as_text():
    record = make_record(key="1", image=b"bytes", taxon=BEAR)
    assert set(record) == {*TEXT_FIELDS, "image", "labels"}
    assert all(isinstance(record[name], str) for name in TEXT_FIELDS)
    assert record["image"] == b"bytes" and record["labels"] == {}


def test_all_seven_ranks_are_fields():
    assert set(RANKS) < set(TEXT_FIELDS)


def test_a_missing_scientific_name_is_taken_from_the_lineage():
    assert make_record(key="1", image=b"", taxon=BEAR)["scientificName"] == "Ursus arctos"
    order = Taxon("Animalia", "Chordata", "Mammalia", "Carnivora")
    assert make_record(key="1", image=b"", taxon=order)["scientificName"] == "Carnivora"
    assert make_record(key="1", image=b"", taxon=Taxon())["scientificName"] == ""


def test_a_given_scientific_name_stays_as_it_is():
    name = "Ursus arctos Linnaeus, 1758"
    record = make_record(key="1", image=b"", taxon=BEAR, scientific_name=name)
    assert record["scientificName"] == name


def test_labels_are_a_copy():
    labels = {"sex": "female"}
    record = make_record(key="1", image=b"", taxon=BEAR, labels=labels)
    labels["sex"] = "male"
    assert record["labels"] == {"sex": "female"}


@given(st.lists(st.text(max_size=8), min_size=7, max_size=7))
def test_the_lineage_of_a_record_is_the_one_it_was_made_from(names):
    taxon = Taxon(*names)
    assert taxon_of(make_record(key="1", image=b"", taxon=taxon)) == taxon
