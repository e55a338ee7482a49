"""Why captions that a data set brings along differ from those that its names make."""

import pytest

from bioclip2_jax.text.captions import TEXT_KINDS, caption, difference
from bioclip2_jax.text.taxonomy import Taxon

BEAR = Taxon("Animalia", "Chordata", "Mammalia", "Carnivora", "Ursidae", "Ursus", "arctos")
SYRIAN = Taxon("Animalia", genus="Ursus", species="arctos syriacus")
APPLE = Taxon("Plantae", genus="Malus", species="×domestica")


@pytest.mark.parametrize("kind", TEXT_KINDS)
@pytest.mark.parametrize("common", ["", "Brown Bear"])
def test_our_own_captions_do_not_differ(kind, common):
    for taxon in (BEAR, SYRIAN, APPLE, Taxon()):
        given = caption(kind, taxon, "", common)
        assert difference(kind, given, taxon, "", common) is None
        assert difference(kind, given.upper(), taxon, "", common) == "case"
        assert difference(kind, given[:-1] + " .", taxon, "", common) == "blanks or punctuation"


@pytest.mark.parametrize(
    ("reason", "kind", "taxon", "given"),
    [
        ("only the last word of the species", "taxon", SYRIAN, "Animalia Ursus syriacus."),
        ("only the last word of the species", "sci", SYRIAN, "Ursus syriacus."),
        ("only the last word of the species", "com", SYRIAN, "Ursus syriacus."),
        ("a name with its authors", "sci", BEAR, "Ursus arctos Linnaeus, 1758."),
        ("another sign of a hybrid", "sci", APPLE, "Malus x domestica."),
        ("blanks or punctuation", "sci", APPLE, "Malus domestica."),
        ("blanks or punctuation", "sci_com", BEAR, "Ursus  arctos with common name Ursus arctos"),
        ("a lineage with a placeholder", "taxon", APPLE, "Plantae incertae sedis Malus domestica."),
        ("null-like words", "taxon", SYRIAN, "Animalia unknown Ursus arctos syriacus."),
        ("null-like words", "taxon", BEAR, "unknown taxonomy."),
        ("null-like words", "sci_com", BEAR, "Ursus arctos with common name null."),
        ("another name of the kingdom", "taxon", SYRIAN, "Metazoa Ursus arctos syriacus."),
        ("another common name", "sci_com", BEAR, "Ursus arctos with common name Grizzly."),
        ("another common name", "com", BEAR, "Grizzly."),
        ("another name", "sci", BEAR, "Pica pica."),
        ("another lineage", "taxon_com", BEAR, "Animalia Pica pica with common name Magpie."),
        ("another name", "sci", BEAR, "."),
    ],
)  # fmt: skip
def test_reasons(reason, kind, taxon, given):
    assert difference(kind, f"a photo of {given}", taxon) == reason


def test_a_common_name_of_ours_is_compared_as_such():
    assert difference("com", "a photo of Ursus arctos.", BEAR, "", "Bear") == "another common name"
