"""`bioclip2 search`: exact, in a store of several files."""

import csv
import html.parser
import io
from dataclasses import replace

import numpy as np
import pytest
from colour_world import COLOURS, ColourModel, square, write_world
from commands import bioclip2

from bioclip2_jax.errors import UserError
from bioclip2_jax.features import duplicates, embed, parts
from bioclip2_jax.features.library import Library
from bioclip2_jax.features.search import best
from bioclip2_jax.features.sources import open_source
from bioclip2_jax.weights import load as loading


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Pictures of four colours, red twice, and their store; all models know colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel())
    (tmp_path / "photos").mkdir()
    for name in (*COLOURS, "red2"):
        (tmp_path / "photos" / f"{name}.png").write_bytes(square(name.rstrip("2")))
    make_store("photos", "store")
    return tmp_path


def make_store(source, out):
    embed.embed(ColourModel(), "model", open_source([source]), out, say=lambda line: None)


def rows_of(done):
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def write_store(folder, features, sizes, **changes):
    """A store of some features in files of these sizes; keys are k0, k1, and so on."""
    maker = parts.Maker("m", None, "0")
    about = parts.About(
        maker, ColourModel().preprocess, features.shape[1], "float16", {}, [], "0", **changes
    )
    for number, rows in enumerate(np.split(np.arange(len(features)), np.cumsum(sizes)[:-1])):
        made = [parts.Row(f"k{row}", int(row), {}, {}) for row in rows]
        parts.write_part(parts.part_path(folder, number), made, features[rows], about)
    whole = replace(about, num_parts=len(sizes), complete=True, num_rows=len(features))
    parts.write_about(folder, whole)
    return Library(folder)


def test_pictures_words_and_keys_find_their_like(place):
    queries = ("--image", "photos/blue.png", "--text", "green", "--key", "red.png")
    rows = rows_of(bioclip2("search", "store", *queries, "--k", 2))
    first = {row["query"]: row["key"] for row in rows if row["place"] == "1"}
    assert first == {
        "photos/blue.png": "blue.png",
        "green": "green.png",
        "red.png": "red2.png",  # and not itself
    }
    assert len(rows) == 6 and rows[0]["score"] == "1.000000"


class Page(html.parser.HTMLParser):
    """What of a page would be fetched, and its pictures and texts."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tags, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_the_sheet_holds_its_pictures_and_nothing_from_elsewhere(place):
    odd = "<b>&.png"
    (place / "photos" / odd).write_bytes(square("red"))
    make_store("photos", "store")
    (place / "photos" / "red2.png").unlink()
    done = bioclip2("search", "store", "--key", "red.png", "--html", "a.html", "--output", "a.csv")
    assert done.returncode == 0 and not done.stdout
    page = Page((place / "a.html").read_text())
    assert len(page.addresses) == 5  # the query, and all others but that which is gone
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert odd in page.texts and page.texts.count("red2.png") == 2  # its grey tile, and below it
    assert not {"script", "link"} & set(page.tags) and page.tags.count("b") == 5


def test_pictures_of_a_dataset_are_found_again(place):
    data = write_world(place / "data", {"red": 1, "blue": 1}, train=())
    make_store(str(data), "features")
    done = bioclip2("search", "features", "--text", "blue", "--k", 1, "--html", "a.html")
    row = rows_of(done)[0]
    assert row["scientificName"] == "Mare blue" and row["split"] == "val"
    assert len(Page((place / "a.html").read_text()).addresses) == 1


def test_near_duplicates_are_groups(place):
    done = bioclip2("search", "store", "--duplicates", 0.999, "--html", "a.html")
    rows = rows_of(done)
    assert [(row["group"], row["key"], row["nearest"]) for row in rows] == [
        ("1", "red.png", "red2.png"),
        ("1", "red2.png", "red.png"),
    ]
    assert "2 of 5 pictures in 1 groups" in done.stderr
    assert len(Page((place / "a.html").read_text()).addresses) == 2


def test_a_store_of_several_files_is_searched_exactly_and_equal_pictures_by_their_rows(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 8)).astype(np.float32)
    features[[7, 41, 58]] = features[3] * [[2], [3], [1]]
    library = write_store(tmp_path, features, [25, 15, 20])
    kept = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)
    kept = kept.astype(np.float64)
    cosines = kept @ kept.T / np.linalg.norm(kept, axis=1) / np.linalg.norm(kept, axis=1)[:, None]
    queries, rows = library.find(["k3", "k50"])
    for found, row in zip(best(library, queries, 30, rows), rows, strict=True):
        order = np.argsort(-cosines[row].round(12), kind="stable")
        expected = [other for other in order.tolist() if other != row][:30]
        assert [hit.row for hit in found] == expected
        assert [hit.entry.key for hit in found] == [f"k{other}" for other in expected]
        np.testing.assert_allclose([hit.score for hit in found], cosines[row, expected], atol=1e-7)
    assert len(best(library, queries, 100)[0]) == 60


@pytest.mark.parametrize("threshold", [0.99, 0.6, -1])
def test_near_duplicates_are_those_of_all_pairs(tmp_path, monkeypatch, threshold):
    monkeypatch.setattr(duplicates, "_BLOCK", 40)
    monkeypatch.setattr(duplicates, "CHUNK_ELEMENTS", 300)
    monkeypatch.setattr(duplicates, "_EDGES", 5)
    rng = np.random.default_rng(1)
    near = rng.standard_normal((40, 32)).repeat(3, axis=0)
    features = near + 0.1 * rng.standard_normal((120, 32)) * rng.integers(0, 3, (120, 1))
    features = features[rng.permutation(120)].astype(np.float32)
    library = write_store(tmp_path, features, [10, 25, 50, 35])
    units = np.concatenate([stretch for _, stretch in library.stretches()])
    cosines = units @ units.T - 3 * np.eye(120, dtype=np.float32)
    groups = list(range(120))  # of every row, by the slow way
    for a, b in np.argwhere(cosines >= threshold - 1e-6).tolist():
        groups = [groups[a] if group == groups[b] else group for group in groups]
    expected = {row for row in range(120) if cosines[row].max() >= threshold - 1e-6}
    found = duplicates.near_duplicates(library, threshold)
    assert {twin.row for twin in found} == expected and len(found) == len(expected) > 0
    for one in found:
        assert one.cosine == pytest.approx(cosines[one.row].max(), abs=2e-6)
        assert cosines[one.row, int(one.nearest[1:])] == pytest.approx(one.cosine, abs=2e-6)
        for other in found:
            is_one = groups[one.row] == groups[other.row]
            assert (one.group == other.group) == is_one
    assert [twin.group for twin in found] == sorted(twin.group for twin in found)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ((), "give --image, --text or --key, or --duplicates alone"),
        (("--key", "a", "--duplicates", 1), "give --image, --text or --key, or --duplicates alone"),
        (("--text", " "), "--text is empty"),
        (("--key", "bleu.png"), "--key bleu.png: no such picture in store; the nearest is blue"),
        (("--key", "red.png", "--k", 0), "Invalid value for '--k': 0 is not in the range x>=1"),
        (("--duplicates", 98), "Invalid value for '--duplicates': 98"),
    ],
)
def test_what_does_not_fit_is_refused(place, arguments, sentence):
    done = bioclip2("search", "store", *arguments)
    assert done.returncode == 2 and sentence in done.stderr


def test_models_and_stores_that_do_not_fit_are_refused(place, monkeypatch):
    (place / "photos" / "text.png").write_text("no picture")
    done = bioclip2("search", "store", "--image", "photos/text.png")
    assert done.returncode == 1 and "--image photos/text.png: not a picture" in done.stderr
    other = ColourModel(params={"weight": np.ones(3)})
    monkeypatch.setattr(loading, "load", lambda *_: other)
    for query in (("--text", "red"), ("--image", "photos/red.png")):
        done = bioclip2("search", "store", *query)
        assert done.returncode == 2 and "store: features of another model (model)" in done.stderr
    monkeypatch.undo()
    monkeypatch.chdir(place)
    done = bioclip2("search", "store", "--text", "red")
    assert done.returncode == 2
    assert "the model that made it (model) cannot be read" in done.stderr
    (place / "empty").mkdir()
    with pytest.raises(UserError, match="no picture in this store"):
        write_store(place / "empty", np.zeros((0, 4), np.float32), [0])
    parts.part_path("store", 0).unlink()
    done = bioclip2("search", "store", "--text", "red")
    assert done.returncode == 1 and "these features are not complete" in done.stderr
