"""CLIP's byte-pair tokens, id for id those of open_clip's `SimpleTokenizer`."""

import functools
import gzip
import html
import re
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import chain

import ftfy
import numpy as np
import regex
from tokenizers import models

START, END = 49406, 49407
CONTEXT_LENGTH = 77
TOKEN_LENGTHS = (16, 24, 32, 48, 77)  # texts are cut to these, so few programs are compiled

_SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
_PIECES = regex.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
_CACHED_WORDS = 1 << 17

# ftfy costs more than all the rest and changes few texts. It leaves alone printable ASCII, the
# scripts below, and an accented letter or × between ASCII: mojibake, as ftfy defines it, is an odd
# meeting of two other characters, or holds one of "ÂÃŒœ". No character here has another NFC form.
_ACCENTED = "×À-ÁÄ-ÖØ-öø-ıĴ-ňŊ-őŔ-ſ"
_SCRIPTS = "Α-ΡΣ-ώЁА-яёא-תء-غف-ي\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
_NEEDS_CLEANING = re.compile(
    rf"[^ -%'-~{_ACCENTED}{_SCRIPTS}]|[{_ACCENTED}][^\x00-\x7f]|[^\x00-\x7f][{_ACCENTED}]"
)


def tokenize(texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH) -> np.ndarray:
    """Token ids with start and end marks, zero-padded.

    A text that is too long is cut and its last id becomes the end mark. The tables load on first
    use, in each process for itself; threads and forked or spawned workers may all call this.

    Args:
      texts: one text or several, any Unicode.
      context_length: tokens a row, at least 1.

    Returns:
      [n, context_length] int32.
    """
    if isinstance(texts, str):
        texts = [texts]
    encode = _words().__getitem__
    rows = np.zeros((len(texts), context_length), np.int32)
    for row, text in zip(rows, texts, strict=True):
        # Every word gives a token or more, so no further words can count.
        words = _clean(text).lower().split()[:context_length]
        ids = [START, *chain.from_iterable(map(encode, words))][: context_length - 1]
        ids.append(END)
        row[: len(ids)] = ids
    return rows


def _clean(text: str) -> str:
    """Mends mojibake and resolves HTML entities, twice, as CLIP does."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    return _mend(text) if _NEEDS_CLEANING.search(text) else text


@functools.lru_cache(1 << 12)
def _mend(text: str) -> str:
    return html.unescape(html.unescape(ftfy.fix_text(text)))


class _Words(dict[str, tuple[int, ...]]):
    """Lower-case words between blanks with their ids, filled on demand, emptied when full."""

    def __init__(self, encode_piece: Callable[[str], list[int]]):
        self.encode_piece = encode_piece

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= _CACHED_WORDS:
            self.clear()
        ids = tuple(chain.from_iterable(map(self.encode_piece, _PIECES.findall(word))))
        return self.setdefault(word, ids)


def tables() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token → id, without the two marks, and the pairs that are merged, best first."""
    symbols = _byte_alphabet().values()
    table = resources.files("bioclip2_jax.text").joinpath("merges.txt.gz").read_bytes()
    lines = gzip.decompress(table).decode("utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    tokens += ["".join(pair) for pair in merges]
    return {token: index for index, token in enumerate(tokens)}, merges


@functools.cache
def _words() -> _Words:
    alphabet = _byte_alphabet()
    vocabulary, merges = tables()
    pairs = models.BPE(vocabulary, merges, end_of_word_suffix="</w>")

    def encode_piece(piece: str) -> list[int]:
        if piece in _SPECIAL:
            return [_SPECIAL[piece]]
        symbols = piece.encode("utf-8").decode("latin-1").translate(alphabet)
        return [token.id for token in pairs.tokenize(symbols)]

    return _Words(encode_piece)


def _byte_alphabet() -> dict[int, str]:
    """Every byte as a visible character, in the order of the first 256 tokens.

    Printable Latin-1 stands for itself; the other bytes follow as U+0100 onwards (GPT-2).
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + position) for position, byte in enumerate(hidden)
    }
