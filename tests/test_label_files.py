"""Names that come with their features, lists kept on disk, and lists longer than memory."""

import csv
import io
import json

import numpy as np
import pytest
from click.testing import CliRunner
from colour_world import COMMON, TAXA, ColourModel, square

from bioclip2_jax.cli.labels import labels as labels_command
from bioclip2_jax.cli.predict import predict as predict_command
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features.encode import embed_classes
from bioclip2_jax.identify import label_features, label_files, predict
from bioclip2_jax.identify.name_lists import choose
from bioclip2_jax.measures import streamed
from bioclip2_jax.measures.scores import probabilities, sum_groups, top_k, unit
from bioclip2_jax.text.templates import IMAGENET_TEMPLATES

RNG = np.random.default_rng(0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a table, its label files, and a picture of every colour."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bioclip2_jax.weights.load.load", lambda *_: ColourModel())
    header = "kingdom,phylum,class,order,family,genus,species,vernacularName"
    rows = [",".join((*taxon.ranks, COMMON[name])) for name, taxon in TAXA.items()]
    (tmp_path / "taxa.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "photos").mkdir()
    for colour in TAXA:
        (tmp_path / "photos" / f"{colour}.png").write_bytes(square(colour))
    call(labels_command, "taxa.csv", "--out", "labels")
    return tmp_path


def call(command, *arguments):
    done = CliRunner().invoke(command, [*arguments, "--model", "m"])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def assert_alike(one: str, two: str) -> None:
    """Two answers: the same names, with scores that agree to some digits."""
    pair = [list(csv.DictReader(io.StringIO(text))) for text in (one, two)]
    assert len(pair[0]) == len(pair[1]) > 8
    for rows in zip(*pair, strict=True):
        scores = [float(row.pop("score")) for row in rows]
        assert scores[0] == pytest.approx(scores[1], rel=1e-3)
        assert rows[0] == rows[1]


def write_pair(folder, name="txt_emb_species", count=4, dim=4, **changes):
    folder.mkdir(exist_ok=True)
    features = unit(RNG.normal(size=(count, dim))).T.astype(np.float32)
    features[:, changes.get("empty", [])] = 0
    np.save(folder / f"{name}.npy", features)
    names = [[list(taxon.ranks), COMMON[colour]] for colour, taxon in TAXA.items()]
    (folder / f"{name}.json").write_text(json.dumps(names))
    return features


# ---- Files


def test_label_files_answer_as_the_table_that_they_are_of(here):
    by_table = call(predict_command, "photos", "--taxa", "taxa.csv").stdout
    by_files = call(predict_command, "photos", "--names", "labels").stdout
    # The texts differ in a word or two, and colours are all that this model sees of them.
    assert_alike(by_files, by_table)
    assert "Ignis red" in by_files
    part = call(
        predict_command, "photos", "--names", "labels", "--taxa", "taxa.csv",
        "--within", "order=Aves", "--without", "genus=Mare", "--rank", "family", "--k", "1",
    )  # fmt: skip
    assert part.stdout.count("Firidae") == 4
    assert "Aves is a class, which is taken" in part.stderr


def test_files_of_pybioclip_in_either_naming(tmp_path):
    features = write_pair(tmp_path / "new", "txt_emb_bioclip-2")
    found = label_files.read(tmp_path / "new")
    assert [taxon for taxon, _ in found.taxa] == list(TAXA.values())
    np.testing.assert_allclose(found.vectors.read(1, 4), features.T[1:], atol=1e-6)
    write_pair(tmp_path / "new", "txt_emb_species")
    with pytest.raises(UsageError, match="several lists of names .txt_emb_bioclip-2.npy, txt_emb"):
        label_files.read(tmp_path / "new")
    assert len(label_files.read(tmp_path / "new" / "txt_emb_bioclip-2.npy").taxa) == 4


def test_columns_of_zeros_are_named_and_never_answered(tmp_path):
    features = write_pair(tmp_path / "labels", empty=[1, 3])
    labels = choose(names=tmp_path / "labels")
    assert [row[6] for row in labels.rows] == ["red", "blue"]
    (note,) = labels.notes
    assert "2 of 4 names have no feature (zeros)" in note and "Ignis orange, Green" in note
    np.testing.assert_allclose(labels.vectors.read(0, 2), features.T[[0, 2]], atol=1e-6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "txt_emb_species.json").write_text("[]"), "4 features, .* has 0 names"),
        (lambda f: (f / "txt_emb_species.json").write_text("{}"), "no list of names"),
        (lambda f: (f / "txt_emb_species.json").unlink(), "no list of names"),
        (lambda f: (f / "txt_emb_species.npy").write_bytes(b"x"), "no features of names"),
        (lambda f: np.save(f / "txt_emb_species.npy", np.ones(4, np.float32)), "no features of"),
        (lambda f: np.save(f / "txt_emb_species.npy", np.full((4, 4), np.nan)), "not finite"),
        (lambda f: (f / "txt_emb_species.npy").unlink(), "no txt_emb_.* here"),
        (
            lambda f: (f / "txt_emb_species.json").write_text(json.dumps([[["a"], ""]] * 4)),
            "name 0 has 1 ranks",
        ),
    ],
)
def test_damaged_label_files_are_one_sentence(tmp_path, damage, message):
    write_pair(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        label_files.read(tmp_path)


def test_label_files_of_another_model_are_refused(here, monkeypatch):
    other = ColourModel(params={"weight": np.ones(3, np.float32)})
    monkeypatch.setattr("bioclip2_jax.weights.load.load", lambda *_: other)
    with pytest.raises(UsageError, match="features of another model"):
        call(predict_command, "photos", "--names", "labels")
    write_pair(here / "wide", dim=7)
    with pytest.raises(UsageError, match="features of 7 numbers, the model's have 4"):
        call(predict_command, "photos", "--names", "wide")


# ---- Kept on disk


def test_a_list_is_encoded_once(tmp_path, monkeypatch):
    monkeypatch.setenv(label_features.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(label_features, "KEPT_FROM", 4)
    monkeypatch.setattr(label_features, "_PIECE", 2)
    asked = []

    def embed(model, names, *arguments):
        asked.extend(names)
        return embed_classes(model, names, *arguments)

    monkeypatch.setattr(label_features, "embed_classes", embed)
    names = ["red", "blue", "green", "orange", "red green"]
    first = label_features.features_of(ColourModel(), names, 8)
    whole = embed_classes(ColourModel(), names, 8, IMAGENET_TEMPLATES)
    np.testing.assert_allclose(first, whole, atol=1e-6)
    assert asked == names and len(list((tmp_path / "names").iterdir())) == 3
    again = label_features.features_of(ColourModel(), [*names, "blue"], 8)
    assert asked == [*names, "red green", "blue"]  # the piece at the end alone
    np.testing.assert_array_equal(again[:4], first[:4])
    other = ColourModel(params={"weight": np.ones(3, np.float32)})
    label_features.features_of(other, names, 8)
    assert len(asked) == 12
    for path in (tmp_path / "names").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    np.testing.assert_array_equal(label_features.features_of(ColourModel(), names, 8), first)


def test_a_folder_that_cannot_be_written_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(label_features.FOLDER_VARIABLE, str(tmp_path / "file"))
    monkeypatch.setattr(label_features, "KEPT_FROM", 1)
    assert label_features.features_of(ColourModel(), ["red"], 8).shape == (1, 4)


# ---- Longer than memory


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("prior", [False, True])
def test_the_best_by_stretches_are_those_of_the_whole(grouped, prior):
    names = unit(RNG.normal(size=(150, 16))).astype(np.float32)
    if not grouped:
        names[77] = names[3]  # a tie: the lower one first
    pictures = unit(names[[3, 50, 149]] + 0.1 * RNG.normal(size=(3, 16))).astype(np.float32)
    groups = RNG.permutation(np.arange(150) % 20) if grouped else None
    bonus = np.log(RNG.integers(1, 99, 150)) if prior else None
    found = streamed.LongList(
        lambda first, stop: names[first:stop], 150, bonus=bonus, groups=groups, stretch=64
    )
    places, shares, own = found.best(pictures, 50.0, 5)
    dense = probabilities(pictures, names, 50.0)
    if prior:
        dense = dense * np.exp(bonus)
        dense /= dense.sum(axis=1, keepdims=True)
    dense = sum_groups(dense, groups) if grouped else dense
    assert np.array_equal(places, top_k(dense, 5))
    np.testing.assert_allclose(shares, np.take_along_axis(dense, places, 1), rtol=1e-4)
    assert np.array_equal(own, shares)
    assert found.best(pictures, 50.0, 999)[0].shape == (3, 20 if grouped else 150)
    # With more on each logit, and what the answers' shares are without it.
    extra = RNG.normal(size=150)
    more = probabilities(pictures, names, 50.0) * np.exp(extra if bonus is None else bonus + extra)
    more /= more.sum(axis=1, keepdims=True)
    more = sum_groups(more, groups) if grouped else more
    places, shares, own = found.best(pictures, 50.0, 5, extra=extra)
    np.testing.assert_allclose(shares, np.take_along_axis(more, places, 1), rtol=1e-4)
    np.testing.assert_allclose(own, np.take_along_axis(dense, places, 1), rtol=1e-3)


def test_long_lists_are_asked_by_stretches(here, monkeypatch):
    for options in (["--names", "labels"], ["--taxa", "taxa.csv", "--rank", "order"]):
        short = call(predict_command, "photos", *options).stdout
        monkeypatch.setattr(streamed, "LONG", 2)
        long = call(predict_command, "photos", *options).stdout
        monkeypatch.undo()
        monkeypatch.chdir(here)
        monkeypatch.setattr("bioclip2_jax.weights.load.load", lambda *_: ColourModel())
        assert_alike(short, long)
    monkeypatch.setattr(streamed, "LONG", 2)
    with pytest.raises(UsageError, match="4 names are too many"):
        predict.Namer(ColourModel(), choose(taxa="taxa.csv"), decode="top_down")
