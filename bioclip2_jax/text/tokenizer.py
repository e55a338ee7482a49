"""CLIP's byte-pair tokens, id for id those of open_clip's `SimpleTokenizer`."""

import functools
import gzip
from array import array
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import chain

import numpy as np
import regex
from tokenizers import models

from bioclip2_jax.text.mending import mend

START, END = 49406, 49407
CONTEXT_LENGTH = 77
# Texts are cut to these, so that few programs are compiled.
TOKEN_LENGTHS = (16, 24, 32, 36, 40, 44, 48, 64, 77)

_SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
_PIECES = regex.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
_CACHED_WORDS = 1 << 17


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
    start, end = (np.int32(mark).tobytes() for mark in (START, END))
    size = len(start) * context_length
    rows = bytearray(size * len(texts))
    for place, text in zip(range(0, len(rows), size), texts, strict=True):
        # Every word gives a token or more, so no further words can count.
        words = mend(text).lower().split(None, context_length)[:context_length]
        row = (start + b"".join(map(encode, words)))[: size - len(end)] + end
        rows[place : place + len(row)] = row
    return np.frombuffer(rows, np.int32).reshape(-1, context_length)


class _Words(dict[str, bytes]):
    """Lower-case words between blanks with their int32 ids, filled on demand, emptied when full."""

    def __init__(self, encode_piece: Callable[[str], list[int]]):
        self.encode_piece = encode_piece

    def __missing__(self, word: str) -> bytes:
        if len(self) >= _CACHED_WORDS:
            self.clear()
        pieces = [word] if word.isascii() and word.isalpha() else _PIECES.findall(word)
        ids = array("i", chain.from_iterable(map(self.encode_piece, pieces)))
        return self.setdefault(word, ids.tobytes())


def tables() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token → id, without the two marks, and the pairs that are merged, best first."""
    symbols = _byte_alphabet().values()
    table = resources.files("bioclip2_jax.text").joinpath("merges.txt.gz").read_bytes()
    lines = gzip.decompress(table).decode("utf-8").splitlines()
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    tokens += ["".join(pair) for pair in merges]
    return {token: index for index, token in enumerate(tokens)}, merges


@functools.cache
def _words() -> _Words:
    alphabet = _byte_alphabet()
    vocabulary, merges = tables()
    # Its own cache would keep every word twice.
    pairs = models.BPE(vocabulary, merges, end_of_word_suffix="</w>", cache_capacity=0)

    def encode_piece(piece: str) -> list[int]:
        if piece in _SPECIAL:
            return [_SPECIAL[piece]]
        symbols = piece
        if not (piece.isascii() and piece.isprintable()):
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
