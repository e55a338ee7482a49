"""Mending without ftfy is what ftfy would have done."""

import re
import unicodedata

import ftfy
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip2_jax.text import mending

# Texts close to where cleaning is and is not needed, and any text at all.
_NEAR = st.text(st.sampled_from("ab ÀéÃÂŒœ×²ŉßſЯвЂΒ€ΞÖ漢あر&;\n\u0301\u2019."), max_size=12)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(_NEAR | st.text(max_size=12))
def test_skipping_ftfy_is_exact(text):
    if not mending._NEEDS_CLEANING.search(text):
        assert ftfy.fix_text(text) == text


_MENDED = st.lists(
    st.sampled_from(
        [*"aé ÃÂ\xa0œ°²×µ€™вЂŠß\r\n\t<&;3１ｂ“’ﬁŉĳ\u0301\x00\x1f\x85\u2028\ufeff\ud83d漢"]
    )
    | st.sampled_from(["\x1b[31m", "&amp;", "&lt;", "&#39;", "&EACUTE;", "\r\n", "schÃ¶n", "â€™"]),
    max_size=10,
).map("".join)


@settings(max_examples=600, derandomize=True, deadline=None)
@given(_MENDED | _NEAR)
def test_texts_are_mended_as_by_ftfy_up_to_white_space(text):
    assert mending.fix(text).split() == ftfy.fix_text(text).split()


def test_characters_that_skip_ftfy_are_untouched_by_it():
    pattern = mending._NEEDS_CLEANING
    skipping = [c for c in map(chr, range(0x110000)) if not pattern.search(c)]
    assert len(skipping) > 30_000
    assert all(unicodedata.is_normalized("NFC", c) for c in skipping)
    assert ftfy.fix_text("\n".join(skipping)) == "\n".join(skipping)
    for accented in re.findall(rf"[{mending._ACCENTED}]", "".join(skipping)):
        for text in (f"{accented} {accented}a", f"a{accented}.", f"z {accented}-{accented}"):
            assert ftfy.fix_text(text) == text
