"""What ftfy and `html.unescape` do to a text before CLIP tokenizes it, fast.

ftfy costs more than all the rest of the tokenizer and changes few texts. What it does to single
characters is mirrored here from its tables; the texts that may be mojibake are left to it.
"""

import html
import re
import unicodedata

import ftfy
from ftfy import badness, chardata, fixes

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_LEFT_TO_FTFY = re.compile("[\x80-\x9f\ud800-\udfff]")  # C1 controls, halves of pairs

# ftfy leaves alone printable ASCII, the scripts below, and an accented letter or × between ASCII:
# mojibake, as ftfy defines it, is an odd meeting of two other characters, or holds one of "ÂÃŒœ".
# No character here has another NFC form.
_ACCENTED = "×À-ÁÄ-ÖØ-öø-ıĴ-ňŊ-őŔ-ſ"
_SCRIPTS = (
    "Α-ΡΣ-ώЁА-яёԱ-Ֆա-ևא-תء-غف-ي\u0904-\u093b\u093d-\u094c\u0e01-\u0e37\u0e40-\u0e47"
    "\u0e81-\u0eb7\u10d0-\u10fa\u1200-\u1357\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff"
    "\uac00-\ud7a3\u200d\u20e3\u2600-\u27bf\ufe0f\U0001f1e6-\U0001faff"  # the last are emoji
)
_NEEDS_CLEANING = re.compile(
    rf"[^\t -~{_ACCENTED}{_SCRIPTS}]|&[^ ]|[{_ACCENTED}][^\x00-\x7f]|[^\x00-\x7f][{_ACCENTED}]"
)

# Without one of these nothing is mojibake; "common" characters are it beside others alone.
_ODD = re.compile(
    "[ŒœÂÃÎÐàØÙ°µ×√≈‚вЂГβā\x80-\x9f\ud800-\udfff"
    + "".join(x for kind, x in badness.MOJIBAKE_CATEGORIES.items() if "common" not in kind)
    + "]"
)

# What ftfy puts for single characters: before it takes out what controls terminals, and at last.
_QUOTES_AND_BREAKS = "\u02bc\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\r\u2028\u2029"
_CODES = {*chardata.LIGATURES, *chardata.WIDTH_MAP, *chardata.CONTROL_CHARS}
_BEFORE_ESCAPES = {
    code: fixes.fix_line_breaks(
        fixes.uncurl_quotes(fixes.fix_character_width(fixes.fix_latin_ligatures(chr(code))))
    )
    for code in _CODES.union(map(ord, _QUOTES_AND_BREAKS))
}
_REPLACED = {chr(code): fixes.remove_control_chars(x) for code, x in _BEFORE_ESCAPES.items()}
_REPLACEABLE = re.compile("[" + "".join(map(re.escape, _REPLACED)) + "]")


def mend(text: str) -> str:
    """Mends mojibake and resolves HTML entities, twice, as CLIP does; white space may differ."""
    plain = text.isascii() and text.isprintable() and "&" not in text
    if plain or not _NEEDS_CLEANING.search(text):
        return text
    text = fix(text)
    return html.unescape(html.unescape(text)) if "&" in text else text


def fix(text: str) -> str:
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
    while True:
        before = text
        if unescape and "&" in text:
            text = fixes.unescape_html(text)
        plain = text.isascii()
        if not plain and _is_left_to_ftfy(text):
            return None
        text = text.replace("\r\n", "\n")
        if "\x1b" in text:
            text = fixes.remove_terminal_escapes(text.translate(_BEFORE_ESCAPES))
        text = _REPLACEABLE.sub(lambda match: _REPLACED[match[0]], text)
        text = text if plain else unicodedata.normalize("NFC", text)
        if text == before or not _NEEDS_CLEANING.search(text):
            return text


def _is_left_to_ftfy(text: str) -> bool:
    """Whether a character needs ftfy itself, or `badness.is_bad(text)`.

    The latter looks at up to seven characters, and always at two neighbours that are not ASCII or
    at one of four letters; so it is asked about few places, or none.
    """
    if not _ODD.search(text):
        return False
    for match in _NOT_ASCII.finditer(text):
        run = match[0]
        if not _ODD.search(run):
            continue
        if _LEFT_TO_FTFY.search(run):
            return True
        start, end = max(match.start() - 7, 0), match.end() + 7
        may_be_bad = len(run) > 1 or run in "ŒœÂÃ"
        if may_be_bad and badness.BADNESS_RE.search(text, start, end):
            return True
    return False
