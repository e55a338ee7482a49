"""Names of organisms as people write them: cleaning, and what of a text is the name.

Nothing here knows a list of names. What cannot be told for sure is no name: a hole in a lineage
harms less than a wrong name.
"""

import functools
import html
import re
import unicodedata

_NULL = re.compile(
    r"[\W_]*|unknown|null|none|nil|nan|n/?a|n\.a|#n/a|<na>|\\n|\(null\)|#(ref|value|name)!"
    r"|not[ _](available|applicable|provided|recorded|known|identified|determined|assigned"
    r"|specified)|un(identified|determined|classified|assigned|placed|specified|named|defined)"
    r"|no[ _]data|incertae[ _]sedis",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?(?:[abiu]|em|strong|small|su[bp]|span|font)\b[^<>]*>", re.IGNORECASE)
_SEVERAL = re.compile("[|¦｜;；]")

# A cell of a rank that says, in whatever words, that nobody knows.
_NO_NAME = (
    r"un(?:known|identified|identifiable|determined|classified|assigned|placed|ranked|named"
    r"|described|specified|cultured|verified|certain)"
    r"|not (?:assigned|identified|determined|known|placed)|no (?:rank|name|match|id)|norank"
    r"|environmental samples?|metagenome|incertae sedis|inc\.? ?sed|indeterminate"
    r"|to be determined|tbd|prob(?:abl[ey])?|poss(?:ibl[ey])?|maybe"
)
_PLACEHOLDER = re.compile(rf"\b(?:{_NO_NAME})\b", re.IGNORECASE)
_PLACEHOLDER_FIRST = re.compile(rf"\W*(?:{_NO_NAME})\b", re.IGNORECASE)

_TIDY = re.compile("[A-Za-z][A-Za-z0-9 ,.()&-]*[A-Za-z0-9).]")  # short cut: nothing to do
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_PREFIX = re.compile(r"(?:[a-z]|sk|D_\d)__")  # "g__Ursus", of microbiologists
_TO_BLANKS = re.compile(r"[_\s]+|<[^<>]*>")
_NO_LETTERS = dict.fromkeys(map(ord, '"“”„«»`*†‡'))
_RANK_BEFORE = re.compile(
    r"(?:kingdom|phylum|division|class|order|ord|family|fam|genus|gen)\b[.:]?(?: |$)", re.IGNORECASE
)

_GENUS = re.compile(r"[×+]?[^\W\d_]{2,}(-[^\W\d_]+)?")
_FAMILY = re.compile(r"[^\W\d_]+(idae|aceae)")
_NO_GENUS = re.compile(r".{2,}(idae|aceae|inae|oideae|iformes)|candidatus", re.IGNORECASE)
_EPITHET = re.compile(r"×?(\d+-|[^\W\d_][-'’])?[^\W\d_]{2,}([-'’][^\W\d_]+)*")
# No vowel, or a Roman number: "DHJ" and "VII" are marks of a collection.
_CODE = re.compile("[b-df-hj-np-tv-xz]+|[ivx]+")
# Open nomenclature and sections: the name before the mark is known, the one behind it is not.
_OPEN = re.compile(
    r"(x|spp?|spec|cfr?|conf|aff|nr|near|prope|prox|indet|ined|gen|nov|(sub|super)?(sect|ser)"
    r"|section|series|subg|subgen|subgenus|tribe?)(\.\S+|\d*)"
)
_SECTION = re.compile(r"(?<=\s)((sub|super)?(sect|ser)|subg(en)?)\. [^\W\d_]+(?= [a-z]{2})")
_BELOW_SPECIES = re.compile(
    r"(notho)?(subsp|ssp|(sub|con)?var|(sub)?(fo?|forma?|fma)|fsp|pv|bv|ab|morph|lusus|natio|race)"
)
_UNCERTAIN = re.compile(
    r"[?/]|(?<![^\s(])(cfr?|conf|aff|nr|near|prope|prox|or|vel|seu|sive|vs)\b", re.IGNORECASE
)
_OR = re.compile(r"\?|or|vel|seu|sive|vs|/|\|")
# Behind a genus: doubts, and codes of traps and barcodes.
_DOUBT = re.compile(r"\S*[?/]\S*|BOLD:\S+|[a-z]{2,}\d+|[A-Z]{2,}\d+\S*")
# Words in lower case that follow a name without being part of it, mostly of its authors.
_NO_EPITHET = re.compile(
    r"agg|aggr|auctt?|group|complex|coll|sammelart|sensu|non|nomen|nom|nec|not|hort|cv|pro|and|et"
    r"|al|ex|in|of|apud|emend|fide|sic|ms|mihi|nob|partim|bis|fil|filius|comb|sl|grex|like"
    r"|von|vom|van|van['’]t|vander|der|den|des|de|da|dal|dalla|das|del|della|delle|degli|di|do|dos"
    r"|du|e|i|y|und|la|las|le|los|el|ben|ter|ten|to|zu|zum|zur|af|av|op"
    r"|null|none|nil|nan|na|species|new|hybrids?|undescribed|morphospecies|morphotype|cultivar"
    r"|juv|juveniles?|imm|immatures?|larvae?|adults?|females?|males?|type|wild|domestic|feral"
    r"|candidatus|environmental|metagenome|incertae"
    r"|un(known|identified|determined|classified|named|cultured|assigned|placed|specified)"
)
_VIRUS = re.compile(r"(virus|viroid|phage)\b", re.IGNORECASE)
_BRACKETS = re.compile(r"\([^)]*(?:\)|$)|\[[^\]]*(?:\]|$)|(?<=\s)['‘][^'’]+['’](?!\S)")
_GLUED = re.compile(r"(?<!\S)(subsp|ssp|var|f|cf|aff|nr|sp)\.(?=[a-z])")
_SPECIAL_FORM = re.compile(r"(?<!\S)f\. ?sp\.(?= )")


def clean(value: object) -> str:
    """A text without HTML entities, tags, surplus blanks and trailing dots; '' for null-like ones.

    This holds for texts of every kind; `tidy` does more, for the names of taxa.
    """
    text = "" if value is None else str(value)
    return _clean(text) if len(text) < 100 else _clean.__wrapped__(text)


@functools.lru_cache(1 << 14)
def _clean(text: str) -> str:
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _TAG.sub("", re.sub(r"<(br|/?p|/?div)\b[^<>]*>", " ", text))
    text = " ".join(text.split()).rstrip(". ")
    return "" if _NULL.fullmatch(text) else text


def common_name(cell: object) -> str:
    """The first common name of a cell that may list several, with bars or semicolons between them.

    Commas do not separate: "Warbler, Yellow" is one name.
    """
    text = "" if cell is None else html.unescape(html.unescape(str(cell)))  # "&#39;" has one, too
    return next((name for part in _SEVERAL.split(text) if (name := clean(part))), "")


def tidy(value: object) -> str:
    """A cell with a name in it, without markup, quotes, daggers; underscores are blanks."""
    text = clean(value)
    if _TIDY.fullmatch(text):
        return text
    text = _INVISIBLE.sub("", unicodedata.normalize("NFC", text)).translate(_NO_LETTERS)
    text = _TO_BLANKS.sub(" ", _PREFIX.sub("", text, count=1)).strip(" ,;:!")
    if text[:1] in ("'", "‘") and text[-1] in ("'", "’"):
        text = text[1:-1]
    if text[:1] in "[(" and text.find(")" if text[:1] == "(" else "]") == len(text) - 1:
        text = text[1:-1]
    elif text[:1] == "[":  # NCBI's mark of a name in the wrong genus
        text = re.sub(r"^\[([^\]]*)\]", r"\1", text)
    return clean(text)


@functools.lru_cache(1 << 14)
def uninomial(cell: str) -> str:
    """The name of a taxon above genus in a tidy cell, without authors; '' for placeholders."""
    name = _without_rank(cell)
    words = _words(name)
    if not words or _says_nothing(name) or _is_open(words[0]):
        return ""
    # Authors go; "Red algae" stays, and so does "Candidatus Saccharibacteria".
    is_phrase = words[1:] and words[1].isalpha() and words[1].islower() and not _is_mark(words[1])
    name = name if is_phrase or words[0] == "Candidatus" else words[0]
    is_name = any(map(str.isalpha, name)) and not name.endswith(".") and not _NULL.fullmatch(name)
    return _capitalize(name) if is_name else ""


@functools.lru_cache(1 << 14)
def genus_name(cell: str) -> str:
    """The genus in a tidy cell, without subgenus, section, epithet and authors.

    '' for placeholders, codes and names of families.
    """
    name = _without_rank(cell)
    words = _words(name)
    if not words or _says_nothing(name) or (words[1:] and _VIRUS.search(name)):
        return ""
    if words[0].lower() == "candidatus" and words[1:]:
        return _capitalize(" ".join(words[:2]))
    first = _capitalize(words[0])
    is_written_low = words[1:] and words[0].islower() and words[0][0] != "×"
    return first if _is_genus(first) and not is_written_low else ""


def family_of(cell: str) -> str:
    """A family that stands in the cell of a genus, by its ending."""
    name = uninomial(cell)
    return name if _FAMILY.fullmatch(name) else ""


def split_species(species: str, genus_cell: str) -> tuple[str, str]:
    """(genus, epithet) from a `species` cell, an epithet or a whole binomial, and a `genus` cell.

    Both are tidy. The genus cell wins over the genus of a binomial, as in the original.
    """
    named = genus_name(genus_cell) if genus_cell else ""
    if not species or _PLACEHOLDER_FIRST.match(species):
        return named, ""
    if " " in named and species.lower().startswith(f"{named.lower()} "):
        species = species[len(named) + 1 :]  # "Candidatus Phytoplasma"
    elif named:
        species = species.removeprefix("Candidatus ")
    words = _words(species.lower().capitalize() if species.isupper() else species)
    if _VIRUS.search(" ".join(words[1:])):
        return named, species.lower()  # "Tobacco mosaic virus" is no binomial
    if len(words) > 1:
        first, rest = words[0], words[1:]
        # "gorilla gorilla" beside "Gorilla" is a subspecies, beside "gorilla" a binomial.
        is_written_high = first.removeprefix("×")[:1].isupper()
        is_known_genus = first == genus_cell or (is_written_high and _capitalize(first) == named)
        if not named and first == "Candidatus":
            named, words = _capitalize(" ".join(words[:2])), words[2:]
        elif not named and _is_genus(first):
            named, words = _capitalize(first), rest
        elif is_known_genus or (is_written_high and rest[0].islower()):
            words = rest
    elif words == [named] and not species.isupper() and species != species.lower():
        words = []  # the genus once more; the epithet of a tautonym is in lower case
    elif len(words) == 1 and words[0].istitle() and _FAMILY.fullmatch(words[0]):
        words = []  # a table that repeats the last name it knows
    if any(word[0] == "×" for word in words[1:]):
        return named, _cross(words)
    return named, epithet_of(words, lenient=True)


def split_scientific_name(name: str) -> tuple[str, str]:
    """(genus, epithet) of a tidy `scientificName`; ('', '') for anything but a clear species name.

    A single word is not taken for a genus: it may as well be a family or an order.
    """
    words = _words(name)
    if words[:1] == ["Candidatus"] and len(words) > 2:
        words = [_capitalize(" ".join(words[:2])), *words[2:]]
    elif len(words) < 2 or not _is_genus(words[0]) or not words[0].istitle():
        return "", ""
    parents = [word[1:].rstrip(".") for word in words[1:] if word[0] == "×"]
    if any(not parent.islower() or _is_open(parent) for parent in parents):
        return "", ""  # another genus, or no species at all
    if _VIRUS.search(" ".join(words[1:])):
        return "", ""
    epithet = epithet_of(words[1:], lenient=False)
    is_left_open = _is_open(words[1]) or _DOUBT.fullmatch(words[1])
    is_one_of_two = _is_epithet(words[1], lenient=False)  # and still no epithet: "arctos or …"
    return (words[0], epithet) if epithet or is_left_open or is_one_of_two else ("", "")


def join_below_species(genus: str, epithet: str, cell: str) -> str:
    """The epithet and what a tidy cell of a subspecies adds to it."""
    below = cell.split()
    # A whole trinomial may stand here; its genus and epithet are known by now.
    below = below[2:] if _capitalize(below[0]) == genus else below
    words = [epithet, *(word.lower() for word in below[:1]), *below[1:]]
    return epithet_of(words, lenient=True)


def is_uncertain(species: str) -> bool:
    """Whether a tidy `species` cell doubts its own epithet."""
    return bool(_UNCERTAIN.search(species))


def epithet_of(words: list[str], *, lenient: bool) -> str:
    """The specific and, if any, the lowest-ranked infraspecific epithet that `words` begin with.

    Args:
      words: what follows the genus, authors and rank marks included.
      lenient: the first word may be capitalised (the column says it is an epithet).
    """
    epithets: list[str] = []
    expected = True  # whether an epithet may stand here: at the start and behind a rank mark
    is_last_epithet = False  # whether the word before was taken
    for word in words:
        mark = word.lower().rstrip(".")
        is_rank = _BELOW_SPECIES.fullmatch(mark)
        if is_last_epithet and _OR.fullmatch(mark):
            epithets.pop()  # "arctos ?" and "arctos or maritimus" leave it open
            break
        if _is_open(mark) or (is_rank and not epithets):
            break
        is_last_epithet = False
        if is_rank:
            expected = True
        elif expected and _is_epithet(word, lenient=lenient and not epithets):
            expected, is_last_epithet = not epithets, True
            epithets = [*epithets[:1], word.lower()]
        elif not epithets:
            break
        else:
            expected = False
    return " ".join(epithets)


def _without_rank(cell: str) -> str:
    """'Ursidae' of "Family: Ursidae"; '' where no name follows ("Family XI", "genus")."""
    rank = _RANK_BEFORE.match(cell)
    if not rank:
        return cell
    name = cell[rank.end() :]
    return name if re.match(r"×?[^\W\d_]{4}", name) else ""


def _says_nothing(cell: str) -> bool:
    return bool(_PLACEHOLDER.search(cell) or "?" in cell or ":" in cell)


def _is_open(word: str) -> bool:
    return bool(_OPEN.fullmatch(word.lower().rstrip(".").removeprefix("×")))


def _is_mark(word: str) -> bool:
    return bool(_is_open(word) or _BELOW_SPECIES.fullmatch(word) or _NO_EPITHET.fullmatch(word))


def _is_genus(word: str) -> bool:
    is_word = _GENUS.fullmatch(word) and not _NO_GENUS.fullmatch(word)
    return bool(is_word and not _NULL.fullmatch(word) and not _is_open(word))


def _is_epithet(word: str, *, lenient: bool) -> bool:
    low = word.lower()
    # "spA" and "JAH" are codes, "McClellandi" is an epithet of old.
    is_written_so = word.islower() or (lenient and (word[1:].islower() or word[-4:].islower()))
    is_word = is_written_so and _EPITHET.fullmatch(low) and not _CODE.fullmatch(low)
    return bool(is_word and not _NO_EPITHET.fullmatch(low))


def _attach_hybrid_signs(name: str) -> str:
    """'Malus x domestica' and 'Malus × domestica' as 'Malus ×domestica'."""
    return re.sub(r"(?<!\S)(?:[xX×✕]\s+|[×✕])(?=\w)", "×", name)


def _capitalize(name: str) -> str:
    name = _attach_hybrid_signs(name)
    sign = name[:1] if name[:1] in ("×", "+") else ""
    name = name.removeprefix(sign).strip()
    return sign + name.capitalize()


def _words(name: str) -> list[str]:
    """Words of a name without subgenera and authors in brackets; hybrid signs attached.

    The second parent of a cross loses its genus: "Canis lupus × C. latrans" → "lupus ×latrans".
    """
    if "(" in name or "[" in name or "'" in name or "‘" in name:
        name = _BRACKETS.sub(" ", name.replace("(?)", "?"))
    if "." in name:
        name = _SECTION.sub(" ", _SPECIAL_FORM.sub("fsp.", _GLUED.sub(r"\1. ", name)))
    if "," in name:
        name = name.replace(",", " , ")  # no epithet comes behind it
    if not name.isascii() or "x " in name or "X " in name:
        name = _attach_hybrid_signs(name)
    if "×" in name:
        genus = name.partition(" ")[0]
        name = re.sub(rf"×({re.escape(genus)}|{re.escape(genus[:1])}\.)\s+", "×", name)
    return name.split()


def _cross(words: list[str]) -> str:
    """The epithets of a cross of two species; '' where a parent is not named to the species."""
    first = epithet_of(words[:1], lenient=True)
    others = [word.lower() for word in words[1:] if word[0] == "×" or word.islower()]
    are_named = all(_EPITHET.fullmatch(parent) and not _is_open(parent) for parent in others)
    return " ".join([first, *others]) if first and are_named else ""
