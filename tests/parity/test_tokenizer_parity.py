"""Token for token against open_clip itself, on generated names and on any Unicode."""

import numpy as np
import pytest
import texts

from bioclip2_jax.text.templates import IMAGENET_TEMPLATES
from bioclip2_jax.text.tokenizer import tokenize

pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
measures = pytest.importorskip("measures")


@pytest.mark.parametrize(("kind", "count"), [("texts", 200_000), ("hostile_texts", 20_000)])
def test_every_id_equals_that_of_open_clip(kind, count):
    differing, _, _ = measures.token_mismatches(getattr(texts, kind)(count))
    assert not differing, f"{len(differing)} texts differ, the first {differing[0]!r}"


def test_texts_are_cut_to_other_lengths_as_there():
    given = texts.hostile_texts(5_000)
    theirs = open_clip.tokenizer.SimpleTokenizer()(given, 16).numpy()
    np.testing.assert_array_equal(tokenize(given, 16), theirs)


def test_templates_equal_those_of_open_clip():
    theirs = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert list(IMAGENET_TEMPLATES) == theirs
