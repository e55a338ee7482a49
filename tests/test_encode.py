import time

import jax
import numpy as np
import pytest
from colour_world import COLOURS, ColourModel, record, square

from bioclip2_jax.data.images import BadImage
from bioclip2_jax.errors import UserError
from bioclip2_jax.features import encode
from bioclip2_jax.features.encode import (
    embed_classes,
    embed_images,
    embed_split,
    embed_texts,
    spread,
)
from bioclip2_jax.models.clip import init_params
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.load import Model

NAMES = list(COLOURS)


def test_features_come_in_order_whatever_the_batch_size():
    model = ColourModel()
    pictures = [square(NAMES[i % 4]) for i in range(11)]
    whole = embed_images(model, 11, pictures.__getitem__, 64)
    whole = np.concatenate([batch.features for batch in whole])
    for size in (1, 4, 5):
        batches = list(embed_images(model, 11, pictures.__getitem__, size))
        assert [i for batch in batches for i in batch.indices] == list(range(11))
        assert np.array_equal(np.concatenate([b.features for b in batches]), whole)
    assert np.array_equal(whole[0], whole[4]) and not np.array_equal(whole[0], whole[1])


def test_all_image_batches_have_one_shape():
    model = ColourModel()
    list(embed_images(model, 11, lambda _: square("red"), 8))
    assert len(model.batch_shapes) == 1


def test_bad_pictures_are_set_aside_with_their_reason():
    def read(index: int) -> bytes:
        if index == 1:
            return b"no picture"
        if index == 2:
            raise FileNotFoundError(2, "No such file or directory")
        return square("blue")

    batches = list(embed_images(ColourModel(), 5, read, 2))
    assert [i for batch in batches for i in batch.indices] == [0, 3, 4]
    bad = dict(pair for batch in batches for pair in batch.bad)
    assert bad.keys() == {1, 2}
    assert "picture" in bad[1] and bad[2] == "No such file or directory"


def test_a_batch_of_bad_pictures_alone_has_no_features():
    (batch,) = embed_images(ColourModel(), 2, lambda _: b"", 8)
    assert batch.features.shape == (0, 4) and len(batch.bad) == 2


def test_no_picture_is_no_batch():
    assert list(embed_images(ColourModel(), 0, lambda _: b"", 8)) == []


def test_the_next_batch_is_decoded_while_one_is_encoded():
    started = []

    def read(index: int) -> bytes:
        started.append(index)
        return square("red")

    class Slow(ColourModel):
        def encode_image(self, images, normalize=True):
            time.sleep(0.2)
            seen.append(len(started))
            return super().encode_image(images, normalize)

    seen: list[int] = []
    list(embed_images(Slow(), 24, read, 8))
    assert seen[0] == 16


def test_a_split_keeps_keys_taxa_and_datasets_beside_the_features():
    source = [record("red", 0), record("green", 1, "other"), record("blue", 2)]
    source[0]["image"] = source[0]["image"][:40]
    found = embed_split(ColourModel(), source, 2)
    assert found.keys == ["green1", "blue2"]
    assert found.indices.tolist() == [1, 2]
    assert [taxon.scientific_name for taxon in found.taxa] == ["Green", "Mare blue"]
    assert found.datasets == ["other", "squares"]
    assert [key for key, _ in found.bad] == ["red0"]


def test_a_record_that_cannot_be_read_at_all_is_named_by_its_number():
    class Damaged(list):
        def __getitem__(self, index):
            if index == 1:
                raise OSError(5, "Input/output error")
            return super().__getitem__(index)

    found = embed_split(ColourModel(), Damaged([record("red", 0), record("blue", 1)]), 2)
    assert found.bad == [("record 1", "Input/output error")] and found.keys == ["red0"]


def test_a_split_without_a_readable_image_is_an_error():
    source = [record("red", 0) | {"image": b""}]
    with pytest.raises(UserError, match="no readable image"):
        embed_split(ColourModel(), source, 2)


def test_features_that_are_not_finite_are_an_error():
    class Diverged(ColourModel):
        def encode_image(self, images, normalize=True):
            return super().encode_image(images, normalize) * np.nan

    with pytest.raises(UserError, match="not finite"):
        list(embed_images(Diverged(), 1, lambda _: square("red"), 1))


def test_texts_keep_their_order_though_they_are_sorted_by_length():
    texts = ["a very long text about something that is red " * 3, "blue", "a green thing", "red"]
    model = ColourModel()
    features = embed_texts(model, texts, 2)
    expected = np.concatenate([embed_texts(model, [text], 2) for text in texts])
    assert np.array_equal(features, expected)
    assert np.array_equal(features[0], features[3])


def test_text_batches_are_cut_to_the_shortest_compiled_length():
    model = ColourModel()
    embed_texts(model, ["red"] * 16 + ["a " * 30 + "blue"] * 16, 16)
    assert {shape[1] for shape in model.batch_shapes} == {16, 36}


def test_texts_beyond_the_context_are_cut_to_it():
    model = ColourModel()
    embed_texts(model, ["word " * 200], 8)
    assert {shape[1] for shape in model.batch_shapes} == {77}


def test_a_class_is_the_normalised_mean_over_its_templates():
    class Counting(ColourModel):
        def encode_text(self, tokens):
            lengths = np.asarray(tokens).argmax(axis=1)
            angle = lengths / 10.0
            zero = np.zeros_like(angle)
            return np.stack([np.cos(angle), np.sin(angle), zero, zero], axis=1)

    model, templates = Counting(), ("{}", "a photo of a {}.")
    (vector,) = embed_classes(model, ["red"], 8, templates)
    mean = embed_texts(model, ["red", "a photo of a red."], 8).mean(axis=0)
    assert vector == pytest.approx(mean / np.linalg.norm(mean))
    assert np.linalg.norm(mean) < 0.999


def test_classes_in_several_portions_equal_one_portion(monkeypatch):
    names = [f"{colour} {number}" for number in range(9) for colour in NAMES]
    whole = embed_classes(ColourModel(), names, 32)
    monkeypatch.setattr(encode, "TEXTS_AT_A_TIME", 200)
    assert np.array_equal(embed_classes(ColourModel(), names, 32), whole)


def test_bad_image_is_the_only_decoder_error_that_is_caught():
    def read(index: int) -> bytes:
        raise (BadImage("odd") if index else ValueError("a bug"))

    with pytest.raises(ValueError, match="a bug"):
        list(embed_images(ColourModel(), 2, read, 2))


def test_several_devices_give_the_features_of_one(monkeypatch):
    config = ClipConfig(16, VisionConfig(16, 8, 32, 1, 32), TextConfig(32, 1, 1))
    model = Model(config, init_params(config, 0), Preprocess(16))
    source = [record(name, i) for i in range(3) for name in NAMES]

    def features() -> tuple[np.ndarray, np.ndarray]:
        wide = spread(model)
        texts = embed_classes(wide, NAMES, 16, ("a {}", "the {}."))
        return embed_split(wide, source, 5).features, texts

    assert jax.device_count() == 8
    many = features()
    first = jax.local_devices()[:1]
    monkeypatch.setattr(encode.jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(encode.jax, "local_devices", lambda: first)
    one = features()
    for name, left, right in zip(("image", "text"), many, one, strict=True):
        assert left == pytest.approx(right, abs=1e-6), name


def test_spreading_puts_the_parameters_on_every_device():
    config = ClipConfig(16, VisionConfig(16, 8, 32, 1, 32), TextConfig(32, 1, 1))
    model = spread(Model(config, init_params(config, 0), Preprocess(16)))
    for leaf in jax.tree.leaves(model.params):
        assert len(leaf.sharding.device_set) == 8 and leaf.sharding.is_fully_replicated
