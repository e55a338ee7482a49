"""20,000 names in every dress are read as gnparser reads them, and where not, it is meant so."""

import collections
import csv
from pathlib import Path

import pytest
from dressed_names import Dressed, dressed_names

from bioclip2_jax.text.taxonomy import Taxon

gnparser = pytest.importorskip("gnparser", reason="gnparser is not installed (.[dev] has it)")
COUNT = 20_000

# Dresses in which we differ on purpose: what we read, and why.
DIFFERENT_DRESSES = {
    "{g} cf. {e}": ("{g}", "a compared name is not known"),
    "{g} cf. {e} {a}": ("{g}", "a compared name is not known"),
    "{g} {e} cf. {s}": ("{g} {e}", "a compared name is not known"),
    "{g} {e} ?": ("{g}", "a doubted name is not known"),
    "{g} {e} or {s}": ("{g}", "one of two is not known"),
    "{g} {e} × {G} {s}": ("", "a cross of two genera has no genus"),
    "{g} {e} f. sp. {s}": ("{g} {e} {s}", "special forms are names below species"),
    "{g} sect. {G}": ("{g}", "a section is no genus"),
    "{g} ser. {G}": ("{g}", "a section is no genus"),
    "{g} subg. {G}": ("{g}", "a section is no genus"),
    "{g} subg. {G} {e} {a}": ("{g} {e}", "a section is no genus"),
    "{g} sect. {G} {e}": ("{g} {e}", "a section is no genus"),
    '"{g} {e}"': ("{g} {e}", "quotes, commas and dots are no part of a name"),
    "[{g}] {e} {a}": ("{g} {e}", "quotes, commas and dots are no part of a name"),
    "{g} {e}, {a}": ("{g} {e}", "quotes, commas and dots are no part of a name"),
    "{g} {e}.": ("{g} {e}", "quotes, commas and dots are no part of a name"),
    "{g} unclassified": ("", "what stands before a placeholder may be a family"),
    "{g} environmental sample": ("", "what stands before a placeholder may be a family"),
    "{G}idae gen. sp.": ("", "a family is no genus"),
    "{G}idae sp.": ("", "a family is no genus"),
    "Candidatus {g} {e}": ("Candidatus {g} {e}", "Candidatus is kept, as in the original"),
    "{g} 7-{e} {a}": ("{g} 7-{e}", "spelling is not normalised"),
    "{g} o'{e}": ("{g} o'{e}", "spelling is not normalised"),
}
# Remarks among the authors that gnparser stumbles over: without them it reads what we read.
DIFFERENT_REMARKS = {
    "Gray, 1845 partim": "'partim' is no epithet",
    **dict.fromkeys(
        ("auct.", "auct. non L.", "sensu Gould", "sensu lato", "s. str.", "s.l.", "nom. nud.")
        + ("non Gould, 1840", "hort. ex Gould", "sp. nov.", "(Gray) comb. nov.", "nec Gould")
        + ("[sic]", "fide Gould", "in litt.", "nomen dubium", "van't Veld, 1900"),
        "a name below species may stand behind a remark",
    ),
}
# How many of the names each reason holds for.
COUNTS = {
    "'partim' is no epithet": 63,
    "Candidatus is kept, as in the original": 222,
    "a compared name is not known": 666,
    "a cross of two genera has no genus": 222,
    "a doubted name is not known": 222,
    "a family is no genus": 444,
    "a name below species may stand behind a remark": 159,
    "a section is no genus": 1110,
    "one of two is not known": 222,
    "quotes, commas and dots are no part of a name": 794,
    "special forms are names below species": 223,
    "spelling is not normalised": 444,
    "what stands before a placeholder may be a family": 444,
}


@pytest.fixture(scope="module")
def names() -> list[Dressed]:
    root = Path(__file__).parent.parent
    for folder in (root, *root.parents[:2]):
        if (folder / "shared" / "data" / "traits").is_dir():
            return list(dressed_names(folder / "shared" / "data" / "traits", COUNT))
    pytest.skip("the lists of AVONET and FishNet (../shared/data/traits) are not on this machine")


def _theirs(text: str) -> str:
    """Genus, species and the lowest epithet below it, in gnparser's canonical form."""
    line = gnparser.parse_to_string(text, "csv", None, False, True)
    canonical = next(csv.reader([line]))[4].split()
    return " ".join([*canonical[:2], *canonical[2:][-1:]])


def _ours(text: str) -> str:
    name = Taxon.from_row({"scientificName": text}).scientific_name
    return name.replace("×", "")


def _meant(name: Dressed) -> tuple[str, str]:
    """(what we mean to read where gnparser reads something else, why); ('', '') if nothing."""
    if name.dress in DIFFERENT_DRESSES:
        template, why = DIFFERENT_DRESSES[name.dress]
        return template.format(**name.parts), why
    remarks = DIFFERENT_REMARKS.keys() & {name.parts.get(letter) for letter in "ab"}
    plain = name.dress.format(**name.parts | {"a": "L.", "b": "L."})
    return (_theirs(plain), DIFFERENT_REMARKS[min(remarks)]) if remarks else ("", "")


def test_names_are_read_as_gnparser_reads_them(names):
    unexpected, counts = [], collections.Counter()
    for name in names:
        ours, theirs = _ours(name.text), _theirs(name.text)
        if ours != theirs:
            meant, why = _meant(name)
            counts[why] += 1
            if not why or ours.lower() != meant.lower():
                unexpected.append((name.text, ours, theirs))
    assert not unexpected
    assert counts == COUNTS


def test_names_are_read_alike_from_every_column(names):
    for name in names:
        from_name = Taxon.from_row({"scientificName": name.text})
        from_species = Taxon.from_row({"species": name.text, "genus": name.parts["g"]})
        assert from_species.genus == name.parts["g"], name
        if name.dress != "{g} {e} × {G} {s}":  # the genus column tells whose epithet it is
            assert from_species.species == from_name.species, name
