"""Invented names for simulated organisms: Latin-like for taxa, English for species."""

import itertools

import numpy as np

from bioclip2_jax.prepare.simulated.bodies import Appearance, Paint

_NAMELESS = 0.12  # share of species without a common name

_COLOURS = {
    "crimson": (170, 25, 60), "red": (200, 50, 40), "maroon": (105, 35, 50),
    "orange": (225, 120, 40), "tawny": (180, 130, 85), "brown": (120, 80, 50),
    "sandy": (210, 185, 140), "golden": (210, 170, 50), "yellow": (220, 210, 80),
    "olive": (120, 120, 50), "lime": (150, 200, 60), "sage": (140, 160, 120),
    "green": (60, 150, 60), "jade": (60, 180, 120), "teal": (40, 130, 130),
    "azure": (70, 160, 220), "slate": (90, 110, 130), "blue": (50, 80, 190),
    "indigo": (60, 50, 140), "violet": (120, 70, 200), "lilac": (180, 150, 210),
    "purple": (130, 50, 140), "fuchsia": (210, 60, 180), "rose": (220, 120, 150),
    "grey": (140, 140, 140),
}  # fmt: skip
_PATTERNS = {"plain": "plain", "stripes": "striped", "bands": "banded", "spots": "spotted"}
_HABITATS = {"grassland": "meadow", "wetland": "marsh", "deep sea": "deep-sea"}
# What the appendage trait enlarges in each body plan: words for a small and for a large one.
_APPENDAGES = {
    "bird": ("short-billed", "long-billed"),
    "fish": ("short-finned", "long-finned"),
    "mammal": ("short-eared", "long-eared"),
    "beetle": ("short-horned", "long-horned"),
    "butterfly": ("narrow-winged", "broad-winged"),
    "spider": ("small-eyed", "large-eyed"),
    "flower": ("short-petalled", "long-petalled"),
    "fern": ("narrow-fronded", "broad-fronded"),
    "conifer": ("small-coned", "large-coned"),
    "mushroom": ("narrow-capped", "broad-capped"),
}


def common_name(look: Appearance, noun: str, rng: np.random.Generator, used: set[str]) -> str:
    """An English name from what can be seen of an adult male.

    The shortest combination of appendage, marks, colour and habitat that is not in `used`, to
    which it is added. Empty for some species, and for those that no combination tells apart.
    """
    if rng.random() < _NAMELESS:
        return ""
    words = [
        _APPENDAGES[look.body][look.appendage > 0],
        _marks(look),
        colour_word(look),
        _HABITATS.get(look.habitat, look.habitat),
    ]
    # Among names of one length: colour first, then marks, appendage and habitat.
    preferred = (2, 1, 0, 3)
    for length in range(1, len(words) + 1):
        for chosen in itertools.combinations(preferred, length):
            name = " ".join(
                word.capitalize() for word in [*(words[i] for i in sorted(chosen)), noun]
            )
            if name not in used:
                used.add(name)
                return name
    return ""


def _marks(look: Appearance) -> str:
    """What `bodies.py` draws for the pattern or, without one, for its frequency."""
    if look.body == "fern":
        return "many-leaved" if look.frequency > 0 else "few-leaved"
    if look.body == "conifer":
        return "many-tiered" if look.frequency > 0 else "few-tiered"
    if look.body == "flower":
        return "plain" if look.pattern == "plain" else "two-toned"
    if look.body == "mushroom":
        return "plain" if look.pattern == "plain" and look.form != 2 else "spotted"
    return _PATTERNS[look.pattern]


def colour_word(look: Appearance) -> str:
    """The named colour nearest to the main one, in RGB."""
    main = np.array(Paint.of(look).main)
    return min(_COLOURS, key=lambda word: float(((main - _COLOURS[word]) ** 2).sum()))


def description(look: Appearance, rng: np.random.Generator) -> str:
    """A caption as people write them: what it is, and each other thing in two cases of three."""
    mentioned = rng.random(5) < 2 / 3
    words = ["young" if look.juvenile else "adult", "male" if look.male else "female"]
    words += [colour_word(look), _marks(look)]
    words = [word for word, is_mentioned in zip(words, mentioned, strict=False) if is_mentioned]
    place = f" in a {_HABITATS.get(look.habitat, look.habitat)}" if mentioned[4] else ""
    return f"a photo of a {' '.join([*words, look.body])}{place}."


class LatinNames:
    """Pronounceable names, each given once: by `latin` overall, by `epithet` within its genus."""

    _ONSETS = "b br c cr d f fl g gl l m n p pr r s sc sp st t tr v x z ch ph th".split()
    _NUCLEI = "a e i o u ae o a e i".split()
    _CODAS = ["", "", "", "n", "r", "l", "s", "x", "m"]

    def __init__(self, rng: np.random.Generator):
        self._rng, self._used = rng, set()

    def _stem(self, syllables: int) -> str:
        def pick(choices):
            return choices[self._rng.integers(len(choices))]

        parts = [pick(self._ONSETS) + pick(self._NUCLEI) for _ in range(syllables)]
        return "".join(parts) + (pick(self._CODAS) or pick(self._ONSETS)[0])

    def latin(self, syllables: int, ending: str) -> str:
        """A capitalised name for a genus or a higher taxon."""
        while (name := (self._stem(syllables) + ending).capitalize()) in self._used:
            pass
        self._used.add(name)
        return name

    def epithet(self, genus: str) -> str:
        """A lower-case name for a species of `genus`."""
        endings = ("us", "a", "ensis", "ata", "ii", "osa", "ina")
        while True:
            name = self._stem(1) + endings[self._rng.integers(len(endings))]
            if (genus, name) not in self._used:
                self._used.add((genus, name))
                return name
