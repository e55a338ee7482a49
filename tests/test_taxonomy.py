"""Lineages: reading rows of any provenance, holes, names and their cleaning."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip2_jax.text.taxonomy import RANKS, Taxon, TaxonEntry, clean

TENCH = Taxon("Animalia", "Chordata", "", "Cypriniformes", "Tincidae", "Tinca", "tinca")


def _name(**row):
    taxon = Taxon.from_row(row)
    return taxon.genus, taxon.species


def test_a_lineage_keeps_its_holes_and_ends_at_the_asked_rank():
    assert TENCH.lineage() == TENCH.ranks
    assert TENCH.lineage("order") == ("Animalia", "Chordata", "", "Cypriniformes")
    assert len(TENCH.ranks) == len(RANKS) == 7


@pytest.mark.parametrize(
    ("taxon", "deepest", "name"),
    [
        (TENCH, "species", "Tinca tinca"),
        (Taxon("Animalia", order="Anura", genus="Rana"), "genus", "Rana"),
        (Taxon("Plantae"), "kingdom", "Plantae"),
        (Taxon(), None, ""),
    ],
)
def test_the_scientific_name_is_the_binomial_or_the_deepest_known_name(taxon, deepest, name):
    assert (taxon.deepest_rank, taxon.scientific_name) == (deepest, name)


def test_taxa_sort_by_lineage_and_entries_compare_without_their_counts():
    fish, plant = TENCH, Taxon("Plantae")
    assert sorted([plant, fish, Taxon()]) == [Taxon(), fish, plant]
    assert TaxonEntry(fish, "a", "b", {"train": 1}) == TaxonEntry(fish, "a", "b", {"train": 2})


@pytest.mark.parametrize(
    "row",
    [
        dict(zip(RANKS, TENCH.ranks, strict=True)),
        {
            "Kingdom": "animalia",
            "PHYLUM": "CHORDATA",
            "cls": float("nan"),
            "order": "cypriniformes",
            "family": "Tincidae",
            "genus": "tinca",
            "species": "Tinca tinca",
        },
        {
            "dwc:kingdom": "Metazoa",
            "dwc:phylum": " Chordata ",
            "dwc:class": "null",
            "dwc:order": "Cypriniformes",
            "dwc:family": "Tincidae",
            "dwc:genus": "Tinca",
            "dwc:specificEpithet": "tinca",
            "dwc:scientificName": "Tinca tinca (Linnaeus, 1758)",
        },
        {
            "kingdom": "Animalia",
            "phylum": "Chordata",
            "class": "Unknown",
            "order": "Cypriniformes",
            "family": "Tincidae",
            "scientific_name": "Tinca tinca L.",
            "species": None,
        },
        {
            "kingdom": "Animalia",
            "phylum": "Chordata",
            "class": "",
            "order": "Cypriniformes",
            "family": "Tincidae",
            "genus": "Tinca",
            "species_epithet": "tinca",
            "species": "Tinca tinca",
            "common_name": "tench",
        },
    ],
    ids=["ours", "evaluation table", "Darwin Core", "scientific name only", "pybioclip"],
)
def test_the_same_taxon_is_read_from_every_kind_of_table(row):
    assert Taxon.from_row(row) == TENCH


@pytest.mark.parametrize(
    "value",
    [None, "", "  ", "NA", "n/a", "N.A.", "NaN", float("nan"), "<NA>", "None", "NULL", "unknown."]
    + ["-", "?", "...", "Incertae sedis", "unidentified", "not available", "\u00a0", "&nbsp;"],
)
def test_null_like_values_are_unknown(value):
    assert clean(value) == ""
    assert Taxon.from_row({"kingdom": value, "genus": value, "species": value}) == Taxon()


@pytest.mark.parametrize("name", ["Nana", "Nullarbor", "Nonea", "Unknownia", "Nanday parakeet"])
def test_names_that_only_begin_like_nulls_are_kept(name):
    assert clean(name) == name


def test_green_plants_have_one_kingdom():
    kingdoms = {Taxon.from_row({"kingdom": k}).kingdom for k in ("Plantae", "VIRIDIPLANTAE")}
    assert kingdoms == {"Plantae"}


@pytest.mark.parametrize(
    ("genus", "species", "name"),
    [
        ("Ursus", "arctos", ("Ursus", "arctos")),
        ("Ursus", "Arctos", ("Ursus", "arctos")),
        ("Ursus", "Ursus arctos", ("Ursus", "arctos")),
        ("ursus", "ursus arctos", ("Ursus", "arctos")),
        ("URSUS", "URSUS ARCTOS", ("Ursus", "arctos")),
        ("Ursus", "U. arctos", ("Ursus", "arctos")),
        ("Ursus", "arctos (L.)", ("Ursus", "arctos")),
        ("Ursus", "Ursus arctos Linnaeus, 1758", ("Ursus", "arctos")),
        ("Ursus", "arctos syriacus", ("Ursus", "arctos syriacus")),
        ("Ursus", "Ursus arctos subsp. syriacus", ("Ursus", "arctos syriacus")),
        ("", "Ursus arctos", ("Ursus", "arctos")),
        ("", "ursus arctos", ("Ursus", "arctos")),
        ("Ursus", "", ("Ursus", "")),
        (
            "Candidatus Phytoplasma",
            "Candidatus Phytoplasma mali",
            ("Candidatus phytoplasma", "mali"),
        ),
        ("Tobamovirus", "Tobacco mosaic virus", ("Tobamovirus", "tobacco mosaic virus")),
        ("Tobamovirus", "Tobamovirus tabaci", ("Tobamovirus", "tabaci")),
    ],
)
def test_a_species_cell_gives_its_epithet(genus, species, name):
    assert _name(genus=genus, species=species) == name


@pytest.mark.parametrize(
    ("genus", "species", "name"),
    [
        ("Bison", "bison", ("Bison", "bison")),
        ("Bison", "Bison bison", ("Bison", "bison")),
        ("Bison", "Bison", ("Bison", "")),
        ("Gorilla", "gorilla gorilla", ("Gorilla", "gorilla gorilla")),
        ("gorilla", "gorilla gorilla", ("Gorilla", "gorilla")),
    ],
)
def test_a_tautonym_is_not_taken_for_a_repeated_genus(genus, species, name):
    assert _name(genus=genus, species=species) == name


@pytest.mark.parametrize(
    "species", ["sp.", "sp. 1", "sp1", "Ursus sp.", "spp", "cf. arctos", "indet.", "Ursus unknown"]
)
def test_open_nomenclature_is_no_species(species):
    assert _name(genus="Ursus", species=species) == ("Ursus", "")


def test_the_genus_column_wins_over_the_genus_of_a_synonym():
    assert _name(genus="Cyanistes", species="Parus caeruleus") == ("Cyanistes", "caeruleus")
    assert _name(genus="Cyanistes", scientificName="Parus caeruleus L.") == ("Cyanistes", "")


def test_an_epithet_without_a_genus_names_nothing():
    assert _name(species="arctos") == ("", "")
    assert _name(species="arctos", scientificName="Ursus arctos") == ("Ursus", "arctos")


@pytest.mark.parametrize(
    ("below", "epithet"),
    [
        ("syriacus", "arctos syriacus"),
        ("subsp. syriacus", "arctos syriacus"),
        ("Ursus arctos syriacus", "arctos syriacus"),
        ("arctos", "arctos arctos"),
        ("Ursus arctos", "arctos"),
        ("", "arctos"),
    ],
)
@pytest.mark.parametrize("column", ["infraspecificEpithet", "subspecies"])
def test_the_subspecies_follows_the_epithet(column, below, epithet):
    row = {"genus": "Ursus", "specificEpithet": "arctos", column: below}
    assert Taxon.from_row(row).species == epithet


@pytest.mark.parametrize(
    ("genus", "species", "name"),
    [
        ("Malus", "× domestica", "Malus ×domestica"),
        ("Malus", "×domestica", "Malus ×domestica"),
        ("Malus", "Malus x domestica", "Malus ×domestica"),
        ("x Triticosecale", "rimpaui", "×Triticosecale rimpaui"),
        ("Canis", "lupus × latrans", "Canis lupus ×latrans"),
        ("Canis", "Canis lupus × Canis latrans", "Canis lupus ×latrans"),
        ("Canis", "Canis lupus x C. latrans", "Canis lupus ×latrans"),
        ("", "Mareca penelope × Anas acuta", "Mareca penelope ×anas acuta"),
    ],
)
def test_the_hybrid_sign_is_written_in_one_way(genus, species, name):
    assert Taxon.from_row({"genus": genus, "species": species}).scientific_name == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ursus arctos", ("Ursus", "arctos")),
        ("Ursus arctos Linnaeus, 1758", ("Ursus", "arctos")),
        ("Bombus (Pyrobombus) impatiens Cresson, 1863", ("Bombus", "impatiens")),
        ("Capsella bursa-pastoris (L.) Medik.", ("Capsella", "bursa-pastoris")),
        ("Isoëtes lacustris L.", ("Isoëtes", "lacustris")),
        ("Coccinella 7-punctata", ("Coccinella", "7-punctata")),
        ("Quercus robur L. f.", ("Quercus", "robur")),
        ("Musca domestica de Geer", ("Musca", "domestica")),
        ("Rana esculenta complex", ("Rana", "esculenta")),
        ("Felis silvestris catus", ("Felis", "silvestris catus")),
        ("Poa annua L. var. reptans Hausskn.", ("Poa", "annua reptans")),
        ("Brassica oleracea var. capitata f. alba DC.", ("Brassica", "oleracea alba")),
        ("Malus × domestica Borkh.", ("Malus", "×domestica")),
        ("Salmo trutta Müller & Troschel subsp. fario", ("Salmo", "trutta fario")),
        ("Salmo trutta unknown", ("Salmo", "trutta")),
        ("Apis cf. mellifera", ("Apis", "")),
        ("Apis sp. 3", ("Apis", "")),
    ],
)
def test_a_scientific_name_is_read_without_its_authors(text, name):
    assert _name(scientificName=text) == name


@pytest.mark.parametrize(
    "text",
    [
        "Formicidae",
        "Ursus Linnaeus, 1758",
        "Quercus robur × sp.",
        "U. arctos",
        "BOLD:AAA1234",
        "Tobacco mosaic virus",
    ]
    + ["Mareca penelope × Anas acuta", "unknown bird", "Animalia", "×", "(L.)", "Ursus ×"],
)
def test_a_doubtful_scientific_name_is_left_alone(text):
    assert _name(scientificName=text) == ("", "")


def test_the_first_filled_column_of_a_meaning_counts():
    assert _name(**{"genus": "", "dwc:genus": "Ursus", "specific epithet": "arctos"}) == (
        "Ursus",
        "arctos",
    )


def test_columns_with_numbers_are_other_columns():
    assert Taxon.from_row({"species1": "Ursus arctos", "order_2": "Carnivora"}) == Taxon()


_WORD = st.sampled_from(
    "Ursus ursus URSUS U. arctos Arctos syriacus bursa-pastoris Isoëtes 7-punctata ×Malus ×mitis"
    " x X × sp. sp1 cf. nov. subsp. var. f. L. (L.) Müller de & &amp; 1758 virus unknown".split()
)
_CELL = st.lists(_WORD, max_size=5).map(" ".join)


@settings(derandomize=True, deadline=None)
@given(st.lists(_CELL, min_size=9, max_size=9))
def test_any_cells_give_clean_names_that_read_back_as_the_same_taxon(cells):
    headers = (*RANKS, "scientificName", "subspecies")
    taxon = Taxon.from_row(dict(zip(headers, cells, strict=True)))
    assert all(name == clean(name) for name in taxon.ranks)
    assert taxon.genus or not taxon.species
    assert Taxon.from_row(dict(zip(RANKS, taxon.ranks, strict=True))) == taxon
