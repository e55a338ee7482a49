"""Body plans of simulated organisms: ten ways to draw heritable traits.

Coordinates of a body run from -1 to 1, x towards the head (animals) and y downwards; plants and
fungi stand with their foot at y = 1.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]

_TURN = np.linspace(0, 2 * np.pi, 22, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


@dataclass(frozen=True)
class Appearance:
    """What of an individual can be seen; numbers are z-scores unless said.

    Attributes:
      body: body plan, a key of `BODIES`.
      hue, second_hue: on the colour circle, 0 to 1.
      saturation, lightness: of the main colour, 0 to 1.
      elongation, head, appendage, limb: proportions (appendage: beak, fin, wing or petal).
      frequency, contrast: of the pattern.
      pattern: "plain", "stripes", "bands" or "spots".
      form: 0 to 3, a shape that a family shares (tail, ears, cap).
      juvenile, male: life stage and sex; the second mating type counts as male in fungi.
      nocturnal: photographed in less light.
      habitat: of this picture.
    """

    body: str
    hue: float
    second_hue: float
    saturation: float
    lightness: float
    elongation: float
    head: float
    appendage: float
    limb: float
    frequency: float
    contrast: float
    pattern: str
    form: int
    juvenile: bool
    male: bool
    nocturnal: bool
    habitat: str


class Pen:
    """Draws shapes given in body coordinates."""

    def __init__(self, draw: ImageDraw.ImageDraw, matrix: np.ndarray, centre: np.ndarray):
        self._draw, self._matrix, self._centre = draw, matrix, centre
        self._scale = abs(np.linalg.det(matrix)) ** 0.5

    def polygon(self, points, colour: Colour) -> None:
        """Fills a polygon of [n, 2] corners."""
        placed = np.asarray(points, np.float64) @ self._matrix + self._centre
        self._draw.polygon(placed.ravel().tolist(), fill=colour)

    def ellipse(self, x, y, rx, ry, colour: Colour, angle: float = 0.0) -> None:
        """Fills an ellipse; `angle` is in radians."""
        points = _CIRCLE * (rx, ry)
        if angle:
            cos, sin = np.cos(angle), np.sin(angle)
            points = points @ np.array([[cos, sin], [-sin, cos]])
        self.polygon(points + (x, y), colour)

    def line(self, points, colour: Colour, width: float) -> None:
        """Draws a line through [n, 2] points, `width` in body coordinates."""
        placed = np.asarray(points, np.float64) @ self._matrix + self._centre
        pixels = max(1, round(width * self._scale))
        self._draw.line(placed.ravel().tolist(), fill=colour, width=pixels)


@dataclass(frozen=True)
class Paint:
    """Colours of one individual."""

    main: Colour
    dark: Colour
    pale: Colour
    second: Colour

    @classmethod
    def of(cls, look: Appearance) -> "Paint":
        """Males are brighter, young ones paler."""
        saturation = look.saturation * (0.55 if look.juvenile else 1.0)
        saturation *= 1.15 if look.male else 0.8
        value = min(look.lightness + (0.15 if look.juvenile else 0.0), 1.0)
        contrast = 0.35 + 0.25 * np.tanh(look.contrast)
        return cls(
            rgb(look.hue, saturation, value),
            rgb(look.hue, saturation, value * (1 - contrast)),
            rgb(look.hue, saturation * 0.4, min(value + 0.25, 1.0)),
            rgb(look.second_hue, min(saturation + 0.2, 1.0), min(value + 0.1, 1.0)),
        )


def rgb(hue: float, saturation: float, value: float) -> Colour:
    """0 to 255 per channel; hue wraps around, saturation and value are clipped to 0 ... 1."""
    saturation, value = min(max(saturation, 0), 1), min(max(value, 0), 1)
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)


def _size(z: float, middle: float, spread: float = 0.3) -> float:
    """A positive length around `middle` for a z-score."""
    return middle * float(np.exp(spread * np.clip(z, -2.5, 2.5)))


def _pattern(pen: Pen, paint: Paint, look: Appearance, x, y, rx, ry) -> None:
    """Covers an ellipse with the individual's pattern; young ones show half of it."""
    count = int(np.clip(round(_size(look.frequency, 4.5, 0.35)), 2, 10))
    if look.juvenile:
        count = max(2, count // 2)
    if look.pattern == "spots":
        number = 3 * count
        radius = 0.55 * min(rx, ry) / count**0.5
        for i in range(number):
            r, a = 0.85 * ((i + 0.5) / number) ** 0.5, 2.4 * i
            pen.ellipse(x + rx * r * np.cos(a), y + ry * r * np.sin(a), radius, radius, paint.dark)
    elif look.pattern in ("stripes", "bands"):
        for at in np.linspace(-0.8, 0.8, count):
            half, reach = 0.55 / count, (1 - at * at) ** 0.5
            bar = np.array([(-half, -reach), (half, -reach), (half, reach), (-half, reach)])
            bar[:, 0] += at
            if look.pattern == "bands":
                bar = bar[:, ::-1]
            pen.polygon(bar * (rx, ry) * 0.97 + (x, y), paint.dark)


def _eye(pen: Pen, x, y, r) -> None:
    pen.ellipse(x, y, r, r, (245, 245, 235))
    pen.ellipse(x, y, r * 0.6, r * 0.6, (10, 10, 10))


def _bird(pen: Pen, paint: Paint, look: Appearance) -> None:
    rx = _size(look.elongation, 0.55, 0.15) * (0.85 if look.juvenile else 1)
    ry = 0.3 / rx * 0.62
    leg, head = _size(look.limb, 0.35), _size(look.head, 0.2, 0.15) * (1.25 if look.juvenile else 1)
    beak = _size(look.appendage, 0.28, 0.5) * (0.6 if look.juvenile else 1)
    tail = 0.45 + (0.3 if look.male and not look.juvenile else 0)
    spread = (0.06, 0.12, 0.2, 0.28)[look.form]
    pen.polygon([(-rx * 0.7, -0.05), (-rx - tail, -spread), (-rx - tail, spread)], paint.dark)
    for x in (-0.08, 0.12):
        pen.line([(x, ry * 0.7), (x + 0.05, ry + leg), (x + 0.17, ry + leg)], (90, 70, 40), 0.045)
    pen.ellipse(0, 0, rx, ry, paint.main)
    _pattern(pen, paint, look, 0, 0, rx, ry)
    pen.ellipse(-0.12, -0.02, rx * 0.6, ry * 0.55, paint.second, -0.25)
    hx, hy = rx * 0.85, -ry * 0.9
    pen.polygon(
        [(hx + head * 0.7, hy - 0.07), (hx + head + beak, hy + 0.03), (hx + head * 0.7, hy + 0.1)],
        (225, 160, 40),
    )
    if look.male and not look.juvenile:
        crest = [(hx - head, hy), (hx - head * 0.6, hy - head * 2), (hx + head * 0.5, hy - head)]
        pen.polygon(crest, paint.second)
    pen.ellipse(hx, hy, head, head, paint.main if look.form % 2 else paint.dark)
    _eye(pen, hx + head * 0.35, hy - head * 0.2, 0.06)


def _fish(pen: Pen, paint: Paint, look: Appearance) -> None:
    rx = _size(look.elongation, 0.7, 0.15)
    ry = 0.26 / rx * (1.2 if look.juvenile else 1) * _size(look.head, 1.0, 0.15)
    fin = _size(look.appendage, 0.28, 0.4) * (1.35 if look.male else 0.9)
    fork = (0.0, 0.15, 0.3, -0.12)[look.form]
    tail = _size(look.limb, 0.32)
    pen.polygon(
        [(-rx * 0.8, 0), (-rx - tail, -tail), (-rx - tail + fork, 0), (-rx - tail, tail)],
        paint.second,
    )
    pen.polygon(
        [(rx * 0.3, -ry * 0.8), (-rx * 0.5, -ry - fin), (-rx * 0.6, -ry * 0.6)], paint.second
    )
    pen.polygon([(0.05, ry * 0.7), (-0.3, ry + fin * 0.7), (-0.4, ry * 0.7)], paint.dark)
    pen.ellipse(0, 0, rx, ry, paint.main)
    _pattern(pen, paint, look, -0.05, 0, rx * 0.9, ry * 0.92)
    if look.male and not look.juvenile:  # a bright flank
        pen.ellipse(-0.1, ry * 0.25, rx * 0.6, ry * 0.2, paint.second)
    pen.polygon([(0.25, 0.0), (-0.05, ry * 0.5), (0.0, -ry * 0.1)], paint.pale)
    _eye(pen, rx * 0.68, -ry * 0.2, 0.075 if not look.juvenile else 0.1)


def _mammal(pen: Pen, paint: Paint, look: Appearance) -> None:
    rx, ry = _size(look.elongation, 0.52, 0.12), 0.27
    leg = _size(look.limb, 0.42) * (0.7 if look.juvenile else 1)
    head = _size(look.head, 0.23, 0.12) * (1.25 if look.juvenile else 1)
    ear, snout = _size(look.appendage, 0.2, 0.45), 0.12 * (0.5 if look.juvenile else 1)
    tail = (0.15, 0.4, 0.65, 0.3)[look.form]
    pen.line([(-rx * 0.9, -0.05), (-rx - tail, -0.05 - tail * 0.6)], paint.dark, 0.09)
    for x in (-0.75, -0.5, 0.45, 0.7):
        pen.line([(x * rx, ry * 0.5), (x * rx, ry + leg)], paint.dark, 0.1)
    pen.ellipse(0, 0, rx, ry, paint.main)
    _pattern(pen, paint, look, 0, 0, rx, ry)
    hx, hy = rx + head * 0.4, -ry * 0.9
    for x in (-0.5, 0.35):
        tip = (hx + x * head, hy - head * 0.6 - ear)
        foot = [(hx + (x - 0.4) * head, hy - head * 0.5), (hx + (x + 0.4) * head, hy - head * 0.5)]
        if look.form % 2:
            pen.ellipse(tip[0], hy - head, ear * 0.6, ear * 0.6, paint.dark)
        else:
            pen.polygon([foot[0], tip, foot[1]], paint.dark)
    if look.male and not look.juvenile:  # horns, or a mane
        pen.ellipse(hx - 0.05, hy + 0.03, head * 1.35, head * 1.35, paint.second)
    pen.ellipse(hx + head * 0.8, hy + head * 0.35, snout + 0.05, head * 0.4, paint.pale)
    pen.ellipse(hx, hy, head, head, paint.main)
    _eye(pen, hx + head * 0.35, hy - head * 0.15, 0.05)


def _beetle(pen: Pen, paint: Paint, look: Appearance) -> None:
    rx = _size(look.elongation, 0.55, 0.15)
    ry, head = 0.2 / rx, _size(look.head, 0.17, 0.2)
    leg, feeler = _size(look.limb, 0.35), _size(look.appendage, 0.4, 0.5)
    for x in (-0.4, 0.0, 0.35):
        for side in (-1, 1):
            knee = (x * rx + 0.08, side * (ry + leg * 0.6))
            foot = (x * rx - 0.1, side * (ry + leg))
            pen.line([(x * rx, side * ry * 0.7), knee, foot], (30, 25, 20), 0.05)
    for side in (-1, 1):
        pen.line([(rx, 0), (rx + feeler, side * feeler * 0.6)], (30, 25, 20), 0.035)
    if look.male and not look.juvenile:
        pen.polygon([(rx, -0.1), (rx + 0.55, -0.28), (rx + 0.35, 0.0), (rx, 0.1)], paint.second)
    pen.ellipse(rx * 0.95, 0, head, head, paint.dark)
    pen.ellipse(rx * 0.55, 0, rx * 0.4, ry * (0.75 + 0.1 * look.form), paint.second)
    pen.ellipse(-0.1, 0, rx * 0.85, ry, paint.main)
    _pattern(pen, paint, look, -0.1, 0, rx * 0.85, ry)
    if not look.juvenile:
        pen.line([(rx * 0.6, 0), (-rx * 0.95, 0)], (20, 20, 20), 0.03)


def _butterfly(pen: Pen, paint: Paint, look: Appearance) -> None:
    if look.juvenile:  # a caterpillar
        parts = 7
        for i in range(parts):
            x = -0.75 + 1.4 * i / (parts - 1)
            y = 0.12 * np.sin(1.3 * i)
            pen.ellipse(x, y, 0.2, 0.2, paint.main if i % 2 else paint.dark)
        pen.ellipse(0.8, 0.1, 0.17, 0.17, paint.second)
        return
    wing, length = _size(look.appendage, 0.62, 0.2), _size(look.elongation, 0.5, 0.2)
    tail = (0.0, 0.25, 0.0, 0.45)[look.form]
    for side in (-1, 1):
        if tail:
            pen.polygon(
                [(-0.35, side * 0.4), (-0.55 - tail, side * 0.75), (-0.5, side * 0.25)], paint.dark
            )
        pen.ellipse(-0.28, side * wing * 0.62, wing * 0.6, length * 0.8, paint.second, side * 0.5)
        pen.ellipse(0.3, side * wing * 0.75, wing * 0.55, length, paint.main, -side * 0.6)
        _pattern(pen, paint, look, 0.3, side * wing * 0.72, wing * 0.42, length * 0.62)
        if look.male:
            pen.ellipse(-0.3, side * wing * 0.65, 0.16, 0.16, paint.pale)
            pen.ellipse(-0.3, side * wing * 0.65, 0.08, 0.08, (20, 20, 20))
    pen.ellipse(0.05, 0, 0.5, _size(look.head, 0.09, 0.25), (40, 30, 25))
    for side in (-1, 1):
        pen.line([(0.5, 0), (0.95, side * _size(look.limb, 0.25))], (40, 30, 25), 0.03)


def _spider(pen: Pen, paint: Paint, look: Appearance) -> None:
    leg = _size(look.limb, 0.75, 0.25)
    belly = _size(look.elongation, 0.36, 0.2) * (0.7 if look.male else 1.1)
    for side in (-1, 1):
        for i, x in enumerate((-0.1, 0.08, 0.22, 0.34)):
            lean = (-0.6, -0.15, 0.3, 0.75)[i] * leg
            knee = (x + lean * 0.6, side * leg * 0.55)
            pen.line([(x, 0), knee, (x + lean, side * leg)], paint.dark, 0.05 + 0.01 * look.form)
    if look.male:
        for side in (-1, 1):
            pen.ellipse(0.55, side * 0.15, 0.14, 0.08, paint.second)
    pen.ellipse(-0.4, 0, belly, belly * 0.85, paint.main)
    _pattern(pen, paint, look, -0.4, 0, belly, belly * 0.85)
    head = _size(look.head, 0.24, 0.15)
    pen.ellipse(0.2, 0, head, head * 0.9, paint.second if look.form % 2 else paint.dark)
    eyes = _size(look.appendage, 0.05, 0.3)
    for side in (-1, 1):
        pen.ellipse(0.3, side * 0.09, eyes, eyes, (10, 10, 10))


def _flower(pen: Pen, paint: Paint, look: Appearance) -> None:
    green = rgb(0.3, 0.55, 0.45)
    stem = _size(look.limb, 0.75, 0.15)
    top = 1 - stem - 0.45
    pen.line([(0, 1.1), (0.05, 0.5), (0, top)], green, 0.07)
    for side in (-1, 1):
        leaf = 0.22 + 0.06 * look.form
        pen.ellipse(side * leaf, 0.7, leaf, 0.09, green, -side * 0.5)
    if look.juvenile:  # a bud
        pen.ellipse(0, top, 0.17, 0.27, paint.main)
        pen.polygon([(-0.17, top + 0.05), (0, top + 0.33), (0.17, top + 0.05)], green)
        return
    number = int(np.clip(round(_size(look.frequency, 6.5, 0.3)), 3, 13))
    length = _size(look.appendage, 0.42, 0.3)
    width = length * np.clip(_size(look.elongation, 2.0, 0.25) / number, 0.15, 0.6)
    for i in range(number):
        a = 2 * np.pi * i / number + 0.3
        x, y = 0.75 * length * np.cos(a), top + 0.75 * length * np.sin(a)
        pen.ellipse(x, y, length * 0.7, width, paint.main, a)
        if look.pattern != "plain":
            pen.ellipse(x * 0.8, top + (y - top) * 0.8, length * 0.3, width * 0.4, paint.dark, a)
    core = _size(look.head, 0.17, 0.25)
    pen.ellipse(0, top, core, core, paint.second)
    for i in range(8 if look.male else 0):  # stamens
        a = 2 * np.pi * i / 8
        pen.ellipse(
            1.3 * core * np.cos(a), top + 1.3 * core * np.sin(a), 0.05, 0.05, (250, 215, 60)
        )
    if not look.male:  # one pistil
        pen.ellipse(0, top, core * 0.5, core * 0.5, (120, 170, 70))


def _fern(pen: Pen, paint: Paint, look: Appearance) -> None:
    number = int(np.clip(round(_size(look.frequency, 8, 0.3)), 4, 14))
    height = 1.9 * (0.6 if look.juvenile else 1)
    reach = _size(look.appendage, 0.55, 0.25)
    lean = (-0.3, 0.0, 0.3, 0.6)[look.form] * 0.5
    pen.line([(0, 1), (lean, 1 - height)], paint.dark, 0.06)
    for i in range(number):
        t = (i + 1) / (number + 1)
        x, y, r = lean * t, 1 - height * t, reach * (1 - t) ** _size(look.elongation, 0.6, 0.3)
        thick = np.clip(_size(look.head, 0.5, 0.3) * height / number / 2, 0.03, 0.2)
        for side in (-1, 1):
            pen.ellipse(x + side * r / 2, y - r * 0.15, r * 0.55, thick, paint.main, -side * 0.3)
            if look.male and not look.juvenile:  # spore cases
                pen.ellipse(x + side * r / 2, y - r * 0.15, thick, thick, paint.second)


def _conifer(pen: Pen, paint: Paint, look: Appearance) -> None:
    tiers = int(np.clip(round(_size(look.frequency, 4, 0.25)), 2, 7))
    wide = _size(look.elongation, 0.62, 0.2)
    height = 1.75 * (0.65 if look.juvenile else 1)
    pen.line([(0, 1.1), (0, 0.6)], (95, 65, 40), _size(look.limb, 0.14))
    for i in range(tiers):
        y = 0.75 - height * i / tiers
        w = wide * (1 - i / (tiers + 0.6))
        tip = y - height / tiers * _size(look.head, 1.35, 0.12)
        pen.polygon([(-w, y), (0, tip), (w, y)], paint.main if i % 2 else paint.dark)
        if not look.juvenile:  # cones: many small ones, or a few large
            for x in np.linspace(-0.6, 0.6, 4 if look.male else 2) * w:
                r = _size(look.appendage, 0.05 if look.male else 0.085, 0.3)
                pen.ellipse(x, y, r, r * (1 + 0.3 * look.form), paint.second)


def _mushroom(pen: Pen, paint: Paint, look: Appearance) -> None:
    stem, thick = _size(look.limb, 0.75, 0.2), _size(look.elongation, 0.15, 0.3)
    wide = _size(look.appendage, 0.62, 0.25) * (0.55 if look.juvenile else 1)
    high = _size(look.head, 0.42, 0.3) * (1.2 if look.juvenile else 1)
    top = 0.9 - stem
    body = [(-thick, top), (thick, top), (thick * 1.3, 0.95), (-thick * 1.3, 0.95)]
    pen.polygon(body, paint.pale)
    if look.male and not look.juvenile:  # the second mating type keeps its ring
        pen.ellipse(0, top + 0.3, thick * 1.7, 0.06, paint.second)
    half = _CIRCLE[_CIRCLE[:, 1] <= 1e-9]
    half = half[np.argsort(half[:, 0])]
    if look.form % 2:  # a pointed cap
        half = half * (1, 1.0) * np.stack([np.ones(len(half)), 1.3 - abs(half[:, 0])], axis=1)
    pen.ellipse(0, top, wide, 0.1, paint.dark)
    pen.polygon(half * (wide, high) + (0, top), paint.main)
    if look.pattern != "plain" or look.form == 2:
        number = int(np.clip(round(_size(look.frequency, 6, 0.35)), 3, 12))
        for i in range(number):
            a = np.pi * (i + 0.5) / number
            r = 0.45 + 0.3 * (i % 2)
            pen.ellipse(
                wide * r * np.cos(a), top - high * r * np.sin(a) * 0.9, 0.06, 0.05, paint.second
            )


BODIES = {
    "bird": _bird,
    "fish": _fish,
    "mammal": _mammal,
    "beetle": _beetle,
    "butterfly": _butterfly,
    "spider": _spider,
    "flower": _flower,
    "fern": _fern,
    "conifer": _conifer,
    "mushroom": _mushroom,
}
