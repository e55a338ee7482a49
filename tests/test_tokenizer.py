"""The tokenizer against ids written down from open_clip 3.3.0, and its conduct in programs."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import regex

import bioclip2_jax
from bioclip2_jax.text import tokenizer
from bioclip2_jax.text.tokenizer import END, START, tokenize

OPEN_CLIP_IDS = [
    ("", []),
    (" \t\n ", []),
    ("a photo of Ursus arctos.", [320, 1125, 539, 565, 3036, 4997, 6094, 269]),
    ("Malus × domestica Borkh.", [1662, 718, 16165, 21936, 2576, 1141, 7452, 269]),
    ("Anna's hummingbird, 12 cm", [2160, 568, 33072, 267, 272, 273, 3741]),
    ("Tomato___Late_blight", [9867, 13530, 2325, 318, 65, 1395]),
    ("MÜLLER\u2019s  \t Gazelle\n", [28142, 7722, 568, 4837, 4765]),
    (
        "ニホンザル 日本猿",
        [2429, 233, 2429, 249, 45105, 114, 2429, 360, 39121, 44353, 163, 234, 379],
    ),
    ("الثعلب الأحمر", [12973, 148, 104, 18843, 14251, 35330, 12973, 148, 96, 25722, 12986, 24933]),
    ("กวางป่า", [31474, 100, 12330, 229, 1777, 505, 11722, 38476]),
    ("\U0001f98a\U0001f469\u200d\U0001f52c", [6040, 232, 26304, 44227]),
    ("&amp;lt;b&amp;gt; &eacute;l&eacute;phant", [283, 321, 285, 3459, 39641, 745, 773]),
    ("MÃ¼ller schÃ¶n", [28142, 7722, 844, 7255, 333]),
    ("ﬁn ＷＩＤＥ ﾊﾝ", [10663, 3184, 2429, 237, 26875]),
    ("<start_of_text>fox<END_OF_TEXT>", [START, 3240, END]),
    ("don'T we'ſ İstanbul", [847, 713, 649, 6, 129, 379, 328, 16384, 11231]),
    ("e\u0301toile \x00\x1b[31mred\x1b[0m \ud800", [3459, 580, 989, 736, 39802]),
    ("½ Ⅷ x² ٣", [33613, 158, 227, 371, 343, 41175, 149, 352]),
]


@pytest.mark.parametrize(("text", "ids"), OPEN_CLIP_IDS)
def test_ids_are_those_of_open_clip(text, ids):
    row = tokenize(text)[0]
    assert row[: len(ids) + 2].tolist() == [START, *ids, END]
    assert not row[len(ids) + 2 :].any()


def test_a_batch_is_its_texts_row_by_row():
    texts = [text for text, _ in OPEN_CLIP_IDS]
    batch = tokenize(texts)
    assert batch.shape == (len(texts), 77) and batch.dtype == np.int32
    np.testing.assert_array_equal(batch, np.concatenate([tokenize(text) for text in texts]))
    assert tokenize([]).shape == (0, 77)


@pytest.mark.parametrize("length", [1, 2, 8, 77, 100])
def test_a_long_text_is_cut_and_ends_with_the_end_mark(length):
    row = tokenize("fox " * 300, length)[0]
    assert row.tolist() == [START, *[3240] * 98][: length - 1] + [END]


def test_one_endless_word_is_cut_too():
    row = tokenize("é" * 5000)[0]
    assert row[0] == START and row[-1] == END and (row[1:-1] > 0).all()


def test_the_package_offers_the_tokenizer():
    np.testing.assert_array_equal(bioclip2_jax.tokenize("fox")[0, :3], [START, 3240, END])


def test_no_word_is_without_a_token():
    blanks = regex.findall(r"\s", "".join(map(chr, range(0x110000))))
    assert all(blank.isspace() for blank in blanks)


def test_a_full_cache_changes_nothing(monkeypatch):
    texts = [f"species number {number}" for number in range(50)]
    expected = tokenize(texts)
    monkeypatch.setattr(tokenizer, "_CACHED_WORDS", 3)
    tokenizer._words.cache_clear()
    np.testing.assert_array_equal(tokenize(texts), expected)
    assert len(tokenizer._words()) <= 3
    tokenizer._words.cache_clear()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_tokenise_alike(method):
    # In a process of its own: forking this one would copy whatever threads other tests left.
    code = f"""
import multiprocessing
from bioclip2_jax.text.tokenizer import tokenize
texts = ["a photo of Ursus arctos.", "Malus × domestica", "MÃ¼ller &amp; schÃ¶n"]
expected = tokenize(texts)
with multiprocessing.get_context("{method}").Pool(2) as pool:
    for rows in pool.map(tokenize, [texts] * 4):
        assert (rows == expected).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_function_can_be_pickled():
    assert pickle.loads(pickle.dumps(tokenize)) is tokenize


def test_nothing_is_loaded_before_the_first_text():
    code = (
        "import sys; from bioclip2_jax.text import tokenizer as t;"
        "assert t._words.cache_info().currsize == 0; t.tokenize('fox');"
        "assert t._words.cache_info().currsize == 1; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
