import csv
import io
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from colour_world import COLOURS, ColourModel, square

from bioclip2_jax.cli.predict import predict as command
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify.predict import find_images, predict, read_labels, read_taxa
from bioclip2_jax.weights import load as loading

TAXA_CSV = """kingdom,phylum,class,order,family,genus,species,vernacularName
Animalia,Chordata,Aves,Fireformes,Firidae,Ignis,red,fire bird
Animalia,Chordata,Aves,Fireformes,Firidae,Ignis,orange,
Animalia,Chordata,Aves,Seaformes,Maridae,Mare,blue,sea bird
Plantae,,,Leafales,Leafaceae,Green,,leaf
"""
SPECIES_COLUMNS = (
    "file_name,kingdom,phylum,class,order,family,genus,species_epithet,species,common_name,score"
)


@pytest.fixture(autouse=True)
def colour_model(monkeypatch):
    monkeypatch.setattr(loading, "load", lambda path: ColourModel())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The current folder, with a picture of every colour and the lists of names."""
    monkeypatch.chdir(tmp_path)
    Path("pictures/deep").mkdir(parents=True)
    for colour in COLOURS:
        Path("pictures", f"{colour}.png").write_bytes(square(colour))
    Path("pictures/deep/again.JPG").write_bytes(square("blue", "JPEG"))
    Path("pictures/notes.txt").write_text("not a picture")
    Path("taxa.csv").write_text(TAXA_CSV)
    Path("labels.txt").write_text("blue thing, far away\n\nred thing\n")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["--model", "m", *arguments])


def rows_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


# ---- Output


def test_species_come_with_their_whole_lineage(folder):
    out = call("pictures/red.png", "--taxa", "taxa.csv", "--k", "2")
    assert out.exit_code == 0, out.stderr
    assert out.stdout.splitlines()[0] == SPECIES_COLUMNS
    first, second = rows_of(out.stdout)
    score = float(first.pop("score"))
    assert first == {
        "file_name": "pictures/red.png",
        "kingdom": "Animalia",
        "phylum": "Chordata",
        "class": "Aves",
        "order": "Fireformes",
        "family": "Firidae",
        "genus": "Ignis",
        "species_epithet": "red",
        "species": "Ignis red",
        "common_name": "fire bird",
    }
    assert second["species"] == "Ignis orange"
    assert 1 >= score > float(second["score"]) > 0


def test_a_taxon_known_to_its_genus_has_no_species_name(folder):
    (row,) = rows_of(call("pictures/green.png", "--taxa", "taxa.csv", "--k", "1").stdout)
    assert row["genus"] == "Green"
    assert row["phylum"] == row["species"] == row["species_epithet"] == ""


def test_a_higher_rank_sums_its_species(folder):
    paths = ["pictures/red.png"]
    scores = {
        rank: {
            cells: score
            for answer in predict(ColourModel(2.0), paths, read_taxa("taxa.csv", rank), k=9)
            for cells, score in answer.answers
        }
        for rank in ("species", "family", "kingdom")
    }
    fires = [score for cells, score in scores["species"].items() if cells[4] == "Firidae"]
    family = ("Animalia", "Chordata", "Aves", "Fireformes", "Firidae")
    assert len(fires) == 2
    assert scores["family"][family] == pytest.approx(sum(fires))
    assert scores["kingdom"].keys() == {("Animalia",), ("Plantae",)}
    assert sum(scores["kingdom"].values()) == pytest.approx(1)


def test_a_higher_rank_prints_the_ranks_down_to_it(folder):
    out = call("pictures/blue.png", "--taxa", "taxa.csv", "--rank", "order")
    assert out.stdout.splitlines()[0] == "file_name,kingdom,phylum,class,order,score"
    assert rows_of(out.stdout)[0]["order"] == "Seaformes"
    assert len(rows_of(out.stdout)) == 3


def test_free_labels_may_hold_commas(folder):
    out = call("pictures/blue.png", "--labels", "labels.txt")
    assert out.stdout.splitlines()[0] == "file_name,classification,score"
    rows = rows_of(out.stdout)
    assert [row["classification"] for row in rows] == ["blue thing, far away", "red thing"]
    assert sum(float(row["score"]) for row in rows) == pytest.approx(1)


def test_k_beyond_the_list_is_clipped(folder):
    assert len(rows_of(call("pictures/red.png", "--taxa", "taxa.csv", "--k", "50").stdout)) == 4


def test_rows_follow_the_order_of_the_pictures_in_any_batch_size(folder):
    names = ["pictures/green.png", "pictures/red.png", "pictures/blue.png"]
    outs = [
        rows_of(call(*names, "--taxa", "taxa.csv", "--k", "1", "--batch-size", str(size)).stdout)
        for size in (1, 2, 8)
    ]
    assert [row["file_name"] for row in outs[0]] == names
    for rows in zip(*outs, strict=True):
        scores = [float(row.pop("score")) for row in rows]
        assert scores == pytest.approx([scores[0]] * 3, rel=1e-6)
        assert rows[0] == rows[1] == rows[2]


def test_output_goes_to_a_file_and_leaves_no_partial_one(folder):
    out = call("pictures/red.png", "--taxa", "taxa.csv", "--output", "answers.csv")
    assert out.exit_code == 0 and out.stdout == ""
    assert Path("answers.csv").read_text().startswith(SPECIES_COLUMNS)
    assert not list(folder.glob("*.tmp"))


def test_a_failed_run_leaves_an_earlier_output_alone(folder, monkeypatch):
    Path("answers.csv").write_text("earlier")

    def broken(path):
        raise UserError("no model here")

    monkeypatch.setattr(loading, "load", broken)
    out = call("pictures/red.png", "--taxa", "taxa.csv", "--output", "answers.csv")
    assert isinstance(out.exception, UserError)
    assert Path("answers.csv").read_text() == "earlier"
    assert not list(folder.glob("*.tmp"))


def test_an_output_that_cannot_be_written_is_a_usage_error(folder):
    out = call("pictures/red.png", "--taxa", "taxa.csv", "--output", "nowhere/answers.csv")
    assert isinstance(out.exception, UsageError)
    assert "--output nowhere/answers.csv" in str(out.exception)


# ---- Bad pictures


def test_a_bad_picture_is_named_and_the_others_are_predicted(folder):
    Path("pictures/broken.png").write_bytes(square("red")[:30])
    names = ["pictures/broken.png", "pictures/red.png", "pictures/missing.png"]
    out = call(*names, "--taxa", "taxa.csv", "--k", "1")
    assert out.exit_code == 3
    assert [row["file_name"] for row in rows_of(out.stdout)] == ["pictures/red.png"]
    assert "pictures/broken.png: " in out.stderr
    assert "pictures/missing.png: No such file or directory" in out.stderr
    assert "2 of 3 pictures could not be read" in out.stderr


def test_nothing_but_bad_pictures_is_a_failure(folder):
    out = call("missing.png", "--labels", "labels.txt")
    assert out.exit_code == 1
    assert out.stdout == "file_name,classification,score\n"


# ---- Arguments


def test_folders_and_patterns_are_expanded(folder):
    below = find_images(["pictures"])
    assert [Path(path).name for path in below] == [
        "blue.png",
        "again.JPG",
        "green.png",
        "orange.png",
        "red.png",
    ]
    assert find_images(["pictures/*e*.png"]) == [
        "pictures/blue.png",
        "pictures/green.png",
        "pictures/orange.png",
        "pictures/red.png",
    ]
    assert find_images(["pictures/notes.txt"]) == ["pictures/notes.txt"]


@pytest.mark.parametrize("argument", ["empty", "pictures/*.tif"])
def test_a_folder_or_pattern_without_pictures_is_a_usage_error(folder, argument):
    Path("empty").mkdir()
    with pytest.raises(UsageError, match="no picture here"):
        find_images([argument])


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(folder):
    Path("pictures/a[1].png").write_bytes(square("red"))
    assert find_images(["pictures/a[1].png"]) == ["pictures/a[1].png"]


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "either --labels FILE or --taxa CSV"),
        (["--labels", "labels.txt", "--taxa", "taxa.csv"], "either --labels FILE or --taxa CSV"),
        (["--labels", "labels.txt", "--rank", "genus"], "--rank needs the lineages of --taxa"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, options, message):
    out = call("pictures/red.png", *options)
    assert isinstance(out.exception, UsageError)
    assert message in str(out.exception)


# ---- Lists of names


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


def test_rows_of_one_lineage_are_one_label(tmp_path):
    path = tmp_path / "taxa.csv"
    path.write_text("genus,species,vernacularName\nIgnis,red,\nIgnis,red,fire bird\n")
    (row,) = read_taxa(path).rows
    assert row[-1] == "fire bird"


def test_a_dataset_folder_stands_for_its_taxa(folder):
    assert len(read_taxa(folder).rows) == 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no taxon in it"),
        ("genus,species\n", "no taxon in it"),
        ("genus,species\nIgnis,red\nnull,\n", "line 3 names no taxon"),
        ("file,label\nx.jpg,cat\n", "line 2 names no taxon"),
    ],
)
def test_a_table_without_taxa_is_a_clear_error(tmp_path, text, message):
    path = tmp_path / "taxa.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_taxa(path)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"\n \n", "no label in it"),
        (b"cat\ndog\n cat \n", "line 3 repeats the label 'cat' of line 1"),
        (b"\xff\xfe\x00cat", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_label_file_is_a_clear_error(tmp_path, data, message):
    path = tmp_path / "labels.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_labels(path)
