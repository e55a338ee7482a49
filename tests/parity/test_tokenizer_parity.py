"""Token for token against open_clip itself, on generated names and on any Unicode."""

import random

import numpy as np
import pytest

from bioclip2_jax.text.templates import IMAGENET_TEMPLATES
from bioclip2_jax.text.tokenizer import tokenize

SCRIPTS = [
    *((0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x530, 0x58F), (0x590, 0x5FF)),
    *((0x600, 0x6FF), (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xD80, 0xDFF)),
    *((0xE00, 0xE7F), (0xF00, 0xFFF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF)),
    *((0x1200, 0x137F), (0x1780, 0x17FF), (0x1E00, 0x1FFF), (0x2000, 0x218F), (0x2190, 0x27BF)),
    *((0x3000, 0x30FF), (0x4E00, 0x5200), (0xAC00, 0xB000), (0xFB00, 0xFFFF), (0, 0x9F)),
    *((0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0, 0x10FFFF)),
]
FRAGMENTS = [
    *("&amp;", "&lt;b&gt;", "&amp;amp;lt;", "&#39;", "&#x41;", "&Eacute", "&nbsp;", "&#128;"),
    *("Ã©", "â€™", "Ã—", "ï¿½", "schÃ¶n", "Ð¡", "Å‚", "vÃ ", "Â ", "œ", "Œ."),
    *("<start_of_text>", "<END_OF_TEXT>", "<ſtart_of_text>", "'s", "'ſ", "'T", "don't", "we'VE"),
    *("İ", "ß", "ẞ", "Σ", "ΑΣ", "ﬁ", "ǆ", "K", "½", "Ⅷ", "²", "٣", "१", "1️⃣", "👩‍🔬", "🇧🇷", "…"),
    *("\x1b[31m", "\ufeff", "\u200b", "\u2028", "\x85", "\x1c", "\x00", "\r\n", "\t", "\ud83d"),
    *("L.", "(L.) Mill.", "Linnaeus, 1758", "Müller & Troschel", "d'Orbigny", "Lacépède", "×", "x"),
]


def _texts(count: int) -> list[str]:
    rng = random.Random(0)
    parts = [
        "acro",
        "bothr",
        "cara",
        "dendro",
        "eury",
        "ful",
        "gymno",
        "halo",
        "ichth",
        "lepto",
        "macro",
        "neo",
        "orni",
        "urs",
        "xantho",
    ]
    ends = ["a", "us", "um", "is", "ensis", "icus", "oides", "phila", "phorus"]

    def word() -> str:
        return rng.choice(parts) + rng.choice(parts) + rng.choice(ends)

    def name() -> str:
        return word().capitalize() + rng.choice([" ", " × ", " cf. ", " var. "]) + word()

    def letters() -> str:
        low, high = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 9)))

    makers = [name, name, word, letters, letters, lambda: rng.choice(FRAGMENTS)]
    texts = []
    for number in range(count):
        size = 60 if number % 200 == 0 else rng.randint(0, 6)
        texts.append(rng.choice(["", " ", " "]).join(rng.choice(makers)() for _ in range(size)))
    return texts


@pytest.mark.parametrize("length", [77, 16])
def test_every_id_equals_that_of_open_clip(open_clip, length):
    texts = _texts(5_000)
    ours = tokenize(texts, length)
    theirs = open_clip.tokenizer.SimpleTokenizer()(texts, length).numpy()
    differing = [texts[row] for row in np.flatnonzero((ours != theirs).any(axis=1))]
    assert not differing, f"{len(differing)} texts differ, the first {differing[0]!r}"


def test_templates_equal_those_of_open_clip(open_clip):
    theirs = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert list(IMAGENET_TEMPLATES) == theirs
