"""Lists of names as people have them: exports of databases, spreadsheets, plain text."""

from pathlib import Path

import pytest

from bioclip2_jax.analysis.traits import read_table
from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify.name_lists import read_labels, read_taxa, taxa_of
from bioclip2_jax.text.taxonomy import Taxon

CASES = Path(__file__).parent / "data" / "cases" / "tables"
MAGPIE = Taxon("Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "pica")
WOODPECKER = Taxon("Animalia", "Chordata", "Aves", "Piciformes", "Picidae", "Picus", "viridis")


@pytest.mark.parametrize(
    "text",
    [
        "kingdom,genus,specificEpithet\nAnimalia,Ignis,red\n",
        "genus,species\nIgnis,Ignis red\n",
        "scientificName\nIgnis red\n",
        "kingdom\tgenus\tspecies\nAnimalia\tIgnis\tred\n",
        "\ufeffKingdom;Genus;Species\r\nAnimalia;Ignis;red\r\n",
    ],
)
def test_taxa_are_read_from_darwin_core_and_common_variants(tmp_path, text):
    path = tmp_path / "taxa.csv"
    path.write_bytes(text.encode())
    (row,) = read_taxa(path).rows
    assert row[5:8] == ("Ignis", "red", "Ignis red")


@pytest.mark.parametrize("name", ["bar.csv", "cp1252.csv", "sep.csv", "utf16.csv"])
def test_tables_of_spreadsheets_say_what_was_written_into_them(name):
    assert taxa_of(CASES / name) == [(WOODPECKER, "Pic épeiche"), (MAGPIE, "Eurasian Magpie")]


def test_quotes_of_a_database_are_letters():
    names = [taxon.scientific_name for taxon, _ in taxa_of(CASES / "gbifq.tsv")]
    assert names == ["Picus viridis", "Pica pica", "Apus apus"]


def test_an_export_of_inaturalist_has_ranks_and_common_names():
    assert taxa_of(CASES / "inat.csv") == [
        (WOODPECKER, "European Green Woodpecker"),
        (MAGPIE, "Eurasian Magpie"),
    ]


def test_a_list_of_ebird_has_common_names():
    found = [(taxon.scientific_name, common) for taxon, common in taxa_of(CASES / "ebird.csv")]
    assert found == [("Pica pica", "Eurasian Magpie"), ("Picus viridis", "Green Woodpecker")]


def test_names_above_species_are_taxa_of_their_rank():
    taxa = [Taxon(family="Picidae"), Taxon(family="Corvidae")]
    assert [taxon for taxon, _ in taxa_of(CASES / "scifam.csv")] == taxa
    labels = read_taxa(CASES / "scifam.csv", "family")
    assert [row[-1] for row in labels.rows] == ["Picidae", "Corvidae"]


def test_a_rank_that_a_list_lacks_is_named():
    with pytest.raises(UsageError, match="--rank family: no row of .*sciname.csv names its family"):
        read_taxa(CASES / "sciname.csv", "family")
    assert [row[-1] for row in read_taxa(CASES / "sciname.csv", "genus").rows] == ["Pica", "Picus"]


def test_rows_of_one_lineage_are_one_label(tmp_path):
    path = tmp_path / "taxa.csv"
    path.write_text("genus,species,vernacularName\nIgnis,red,\nIgnis,red,fire bird\n")
    (row,) = read_taxa(path).rows
    assert row[-1] == "fire bird"


def test_a_second_column_of_common_names_fills_the_first(tmp_path):
    path = tmp_path / "taxa.csv"
    path.write_text("genus,Common Name,vernacular_name\nIgnis,fire,\nMare,sea,water\n")
    assert [row[-1] for row in read_taxa(path).rows] == ["fire", "water"]


def test_a_dataset_folder_stands_for_its_taxa(tiny_data):
    entries = dataset.read_taxa(tiny_data)
    assert taxa_of(tiny_data) == [(entry.taxon, entry.vernacular_name) for entry in entries]
    assert len(entries) == 5


READERS = {"a list of taxa": taxa_of, "traits": read_table}
BROKEN = {
    "nothing": ("", "no rows"),
    "a header alone": ("genus,species\n", "no rows"),
    "an unclosed quote": ('genus,species\nPica,pica\n"Picus,viridis\nApus,apus\n', "from line 3"),
    "a cell too many": ("genus,species\nPica,pica,Magpie\n", "line 2: 3 cells under 2 columns"),
    "two columns of one name": ((CASES / "twohdr.csv").read_text(), "two columns .* 'genus'"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_table_is_one_error_for_everyone(tmp_path, kind, reader):
    text, message = BROKEN[kind]
    (tmp_path / "taxa.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        READERS[reader](tmp_path / "taxa.csv")
    assert "taxa.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("genus,species\nIgnis,red\nnull,\n", "line 3 names no taxon"),
        ("file,label\nx.jpg,cat\n", "line 2 names no taxon"),
    ],
)
def test_a_row_without_taxon_is_named(tmp_path, text, message):
    path = tmp_path / "taxa.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_taxa(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_labels_are_read_in_the_encodings_of_tables(tmp_path, encoding):
    path = tmp_path / "labels.txt"
    path.write_bytes("Pica pica\r\n\r\n Pic épeiche, mâle \r\n".encode(encoding))
    assert read_labels(path).names == ["Pica pica", "Pic épeiche, mâle"]


def test_labels_of_a_windows_editor():
    assert read_labels(CASES / "lab16.txt").rows == [("Pica pica",), ("Pic épeiche",)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n \n", "no label in it"),
        (b"cat\ndog\n cat \n", "line 3 repeats the label 'cat' of line 1"),
        (b"\x00cat", "not a text table or list"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_label_file_is_a_clear_error(tmp_path, data, message):
    path = tmp_path / "labels.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_labels(path)


def test_traits_are_read_like_every_table():
    assert read_table(CASES / "gbifq.tsv").texts(["Pica pica"], "locality") == [["x"]]
    found = read_table(CASES / "utf16.csv").texts(["viridis"], "vernacularName")
    assert found == [["Pic épeiche"]]
    found = read_table(CASES / "ebird.csv").texts(["Pica_pica"], "Common Name")
    assert found == [["Eurasian Magpie"]]
