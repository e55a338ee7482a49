"""Names as collections and sequencers write them: placeholders, codes, doubts, markup, synonyms."""

import csv
from pathlib import Path

import pytest

from bioclip2_jax.text.names import clean, common_name, tidy
from bioclip2_jax.text.taxonomy import Taxon

CASES = Path(__file__).parent / "data" / "cases" / "names" / "names.csv"


def _cases() -> list[dict[str, str]]:
    with CASES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _name(**row: str) -> str:
    return Taxon.from_row(row).scientific_name


@pytest.mark.parametrize("row", _cases(), ids=lambda row: row["why"])
def test_rows_of_real_tables_give_the_lineage_and_common_name_that_is_meant(row):
    assert "|".join(Taxon.from_row(row).ranks) == row["expected"]
    assert common_name(row["vernacularName"]) == row["expected_common"]


@pytest.mark.parametrize("rank", ["kingdom", "phylum", "class", "order", "family", "genus"])
@pytest.mark.parametrize(
    "cell",
    ["[unassigned] Xaliana", "Xaliana (unassigned)", "unclassified Xaliana", "Xaliana_unclassified"]
    + ["unplaced", "not assigned", "no rank", "NCBI no match", "inc. sed.", "Incertae sedis 3"]
    + [
        "Xaliana_ord_Incertae_sedis",
        "UNKNOWN ORDER",
        "Family indet.",
        "order",
        "metagenome",
        "Family_XI",
    ]
    + ["uncultured", "unidentified eukaryote", "environmental sample", "o__", "k__unidentified"]
    + [
        "Xaliana?",
        "? Xaliana",
        "cf. Xaliana",
        "probably Xaliana",
        "gen. nov.",
        "sp.",
        "12",
        "-9999",
    ]
    + ["BOLD:AAA1234", "\\N", "(null)", "#REF!", "Unknown.", "to be determined", "( )", "''"],
)
def test_placeholders_are_unknown_at_any_rank(rank, cell):
    assert Taxon.from_row({rank: cell}) == Taxon()


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("Carnivora Bowdich, 1821", "Carnivora"),
        ("Carnivora sp.", "Carnivora"),
        ("Carnivora indet.", "Carnivora"),
        ("<em>Carnivora</em>", "Carnivora"),
        ("“Carnivora”", "Carnivora"),
        ("*Carnivora*", "Carnivora"),
        ("'Carnivora'", "Carnivora"),
        ("(Carnivora)", "Carnivora"),
        ("Carnivora <order>", "Carnivora"),
        ("Carnivora [order]", "Carnivora"),
        ("Order: Carnivora", "Carnivora"),
        ("o__Carnivora", "Carnivora"),
        ("Perciformes/Cottoidei", "Perciformes/cottoidei"),
        ("Candidatus Carnivora", "Candidatus carnivora"),
        ("red algae", "Red algae"),
        ("Ordinaria", "Ordinaria"),
        ("Genusidae", "Genusidae"),
        ("Unknownia", "Unknownia"),
    ],
)
def test_a_name_above_genus_is_read_without_what_surrounds_it(cell, name):
    assert Taxon.from_row({"order": cell}) == Taxon(order=name)


@pytest.mark.parametrize(
    ("cell", "genus"),
    [
        *[("Ursus sp.", "Ursus"), ("Ursus indet.", "Ursus"), ("Ursus Linnaeus, 1758", "Ursus")],
        *[("Ursus (Euarctos)", "Ursus"), ("Ursus subg. Euarctos", "Ursus"), ("g__Ursus", "Ursus")],
        *[("Ursus arctos", "Ursus"), ("[Candida]", "Candida"), ("URSUS", "Ursus")],
        *[("+Crataegomespilus", "+Crataegomespilus"), ("x Triticosecale", "×Triticosecale")],
        *[("Genus A", ""), ("JAH01", ""), ("UBA1234", ""), ("U.", ""), ("small bird", "")],
        *[("Ursinae", ""), ("Carnivoriformes", ""), ("Tobacco mosaic virus", "")],
    ],
)
def test_a_genus_is_one_word_that_may_be_one(cell, genus):
    assert Taxon.from_row({"genus": cell}).genus == genus


@pytest.mark.parametrize("family", ["Parulidae", "Asteraceae"])
def test_a_family_in_the_column_of_the_genus_is_the_family(family):
    assert Taxon.from_row({"genus": family, "species": f"{family} sp."}) == Taxon(family=family)
    row = {"family": "Known", "genus": family, "species": "Setophaga petechia"}
    assert Taxon.from_row(row) == Taxon(family="Known", genus="Setophaga", species="petechia")


def test_a_table_that_repeats_the_last_name_it_knows_names_no_genus():
    row = dict.fromkeys(("class", "order", "genus", "species"), "Insecta")
    assert Taxon.from_row(row) == Taxon(class_="Insecta", order="Insecta")
    assert _name(order="Coleoptera", species="Coleoptera sp.") == "Coleoptera"
    assert _name(genus="Rosa", species="Rosaceae") == "Rosa"
    # A genus with a species is one, whatever stands above.
    assert Taxon.from_row({"family": "Ursus", "genus": "Ursus", "species": "arctos"}).genus


@pytest.mark.parametrize(
    "species",
    ["BOLD:AAA0000", "Rosa BOLD:AAA0000", "sp. BOLD:AAA0000", "malaise7398", "JAH01", "Janzen12"]
    + ["DHJPAR0012345", "Rosa DHJ", "DHJ", "GMP#00421", "sp. 3 JMH-2014", "spA", "sp1", "A", "II"]
    + ["3", "#2", "Rosa 3", "new species 3", "undescribed species", "morphospecies B"]
    + ["sect. Caninae", "Rosa sect. Caninae", "Rosa ser. Caninae", "Rosa subsect. Caninae"]
    + ["section Caninae", "Rosa subg. Hulthemia", "Rosa (Hulthemia)", "Rosa 'Peace'"]
    + ["canina?", "?canina", "Rosa ? canina", "Rosa canina ?", "canina (?)", "aff. canina"]
    + ["cf.canina", "nr. canina", "sp. nr. canina", "canina/gallica", "canina or gallica"]
    + ["uncultured Rosa", "Rosa environmental sample", "unidentified plant", "no name", "\\N"]
    + ["hybrid", "Rosa hybrid", "juvenile", "Rosaceae sp.", "s__", "Genus et species indet."],
)
def test_codes_sections_doubts_and_placeholders_are_no_species(species):
    assert _name(genus="Rosa", species=species) == "Rosa"
    assert _name(genus="Rosa", specificEpithet=species) == "Rosa"


@pytest.mark.parametrize(
    ("species", "epithet"),
    [
        *[("c-nigrum", "c-nigrum"), ("10-punctata", "10-punctata"), ("d'urvillei", "d'urvillei")],
        *[("McClellandi", "mcclellandi"), ("CANINA", "canina"), ("io", "io"), ("xylon", "xylon")],
        *[("(Hulthemia) canina", "canina"), ("Rosa [Hulthemia] canina", "canina")],
        *[("Rosa sect. Caninae canina", "canina"), ("canina Linnaeus?", "canina")],
        *[("s__Rosa_canina", "canina"), ("<i>canina</i> L.", "canina"), ("'canina'", "canina")],
        *[("«canina»", "canina"), ("&quot;canina&quot;", "canina"), ("†canina", "canina")],
        *[("&lt;i&gt;canina&lt;/i&gt;", "canina"), ("Rosa\u200b canina", "canina")],
        *[("canina, L.", "canina"), ("Rosa canina 'Peace'", "canina"), ("canina agg.", "canina")],
        *[("canina cf. alba", "canina"), ("canina unknown", "canina"), ("canina hybrid", "canina")],
        *[("canina subsp.alba", "canina alba"), ("canina f. sp. alba", "canina alba")],
        *[("canina alba/rubra", "canina"), ("canina ab. alba", "canina alba")],
    ],
)
def test_epithets_are_read_in_every_dress(species, epithet):
    assert _name(genus="Rosa", species=species) == f"Rosa {epithet}"


def test_names_of_viruses_are_no_binomials():
    assert _name(genus="Tobamovirus", species="Tobamovirus tabaci Doe") == "Tobamovirus tabaci"
    assert _name(species="Tobacco mosaic virus") == ""


def test_letters_that_look_alike_are_one():
    assert _name(genus="Isoe\u0308tes", species="lacustris") == "Isoëtes lacustris"


def test_a_doubt_is_not_removed_by_another_column():
    assert _name(genus="Rosa", species="canina?", scientificName="Rosa canina L.") == "Rosa"
    assert _name(genus="Rosa", species="Rosa canina", specificEpithet="cf. canina") == "Rosa"
    for doubt in ("nr. canina", "canina/gallica", "canina or gallica", "Rosa ?canina"):
        assert _name(genus="Rosa", species=doubt, scientificName="Rosa canina L.") == "Rosa"
    assert _name(genus="Rosa", species="sp.", scientificName="Rosa canina L.") == "Rosa canina"


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"scientificName": "Felis pajeros Desmarest, 1816"}, "Leopardus colocola"),
        ({"scientificName": "Leopardus pajeros (Desmarest, 1816)"}, "Leopardus colocola"),
        ({"infraspecificEpithet": "garleppi"}, "Leopardus colocola"),
        (
            {"specificEpithet": "colocola", "infraspecificEpithet": "budini"},
            "Leopardus colocola budini",
        ),
        ({"genus": "", "genericName": "Felis"}, "Leopardus colocola"),
        ({"specificEpithet": "colocola budini"}, "Leopardus colocola budini"),
        ({"species": "colocola"}, "Leopardus pajeros"),
        ({"species": "Felis colocola"}, "Leopardus pajeros"),
    ],
)
def test_a_whole_accepted_species_wins_over_the_epithet_of_a_synonym(row, name):
    gbif = {"genus": "Leopardus", "species": "Leopardus colocola", "specificEpithet": "pajeros"}
    assert Taxon.from_row(gbif | row).scientific_name == name


@pytest.mark.parametrize(
    ("rank", "name", "taxon"),
    [
        ("family", "Ursidae Fischer von Waldheim, 1817", Taxon(family="Ursidae")),
        ("FAMILIA", "Ursidae", Taxon(family="Ursidae")),
        ("fam.", "Ursidae", Taxon(family="Ursidae")),
        ("divisio", "Tracheophyta", Taxon(phylum="Tracheophyta")),
        ("kingdom", "Metazoa", Taxon("Animalia")),
        ("genus", "Ursus Linnaeus, 1758", Taxon(genus="Ursus")),
        ("family", "Ursidae incertae sedis", Taxon()),
        ("subfamily", "Ursinae", Taxon()),
        ("unranked", "Pancarnivora", Taxon()),
        ("", "Ursidae", Taxon()),
    ],
)
def test_a_name_above_species_is_of_the_rank_that_is_said(rank, name, taxon):
    assert Taxon.from_row({"scientificName": name, "taxonRank": rank}) == taxon


@pytest.mark.parametrize(
    ("name", "genus"),
    [
        ("Aquila malaise1055", "Aquila"),
        ("Aquila JAH1056", "Aquila"),
        ("Aquila BOLD:AAA1054", "Aquila"),
    ]
    + [("Aquila audax?", "Aquila"), ("Aquila ?audax", "Aquila"), ("Aquila audax/rapax", "Aquila")]
    + [("Aquila sect. Rapaces", "Aquila"), ("Aquila Gould, 1840", ""), ("Aquilidae sp.", "")]
    + [("Aquila unclassified", ""), ("uncultured Aquila", ""), ("Aquila 1840", "")],
)
def test_a_scientific_name_that_leaves_the_species_open_has_its_genus(name, genus):
    assert Taxon.from_row({"scientificName": name}) == Taxon(genus=genus)


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("Brown Bear | Grizzly", "Brown Bear"),
        ("Brown Bear; Grizzly", "Brown Bear"),
        ("unknown | Grizzly", "Grizzly"),
        ("; ;Grizzly", "Grizzly"),
        ("Bachman&#39;s sparrow; Pinewoods sparrow", "Bachman's sparrow"),
        ("Warbler, Yellow", "Warbler, Yellow"),
        ("<b>Brown</b><br>Bear", "Brown Bear"),
        ("Greater/Lesser Scaup", "Greater/Lesser Scaup"),
        ("|", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_first_of_several_common_names_counts(cell, name):
    assert common_name(cell) == name


def test_texts_keep_what_names_lose():
    assert clean('<i>Ursus</i> "arctos"_1 †') == 'Ursus "arctos"_1 †'
    assert tidy('<i>Ursus</i> "arctos"_1 †') == "Ursus arctos 1"
    assert clean("a < b > c") == "a < b > c"


def test_columns_of_any_order_and_values_of_any_type_are_read_alike():
    row = {"genus": "Ursus", "species": "arctos", "order": None, "family": float("nan"), "n": [1]}
    taxon = Taxon(genus="Ursus", species="arctos")
    assert Taxon.from_row(row) == Taxon.from_row(dict(reversed(row.items()))) == taxon
    assert Taxon.from_row(row | {"order": 7}) == taxon
    assert Taxon.from_row(row | {"genus": "Ursa"}).genus == "Ursa"
