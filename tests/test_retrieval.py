"""Search in both directions: of INQUIRE's layout, of any table, and of a dataset's captions."""

import csv
import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from colour_world import COLOURS, ColourModel, square, write_world
from commands import bioclip2

from bioclip2_jax.evaluation import run
from bioclip2_jax.weights import load as loading

DOCS = Path(__file__).parent.parent / "docs"
# Query → what it is called in INQUIRE, and which colours are relevant.
QUERIES = {
    "A red bird on fire": ("Appearance", "Birds", ["red"]),
    "Something orange": ("Appearance", "Birds", ["red"]),  # taken for another colour
    "a blue heron that waits": ("Behavior", "Birds", ["blue"]),
    "a green leaf": ("Behavior", "Plants", []),
}
EACH = 3


@pytest.fixture(autouse=True)
def model(monkeypatch):
    for module in (loading, run):
        monkeypatch.setattr(module, "load", lambda *_, **__: ColourModel())


def write_inquire(root: Path, *, rows: list[dict] | None = None, name: str = "test") -> Path:
    """Twelve squares for each query, in two files, as the Hub has them."""
    rows = rows or [
        {"image": {"bytes": square(colour), "path": f"{colour}{number}.jpg"}, "query": query}
        | {"relevant": int(colour in relevant), "clip_score": 0.5}
        | {"inat24_image_id": list(COLOURS).index(colour) * 100 + number}
        | {"supercategory": kind, "category": "Colours", "iconic_group": group}
        for query, (kind, group, relevant) in QUERIES.items()
        for number in range(EACH)
        for colour in COLOURS
    ]
    (root / "data").mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        path = root / "data" / f"{name}-{number:05d}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(part), path)
    return root


def evaluate(*arguments: object) -> str:
    done = bioclip2("evaluate", "--model", "m", "--tasks", "retrieval", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: object) -> str:
    done = bioclip2("evaluate", "--model", "m", "--tasks", "retrieval", *arguments)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    return done.stderr


def result(out: Path) -> dict:
    return json.loads((out / "retrieval.json").read_text())


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


# ---- INQUIRE-Rerank


def test_inquire_is_ranked_within_each_query(tmp_path):
    root, out = write_inquire(tmp_path / "INQUIRE-Rerank"), tmp_path / "out"
    write_inquire(root, name="validation", rows=[{"image": {"bytes": b"no"}, "query": "x"}])
    said = evaluate("--data", root, "--out", out)
    found = result(out)
    assert found["settings"]["split"] == "test" and found["settings"]["candidates"] == "own"
    assert (found["num_texts"], found["num_images"], found["num_without"]) == (4, 12, 1)
    assert found["mean_candidates"] == 12 and found["dataset"] == "INQUIRE-Rerank"
    assert "1 texts without a relevant image left out" in said
    figures = found["text_to_image"]["figures"]
    # Two of three find their three first; red is next to orange, and stands at places 4 to 6.
    fourth = (1 / 4 + 2 / 5 + 3 / 6) / 3
    assert figures["ap"] == figures["ap_50"] == pytest.approx((2 + fourth) / 3)
    assert figures["mrr"] == pytest.approx((1 + 1 + 1 / 4) / 3)
    assert figures["recall_1"] == pytest.approx(2 / 3 / 3)
    assert figures["hit_5"] == 1 and figures["hit_1"] == pytest.approx(2 / 3)
    assert 0 < found["text_to_image"]["chance"]["ap_50"] < 0.6
    groups = found["by_group"]
    assert groups["supercategory"]["Behavior"]["figures"]["ap"] == pytest.approx(1)
    assert groups["iconic_group"].keys() == {"Birds"}  # the plants have nothing to find
    assert groups["supercategory"]["Appearance"]["num_queries"] == 2
    texts = {row["query"]: row for row in rows(out / "retrieval_texts.csv")}
    assert texts["a green leaf"]["ap"] == "" and texts["a green leaf"]["num_relevant"] == "0"
    assert texts["Something orange"]["relevance_1"] == "0.0"
    # Pictures stand once, however many queries they were judged for; six are of something.
    assert found["image_to_text"]["num_queries"] == len(rows(out / "retrieval_images.csv")) == 6
    assert found["image_to_text"]["figures"]["hit_1"] == 1

    kept, again = tmp_path / "kept", tmp_path / "again"
    assert bioclip2("embed", root / "data", "--model", "m", "--out", kept).returncode == 0
    evaluate("--features", kept, "--data", root, "--out", again)
    same = ("text_to_image", "image_to_text", "by_group", "queries_sha256")
    assert [result(again)[name] for name in same] == [found[name] for name in same]
    assert not (again / "features").exists()


def test_what_is_wrong_with_the_parquet_is_named(tmp_path):
    root = tmp_path / "inquire"
    write_inquire(root, rows=[{"image": {"bytes": b"x"}, "query": "a", "relevent": 1}] * 2)
    assert "call one of them 'relevant' (there are query, relevent)" in refused(
        *("--data", root, "--out", tmp_path / "out")
    )
    write_inquire(root)
    assert "no Parquet files of split 'train'" in refused(
        "--data", root, "--split", "train", "--out", "o"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "nothing to search for here; give --queries" in refused("--data", empty, "--out", "o")


# ---- Any table


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two squares of each colour."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in COLOURS:
        for number in range(2):
            (folder / f"{colour}{number}.png").write_bytes(square(colour) + bytes([number]))
    return folder


HEADER = "query,file,relevant,category"


def test_a_table_of_pairs_is_searched_for_among_all_pictures(photos, tmp_path):
    path = table(
        tmp_path / "colours.tsv",
        *(line.replace(",", "\t") for line in (
            HEADER, "a red one,red0.png,2,warm", "A  Red one,red1.png,1,warm", "blue,blue0.png,1,",
            "blue,blue0.png,1,", "blue,lost.png,1,",
        )),
    )  # fmt: skip
    out = tmp_path / "out"
    said = evaluate("--data", photos, "--queries", path, "--out", out)
    found = result(out)
    assert found["settings"]["candidates"] == "all" and found["num_images"] == 8
    assert found["num_texts"] == 2 and found["num_doubled"] == 1
    assert found["bad"] == [{"key": "lost.png", "reason": "no such picture"}]
    assert "1 not read (lost.png: no such picture)" in said and "all among 8 images" in said
    figures = {row["query"]: row for row in rows(out / "retrieval_texts.csv")}
    assert float(figures["a red one"]["recall_5"]) == 1 and figures["blue"]["num_relevant"] == "1"
    assert found["by_group"]["category"].keys() == {"", "warm"}
    # Only the judged ones, if that is wanted: nothing can go wrong then.
    evaluate("--data", photos, "--queries", path, "--candidates", "own", "--out", tmp_path / "own")
    assert result(tmp_path / "own")["text_to_image"]["figures"]["ap"] == pytest.approx(1)
    assert result(tmp_path / "own")["num_images"] == 3


@pytest.mark.parametrize(
    "lines, said",
    [
        (["query,file", "a,red0.png"], "no column holds how relevant it is"),
        (["query,relevant", "a,1"], "no column holds the file or key of the picture"),
        ([HEADER, "a,red0.png,1,", "a,red0.png,0,"], "line 3: red0.png is of relevance 0 to 'a'"),
        ([HEADER, "a,red0.png,maybe,"], "line 2: relevance 'maybe'; it is 0 or 1"),
        ([HEADER, "a,red0.png,-1,"], "relevance '-1'"),
        ([HEADER, "a,,1,"], "line 2: no picture in this row"),
        ([HEADER, "a,red0.png,0,"], "no text has a relevant picture"),
        ([HEADER, "a,lost.png,1,"], "none of its 1 pictures has features"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(photos, tmp_path, lines, said):
    path = table(tmp_path / "queries.csv", *lines)
    assert said in refused("--data", photos, "--queries", path, "--out", tmp_path / "out")


def test_options_that_do_not_go_together_are_refused(photos, tmp_path):
    path = table(tmp_path / "queries.csv", HEADER, "a,red0.png,1,")
    call = ("--data", photos, "--queries", path, "--out", tmp_path / "out")
    assert f"--split val: {path} has no column of splits" in refused(*call, "--split", "val")
    done = bioclip2("evaluate", "--model", "m", *call)
    assert "--queries goes with --tasks retrieval" in done.stderr
    kept = tmp_path / "kept"
    assert bioclip2("embed", photos, "--model", "m", "--out", kept).returncode == 0
    done = bioclip2("evaluate", "--features", kept, "--tasks", "retrieval", "--out", "o")
    assert "retrieval encodes texts: give the --model" in done.stderr
    assert "whose pictures have no captions; give --queries" in refused(
        "--features", kept, *call[4:]
    )


# ---- Captions


def test_captions_of_a_dataset_are_queries_and_a_second_model_is_compared(tmp_path, monkeypatch):
    data = write_world(tmp_path / "birds", {"red": 4, "orange": 3, "blue": 2})
    evaluate("--data", data, "--out", tmp_path / "before")
    found = result(tmp_path / "before")
    assert (found["num_texts"], found["num_images"], found["num_pairs"]) == (3, 9, 9)
    assert found["settings"]["text_kind"] == "taxon_com" and found["settings"]["split"] == "val"
    figures = found["text_to_image"]["figures"]
    assert figures["hit_1"] == figures["recall_5"] == figures["ndcg_50"] == 1
    assert figures["recall_1"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3)
    assert found["image_to_text"]["figures"]["recall_1"] == 1

    other = ColourModel(confuse={"red": "blue"})
    monkeypatch.setattr(run, "load", lambda *_, **__: other)
    said = evaluate("--data", data, "--out", tmp_path / "out", "--compare-to", tmp_path / "before")
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())["retrieval"]
    hits = compared["text_to_image"]["hit_1"]
    assert hits["difference"] == pytest.approx(-1 / 3) and hits["num_queries"] == 3
    back = compared["image_to_text"]["hit_1"]
    assert back["first_only"] + back["second_only"] > 0 and back["num_queries"] == 9
    assert "retrieval, text to image: ndcg_50 1.000 and" in said
    told = bioclip2("compare", tmp_path / "before", tmp_path / "out")
    assert told.returncode == 0 and "retrieval, image to text: hit_1 1.000" in told.stdout
    evaluate("--data", data, "--text-kind", "sci", "--out", tmp_path / "sci")
    done = bioclip2("compare", tmp_path / "before", tmp_path / "sci")
    assert done.returncode == 1 and "searched for other texts" in done.stderr

    page = tmp_path / "page.html"
    done = bioclip2("report", "--results", tmp_path / "before", "--out", page)
    assert done.returncode == 0, done.stderr
    assert "Pictures of a text" in page.read_text() and "birds, val" in page.read_text()


# ---- The page


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, photos):
    monkeypatch.chdir(tmp_path)
    write_inquire(tmp_path / "INQUIRE-Rerank")
    write_world(tmp_path / "data" / "birds", {"red": 2, "blue": 1})
    table(tmp_path / "queries.csv", HEADER, "a red bird,red0.png,1,birds")
    section = (DOCS / "evaluation.md").read_text(encoding="utf-8").split("\n## Search\n")[1]
    block = re.findall(r"```sh\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    lines = "".join(block).replace("\\\n", " ").splitlines()
    lines = [line for line in lines if line.startswith("bioclip2 ")]
    assert len(lines) == 4
    for line in lines:
        done = bioclip2(*shlex.split(line)[1:])
        assert done.returncode == 0, f"{line}\n{done.stderr}"
