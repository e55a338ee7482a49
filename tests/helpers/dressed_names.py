"""Names as people write them, made from lists of plain ones: authors, ranks, doubts, codes."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

AUTHORS = (
    *("L.", "(L.)", "L. f.", "(L. f.) Hook.", "Linnaeus, 1758", "(Linnaeus, 1758)", "Gould 1840"),
    *("Baird & Girard, 1853", "(Baird & Girard, 1853)", "Bloch et Schneider, 1801"),
    *(
        "de Vis",
        "de Vis, 1884",
        "De Vis, 1884",
        "des Murs",
        "Des Murs, 1845",
        "du Bus de Gisignies",
    ),
    *("Müll.Arg. ex Benth.", "(Müll. Arg.) Benth.", "Pallas ex Gmelin", "hort. ex Gould"),
    *("Cuvier in Cuvier & Valenciennes, 1829", "Hodgson in Gray", "Lacepède, 1802"),
    *("von Martens, 1876", "(von Spix & von Martius)", "van der Hoeven", "van Hasselt, 1823"),
    *("Temminck, Laugier & Chartrouse 1822", "d'Orbigny & Lafresnaye, 1837", "D'Orbigny"),
    *("Le Conte", "O'Shaughnessy, 1879", "McClelland, 1839", "St. Hilaire", "Saint-Hilaire"),
    *("Geoffroy Saint-Hilaire, 1803", "P.L.S.Müller, 1776", "J. F. Gmelin, 1789"),
    *("Sclater, P.L. 1858", "Sclater, PL, 1858", "Swainson [1838]", "Gould et al., 1840"),
    *("ten Kate", "zur Strassen", "af Klercker", "da Silva & dos Santos", "del Hoyo"),
    *("delle Chiaje", "della Torre", "de la Torre, 1901", "Ramón y Cajal", "Šulc", "Ångström"),
    *("auct.", "auct. non L.", "sensu Gould", "sensu lato", "s. str.", "s.l.", "non Gould, 1840"),
    *("nom. nud.", "Gray, 1845 partim", "Ehrenb. emend. Gould", "sp. nov.", "(Gray) comb. nov."),
    *("Hook.f.", "(Hook.f. & Thomson) Prain", "in 't Veld", "van't Veld, 1900", "v. Heuglin, 1868"),
    *(
        "LINNAEUS, 1758",
        "(Vieillot,1817)",
        "Ogilvie-Grant, 1911",
        "Gray JE 1831",
        "& al.",
        "L'Herm.",
    ),
    *(
        "fide Gould",
        "[sic]",
        "in litt.",
        "nomen dubium",
        "nec Gould",
        "[as 'maior']",
        "1758",
        "p.p.",
    ),
)
# {g}, {G}: genera; {e}, {s}, {t}: epithets; {a}, {b}: authors; {n}: a number of four digits.
DRESSES = (
    *("{g} {e}", "{g} {e} {a}", "{g} {e} {s} {a}", "{g} ({G}) {e} {a}"),
    *("{g} {e} subsp. {s} {a}", "{g} {e} {b} subsp. {s} {a}", "{g} {e} ssp. {s}"),
    *(
        "{g} {e} var. {s} {a}",
        "{g} {e} {b} var. {s} {a}",
        "{g} {e} f. {s}",
        "{g} {e} forma {s} {a}",
    ),
    *("{g} {e} var. {s} f. {t} {a}", "{g} {e} subsp.{s}", "{g} {e} nothosubsp. {s}"),
    *("{g} {e} subvar. {s}", "{g} {e} pv. {s}", "{g} {e} f. sp. {s}", "{g} {e} convar. {s}"),
    *("{g} {e} agg.", "{g} {e} subsp.", "{g} {e} group", "{g} {e} complex"),
    *("{g} × {e} {a}", "{g} ×{e}", "{g} x {e} {a}", "× {g} {e} {a}", "×{g} {e}"),
    *("{g} {e} × {g} {s}", "{g} {e} x {s}", "{g} {e} × {G} {s}", "{g} {e} nothovar. {s}"),
    *("{g} sp.", "{g} sp. {n}", "{g} spp.", "{g} indet.", "{g} sp. nov.", "{g} gen. et sp. indet."),
    *("{g} cf. {e}", "{g} cf. {e} {a}", "{g} aff. {e}", "{g} aff. {e} {a}", "{g} nr. {e}"),
    *("{g} sp. nr. {e}", "{g} sp. cf. {e}", "{g} {e} cf. {s}", "{g} {e} aff. {s}", "{g} cf.{e}"),
    *("{g} {e}?", "{g} ?{e}", "{g} ? {e}", "{g} {e} ?", "{g} {e}/{s}", "{g} {e} or {s}"),
    *("{g} sp. BOLD:AAA{n}", "{g} BOLD:AAA{n}", "{g} malaise{n}", "{g} JAH{n}", "{g} DHJPAR{n}"),
    *("{g} sect. {G}", "{g} ser. {G}", "{g} subg. {G}", "{g} subg. {G} {e} {a}"),
    *("{g} sect. {G} {e}", "<i>{g} {e}</i> {a}", "<em>{g}</em> <em>{e}</em>", "{g}_{e}"),
    *('"{g} {e}"', "†{g} {e} {a}", "{g} {e}, {a}", "{g} {e}.", "[{g}] {e} {a}", "  {g}  {e} {a}"),
    *("uncultured {g}", "unidentified {g}", "unclassified {g}", "{g} unclassified"),
    *("{g} environmental sample", "uncultured {g} sp.", "Candidatus {g} {e}", "{g} incertae sedis"),
    *("{G}idae gen. sp.", "{G}idae sp.", "{g} {e} 'Golden Queen'", "{g} 7-{e} {a}", "{g} c-{e}"),
    *("{g} {e}-{s} {a}", "{g} o'{e}", "{g} {e} hybrid", "{g} {e} ab. {s}", "{g} {e} morph {s}"),
)


class Dressed(NamedTuple):
    """A name, the dress it wears, and the plain parts that went into it by their letters."""

    text: str
    dress: str
    parts: dict[str, str]


def plain_names(traits: Path) -> tuple[list[str], list[str]]:
    """(genera, epithets) of birds and fishes; fishes come without epithets."""
    genera, epithets = [], []
    with (traits / "avonet_birdlife.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            genus, epithet = row["Species1"].split()
            genera.append(genus)
            epithets.append(epithet)
    with (traits / "fishnet_genus_habitat.csv").open(encoding="utf-8") as file:
        genera += [row["genus"] for row in csv.DictReader(file) if row["genus"]]
    return genera, epithets


def dressed_names(traits: Path, count: int) -> Iterator[Dressed]:
    """The same names at every call; each dress with each form of authors, sooner or later."""
    genera, epithets = plain_names(traits)
    authors = itertools.cycle(AUTHORS)
    for number in range(count):
        dress = DRESSES[number % len(DRESSES)]
        parts = {
            "g": genera[number % len(genera)],
            "G": genera[(5 * number + 1) % len(genera)],
            "e": epithets[number % len(epithets)],
            "s": epithets[(7 * number + 3) % len(epithets)],
            "t": epithets[(11 * number + 5) % len(epithets)],
            "n": str(1000 + number % 9000),
        }
        parts |= {letter: next(authors) for letter in "ab" if f"{{{letter}}}" in dress}
        yield Dressed(text=dress.format(**parts), dress=dress, parts=parts)
