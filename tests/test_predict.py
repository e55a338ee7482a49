import csv
import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from colour_world import COLOURS, ColourModel, square

from bioclip2_jax.cli.predict import predict as command
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify.name_lists import read_taxa
from bioclip2_jax.identify.predict import Namer
from bioclip2_jax.weights import load as loading

TAXA_CSV = """kingdom,phylum,class,order,family,genus,species,vernacularName
Animalia,Chordata,Aves,Fireformes,Firidae,Ignis,red,fire bird
Animalia,Chordata,Aves,Fireformes,Firidae,Ignis,orange,
Animalia,Chordata,Aves,Seaformes,Maridae,Mare,blue,sea bird
Plantae,,,Leafales,Leafaceae,Green,,leaf
"""
SPECIES_COLUMNS = (
    "file_name,kingdom,phylum,class,order,family,genus,species_epithet,species,common_name,score"
    ",note,error"
)


@pytest.fixture(autouse=True)
def colour_model(monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel())


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
        "note": "",
        "error": "",
    }
    assert second["species"] == "Ignis orange"
    assert 1 >= score > float(second["score"]) > 0


def test_a_taxon_known_to_its_genus_has_no_species_name(folder):
    (row,) = rows_of(call("pictures/green.png", "--taxa", "taxa.csv", "--k", "1").stdout)
    assert row["genus"] == "Green"
    assert row["phylum"] == row["species"] == row["species_epithet"] == ""


def test_a_higher_rank_sums_its_species(folder):
    features = ColourModel().encode_image(np.full((1, 16, 16, 3), COLOURS["red"]))
    scores = {
        rank: dict(Namer(ColourModel(2.0), read_taxa("taxa.csv", rank), k=9).name(features)[0])
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
    assert out.stdout.splitlines()[0] == "file_name,kingdom,phylum,class,order,score,note,error"
    assert rows_of(out.stdout)[0]["order"] == "Seaformes"
    assert len(rows_of(out.stdout)) == 3


def test_free_labels_may_hold_commas(folder):
    out = call("pictures/blue.png", "--labels", "labels.txt")
    assert out.stdout.splitlines()[0] == "file_name,classification,score,note,error"
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
    assert not list(folder.glob("*answers.csv?*"))


def test_no_file_of_the_user_is_touched_but_the_output(folder):
    Path("answers.csv.tmp").write_text("mine")
    out = call("pictures/red.png", "--taxa", "taxa.csv", "--output", "answers.csv")
    assert out.exit_code == 0 and Path("answers.csv.tmp").read_text() == "mine"


def test_the_output_appears_only_once_it_is_complete(folder, monkeypatch):
    seen = []

    class Watched(ColourModel):
        def encode_image(self, images, normalize=True):
            seen.append(Path("answers.csv").exists())
            return super().encode_image(images, normalize)

    monkeypatch.setattr(loading, "load", lambda *_: Watched())
    call("pictures", "--taxa", "taxa.csv", "--output", "answers.csv")
    assert seen and not any(seen)
    assert len(rows_of(Path("answers.csv").read_text())) == 5 * 4


def test_a_failed_run_leaves_an_earlier_output_alone(folder, monkeypatch):
    Path("answers.csv").write_text("earlier")

    def broken(*_):
        raise UserError("no model here")

    monkeypatch.setattr(loading, "load", broken)
    out = call("pictures/red.png", "--taxa", "taxa.csv", "--output", "answers.csv")
    assert isinstance(out.exception, UserError)
    assert Path("answers.csv").read_text() == "earlier"
    assert not list(folder.glob("*answers.csv?*"))


def test_an_output_that_cannot_be_written_is_a_usage_error(folder):
    out = call("pictures/red.png", "--taxa", "taxa.csv", "--output", "nowhere/answers.csv")
    assert isinstance(out.exception, UsageError)
    assert "--output nowhere/answers.csv" in str(out.exception)


# ---- The tree, and what is known beforehand


def test_answers_down_the_tree_fit_together_at_all_ranks(folder):
    Path("taxa.csv").write_text(TAXA_CSV.replace("Green,,leaf", "Green,green,leaf"))
    for colour in COLOURS:
        answers = {}
        for rank in ("kingdom", "order", "genus", "species"):
            call_ = call(
                f"pictures/{colour}.png",
                "--taxa",
                "taxa.csv",
                "--decode",
                "top_down",
                "--rank",
                rank,
            )
            answers[rank] = rows_of(call_.stdout)
        firsts = [list(answer[0].values())[1:-1] for answer in answers.values()]
        for above, below, depth in zip(firsts, firsts[1:], (1, 4, 6), strict=False):
            assert below[:depth] == above[:depth], colour
        # The others are children of the same genus.
        assert {row["genus"] for row in answers["species"]} == {answers["genus"][0]["genus"]}


def test_a_prior_of_a_dataset_moves_answers(folder):
    Path("counts.csv").write_text("genus,species,train\nMare,blue,1000000\n")
    plain, moved = (
        rows_of(call("pictures/red.png", "--taxa", "taxa.csv", *more).stdout)[0]["species"]
        for more in ((), ("--prior", "counts.csv", "--prior-strength", "50"))
    )
    assert (plain, moved) == ("Ignis red", "Mare blue")


# ---- Bad pictures


def test_a_bad_picture_is_named_and_the_others_are_predicted(folder):
    Path("pictures/broken.png").write_bytes(square("red")[:30])
    names = ["pictures/broken.png", "pictures/red.png", "pictures/missing.png"]
    out = call(*names, "--taxa", "taxa.csv", "--k", "1")
    assert out.exit_code == 3
    rows = rows_of(out.stdout)
    assert [row["file_name"] for row in rows] == names
    assert [row["error"] for row in rows][1:] == ["", "No such file or directory"]
    assert "not a picture" in rows[0]["error"] and not rows[0]["score"]
    assert "pictures/broken.png: " in out.stderr
    assert "pictures/missing.png: No such file or directory" in out.stderr
    assert "2 of 3 pictures could not be read" in out.stderr


def test_nothing_but_bad_pictures_is_a_failure(folder):
    out = call("missing.png", "--labels", "labels.txt")
    assert out.exit_code == 1
    assert [row["error"] for row in rows_of(out.stdout)] == ["No such file or directory"]


# ---- Arguments


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "either --labels FILE or --taxa CSV"),
        (["--labels", "labels.txt", "--taxa", "taxa.csv"], "either --labels FILE or --taxa CSV"),
        (["--labels", "labels.txt", "--rank", "genus"], "--rank needs the lineages of --taxa"),
        (["--labels", "labels.txt", "--within", "class=Aves"], "--within needs the lineages"),
        (["--labels", "labels.txt", "--names", "labels"], "or --names DIR"),
        (["--labels", "labels.txt", "--decode", "top_down"], "--decode needs the lineages"),
        (["--labels", "labels.txt", "--prior", "x.csv"], "--prior needs the lineages of --taxa"),
        (["--taxa", "taxa.csv", "--prior-strength", "1"], "goes with --prior"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, options, message):
    out = call("pictures/red.png", *options)
    assert isinstance(out.exception, UsageError)
    assert message in str(out.exception)
