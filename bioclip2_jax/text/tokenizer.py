"""CLIP's byte-pair tokens, id for id those of open_clip's `SimpleTokenizer`."""

import functools
import gzip
import html
import re
from collections.abc import Callable, Sequence
from importlib import resources

import ftfy
import numpy as np
import regex
from tokenizers import Tokenizer, models

START, END = 49406, 49407
CONTEXT_LENGTH = 77

_SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
_CONTRACTIONS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d"
_WORDS = regex.compile(
    _CONTRACTIONS + r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
# The same split for lower-case ASCII, which nearly every caption is.
_ASCII_WORDS = re.compile(_CONTRACTIONS + r"|[a-z]+|[0-9]|[^\sa-z0-9]+")
_CACHED_WORDS = 1 << 18


def tokenize(
    texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH
) -> np.ndarray:
    """Token ids with start and end marks, zero-padded.

    A text that is too long is cut and its last id becomes the end mark.

    Args:
      texts: one text or several, any Unicode.
      context_length: tokens a row, at least 2.

    Returns:
      [n, context_length] int32.
    """
    if isinstance(texts, str):
        texts = [texts]
    encode_word = _word_encoder()
    rows = np.zeros((len(texts), context_length), np.int32)
    for row, text in zip(rows, texts, strict=True):
        ids = [START]
        for word in _split(text):
            ids += encode_word(word)
            if len(ids) >= context_length:
                break
        ids = [*ids[: context_length - 1], END]
        row[: len(ids)] = ids
    return rows


def _split(text: str) -> list[str]:
    """Cleans a text as CLIP does and splits it into words that byte pairs do not cross."""
    if text.isascii() and text.isprintable() and "&" not in text:
        # Nothing here that ftfy or html.unescape would change.
        return _ASCII_WORDS.findall(text.lower())
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _WORDS.findall(" ".join(text.split()).lower())


@functools.cache
def _word_encoder() -> Callable[[str], list[int]]:
    """Word → ids, remembered for the words met last."""
    alphabet = _byte_alphabet()
    table = resources.files("bioclip2_jax.text").joinpath("merges.txt.gz").read_bytes()
    lines = gzip.decompress(table).decode("utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines]
    tokens = [*alphabet.values(), *(symbol + "</w>" for symbol in alphabet.values())]
    tokens += ["".join(pair) for pair in merges]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))

    @functools.lru_cache(_CACHED_WORDS)
    def encode_word(word: str) -> list[int]:
        if word in _SPECIAL:
            return [_SPECIAL[word]]
        symbols = "".join(alphabet[byte] for byte in word.encode("utf-8"))
        return pairs.encode(symbols, add_special_tokens=False).ids

    return encode_word


def _byte_alphabet() -> dict[int, str]:
    """Every byte as a visible character, in the order of the first 256 tokens.

    Printable Latin-1 stands for itself; the other bytes follow as U+0100 onwards (GPT-2).
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + position) for position, byte in enumerate(hidden)
    }
