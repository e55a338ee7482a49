"""CLIP's byte-pair tokens, id for id those of open_clip's `SimpleTokenizer`."""

import functools
import gzip
import html
import re
import unicodedata
from array import array
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import chain
from typing import NamedTuple

import ftfy
import numpy as np
import regex
from ftfy import badness, chardata, fixes
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
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_LEFT_TO_FTFY = re.compile("[\x80-\x9f\ud800-\udfff]")  # C1 controls, halves of pairs

# ftfy costs more than all the rest and changes few texts. It leaves alone printable ASCII, the
# scripts below, and an accented letter or × between ASCII: mojibake, as ftfy defines it, is an odd
# meeting of two other characters, or holds one of "ÂÃŒœ". No character here has another NFC form.
_ACCENTED = "×À-ÁÄ-ÖØ-öø-ıĴ-ňŊ-őŔ-ſ"
_SCRIPTS = (
    "Α-ΡΣ-ώЁА-яёԱ-Ֆա-ևא-תء-غف-ي\u0904-\u093b\u093d-\u094c\u0e01-\u0e37\u0e40-\u0e47"
    "\u0e81-\u0eb7\u10d0-\u10fa\u1200-\u1357\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff"
    "\uac00-\ud7a3\u200d\u20e3\u2600-\u27bf\ufe0f\U0001f1e6-\U0001faff"  # the last are emoji
)
_NEEDS_CLEANING = re.compile(
    rf"[^\t -~{_ACCENTED}{_SCRIPTS}]|&[^ ]|[{_ACCENTED}][^\x00-\x7f]|[^\x00-\x7f][{_ACCENTED}]"
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
    start, end = (np.int32(mark).tobytes() for mark in (START, END))
    size = len(start) * context_length
    rows = bytearray(size * len(texts))
    for place, text in zip(range(0, len(rows), size), texts, strict=True):
        # Every word gives a token or more, so no further words can count.
        words = _clean(text).lower().split(None, context_length)[:context_length]
        row = (start + b"".join(map(encode, words)))[: size - len(end)] + end
        rows[place : place + len(row)] = row
    return np.frombuffer(rows, np.int32).reshape(-1, context_length)


def _clean(text: str) -> str:
    """Mends mojibake and resolves HTML entities, twice, as CLIP does."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    return _mend(text) if _NEEDS_CLEANING.search(text) else text


def _mend(text: str) -> str:
    text = _fix(text)
    return html.unescape(html.unescape(text)) if "&" in text else text


def _fix(text: str) -> str:
    """`ftfy.fix_text(text)` up to the kind of white space, mostly without calling it.

    ftfy mends a line again and again until nothing changes. What it does to single characters and
    to entities is done here; whatever may be mojibake is left to ftfy, from the beginning.
    """
    lines, unescape = [], True
    for line in _LINES.findall(text) if "\n" in text else [text]:
        unescape = unescape and "<" not in line  # from a "<" onwards ftfy leaves entities alone
        fixed = _fix_line(line, unescape)
        if fixed is None:
            return ftfy.fix_text(text)
        lines.append(fixed)
    return "".join(lines)


def _fix_line(text: str, unescape: bool) -> str | None:
    tables = _fixers()
    while True:
        before = text
        if unescape and "&" in text:
            text = fixes.unescape_html(text)
        plain = text.isascii()
        if not plain and _is_left_to_ftfy(text, tables.odd):
            return None
        text = text.replace("\r\n", "\n")
        if "\x1b" in text:
            text = fixes.remove_terminal_escapes(text.translate(tables.before_escapes))
        text = tables.changed.sub(tables.replace, text)
        text = text if plain else unicodedata.normalize("NFC", text)
        if text == before or not _NEEDS_CLEANING.search(text):
            return text


def _is_left_to_ftfy(text: str, odd: re.Pattern) -> bool:
    """Whether a character needs ftfy itself, or `badness.is_bad(text)`.

    The latter looks at up to seven characters, and always at two neighbours that are not ASCII or
    at one of four letters; so it is asked about few places, or none.
    """
    if not odd.search(text):
        return False
    for found in _NOT_ASCII.finditer(text):
        run = found[0]
        if odd.search(run) and (
            _LEFT_TO_FTFY.search(run)
            or (len(run) > 1 or run in "ŒœÂÃ")
            and badness.BADNESS_RE.search(text, max(found.start() - 7, 0), found.end() + 7)
        ):
            return True
    return False


class _Fixers(NamedTuple):
    odd: re.Pattern  # the characters without which nothing is mojibake
    changed: re.Pattern  # characters that ftfy replaces wherever they stand
    replace: Callable[[re.Match], str]  # and with what
    before_escapes: dict[int, str]  # the same without control characters


@functools.cache
def _fixers() -> _Fixers:
    common = ("common", "lower_common", "upper_common")  # bad beside others alone
    odd = "".join(v for k, v in badness.MOJIBAKE_CATEGORIES.items() if k not in common)
    replacements, before_escapes = {}, {}
    quotes = "\u02bc\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f"
    keys = {*chardata.LIGATURES, *chardata.WIDTH_MAP, *chardata.CONTROL_CHARS}
    for code in keys | set(map(ord, quotes + "\r\u2028\u2029")):
        text = fixes.fix_character_width(fixes.fix_latin_ligatures(chr(code)))
        text = fixes.fix_line_breaks(fixes.uncurl_quotes(text))
        before_escapes[code] = text
        replacements[chr(code)] = fixes.remove_control_chars(text)
    changed = re.compile("[" + "".join(map(re.escape, replacements)) + "]")
    odd = re.compile(f"[{odd}ŒœÂÃÎÐàØÙ°µ×√≈‚вЂГβā\x80-\x9f\ud800-\udfff]")
    return _Fixers(odd, changed, lambda found: replacements[found[0]], before_escapes)


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
    merges = [tuple(line.split(" ")) for line in lines]
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
