"""A list of names does not split a score in silence, and parts of it are what was meant."""

import numpy as np
import pytest

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify.name_checks import listed, part_of, without_doubles
from bioclip2_jax.identify.name_lists import choose, taxa_of
from bioclip2_jax.text.taxonomy import Taxon

BIRD = ("Animalia", "Chordata", "Aves")
MAGPIE = Taxon(*BIRD, "Passeriformes", "Corvidae", "Pica", "pica")
CROW = Taxon(*BIRD, "Passeriformes", "Corvidae", "Corvus", "corax")
OWL = Taxon(*BIRD, "Strigiformes", "Strigidae", "Strix", "aluco")
BEAR = Taxon("Animalia", "Chordata", "Mammalia", "Carnivora", "Ursidae", "Ursus", "arctos syriacus")
TAXA = [MAGPIE, CROW, OWL, BEAR]


def table(tmp_path, *lines):
    (tmp_path / "taxa.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "taxa.csv"


def test_a_name_with_and_without_its_lineage_is_one(tmp_path):
    path = table(
        tmp_path,
        "kingdom,family,genus,species,vernacularName",
        "Animalia,,Pica,pica,",
        ",Corvidae,Pica,pica,magpie",
        "Plantae,,Pica,pica,",  # the same name in another kingdom is another organism
    )
    labels = choose(taxa=path)
    whole = Taxon("Animalia", family="Corvidae", genus="Pica", species="pica")
    assert labels.taxa == (whole, Taxon("Plantae", genus="Pica", species="pica"))
    assert labels.rows[0][-1] == "magpie"
    (note,) = labels.notes
    assert "Pica pica is listed with several lineages; it counts once" in note


def test_synonyms_count_for_the_accepted_name(tmp_path):
    path = table(
        tmp_path,
        "family,scientificName,acceptedNameUsage",
        "Felidae,Felis pajeros,Leopardus colocola (Molina 1782)",
        "Felidae,Leopardus colocola,Leopardus colocola",
        "Felidae,Leopardus wiedii,",
    )
    labels = choose(taxa=path)
    assert [row[-2] for row in labels.rows] == ["Leopardus colocola", "Leopardus wiedii"]
    (note,) = labels.notes
    assert "Felis pajeros (line 2) is a synonym of Leopardus colocola" in note
    assert taxa_of(path) == [(taxon, "") for taxon in labels.taxa]


def test_names_that_may_be_one_are_reported_and_stay():
    names = dict.fromkeys([Taxon(genus="Ursus", species="arctos")], "")
    names |= {Taxon(genus="Ursus", species="arctus"): "", Taxon(genus="Picus", species="canus"): ""}
    kept, notes = without_doubles(names)
    assert kept == names
    (note,) = notes
    assert "Ursus arctos and Ursus arctus are spelt nearly alike" in note and "split" in note
    moved = Taxon(*BIRD, "Passeriformes", "Picidae", "Pica", "nuttalli")
    _, notes = without_doubles({MAGPIE: "", moved: ""})
    assert any("Pica (genus) stands below Corvidae and Picidae" in note for note in notes)


def test_doubled_rows_are_counted(tmp_path):
    rows = ["genus,species", *["Pica,pica"] * 3, "Strix,aluco"]
    labels = choose(taxa=table(tmp_path, *rows))
    assert len(labels.rows) == 2
    assert "2 rows repeat a name, which counts once: Pica pica (line 3) first" in labels.notes[0]


def test_many_notes_are_cut_short(tmp_path):
    lines = (f"Felis n{'abcdefghijklmnop'[n] * 3}us,Panthera p{'abcdefghijklmnop'[n] * 3}us"
             for n in range(15))  # fmt: skip
    labels = choose(taxa=table(tmp_path, "scientificName,acceptedNameUsage", *lines))
    assert sum("is a synonym" in note for note in labels.notes) == 10
    assert any("and 5 more such names" in note for note in labels.notes)


@pytest.mark.parametrize(
    ("within", "without", "expected"),
    [
        (["class=Aves"], [], TAXA[:3]),
        (["order=passeriformes", "class=Mammalia"], [], [MAGPIE, CROW, BEAR]),  # any of them
        ([], ["family=Corvidae"], [OWL, BEAR]),
        (["class=Aves"], ["genus=Pica", "species=Strix aluco"], [CROW]),
        (["species=Ursus arctos"], [], [BEAR]),  # with its subspecies
        (["species=Ursus_arctos syriacus"], [], [BEAR]),
    ],
)
def test_parts_of_a_list(within, without, expected):
    mask, notes = part_of(TAXA, within, without, "list")
    assert [taxon for taxon, chosen in zip(TAXA, mask, strict=True) if chosen] == expected
    assert notes == []


def test_the_rank_of_a_name_is_put_right():
    mask, notes = part_of(TAXA, ["order=Aves"], [], "list")
    assert mask.tolist() == [True, True, True, False]
    assert notes == ["--within order=Aves: Aves is a class, which is taken"]


@pytest.mark.parametrize(
    ("within", "without", "message"),
    [
        (["Aves"], [], "write RANK=NAME, such as --within class=Insecta"),
        (["tribe=Aves"], [], "ranks are kingdom, phylum"),
        (["family=Corvidea"], [], "no family of list is called so; did you mean Corvidae"),
        ([], ["species=Strix alucco"], "did you mean Strix aluco"),
        (["class=Insecta"], [], "no class of list is called so$"),
        (["class=Aves"], ["kingdom=Animalia"], "leave no name of it"),
    ],
)
def test_parts_that_are_not_there_are_refused(within, without, message):
    with pytest.raises(UsageError, match=message):
        part_of(TAXA, within, without, "list")


def test_what_a_table_names_of_a_list():
    wanted = [Taxon(genus="Pica", species="pica"), Taxon(family="Ursidae")]
    mask, notes = listed(TAXA, wanted, "mine.csv")
    assert mask.tolist() == [True, False, False, True] and notes == []
    wanted.append(Taxon(genus="Corvus", species="coraxx"))
    _, (note,) = listed(TAXA, wanted, "mine.csv")
    assert note == "mine.csv: Corvus coraxx is not among the names; did you mean Corvus corax?"
    with pytest.raises(UsageError, match="Corvus coraxx is not among"):
        listed(TAXA, wanted[2:], "mine.csv")


def test_a_workbook_is_refused_by_name(tmp_path):
    path = tmp_path / "names.xlsx"
    path.write_bytes(b"PK\x03\x04" + b"x" * 20)
    with pytest.raises(UserError, match="names.xlsx: not a text table or list but a workbook"):
        taxa_of(path)


def test_a_part_of_a_table_goes_together_with_a_rank(tmp_path):
    rows = ["kingdom,phylum,class,order,family,genus,species", *(",".join(t.ranks) for t in TAXA)]
    labels = choose(taxa=table(tmp_path, *rows), rank="family", within=["class=Aves"])
    assert [row[-1] for row in labels.rows] == ["Corvidae", "Strigidae"]
    assert np.array_equal(labels.groups, [0, 0, 1])
