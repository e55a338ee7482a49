"""Photographs of simulated organisms: a body (`bodies.py`) plus nuisance.

Nuisance is pose, scale, place, light, background and noise. Everything is drawn with Pillow at
twice the size and reduced.
"""

import io

import numpy as np
from PIL import Image, ImageDraw

from bioclip2_jax.prepare.simulated.bodies import BODIES, Appearance, Paint, Pen, rgb

# Ground and backdrop (hue, saturation, value) of each habitat, and what is scattered over it.
HABITATS = {
    "forest": ((0.28, 0.45, 0.32), (0.25, 0.35, 0.55), "trunks"),
    "grassland": ((0.20, 0.45, 0.55), (0.55, 0.25, 0.90), "blades"),
    "desert": ((0.10, 0.40, 0.80), (0.56, 0.20, 0.95), "stones"),
    "wetland": ((0.45, 0.30, 0.45), (0.52, 0.15, 0.80), "blades"),
    "river": ((0.40, 0.35, 0.40), (0.47, 0.40, 0.60), "stones"),
    "reef": ((0.48, 0.45, 0.65), (0.53, 0.55, 0.85), "bubbles"),
    "deep sea": ((0.62, 0.60, 0.20), (0.60, 0.60, 0.35), "bubbles"),
}


def render(look: Appearance, rng: np.random.Generator, size: int) -> bytes:
    """Draws one photograph.

    Args:
      look: the organism and where it is.
      rng: source of pose, scale, light, background and noise.
      size: side, pixels.

    Returns:
      A JPEG of quality 90.
    """
    side = 2 * size
    image = Image.new("RGB", (side, side))
    light = rng.uniform(0.75, 1.15) * (0.6 if look.nocturnal else 1.0)
    _background(image, look.habitat, rng)
    upright = look.body in ("flower", "fern", "conifer", "mushroom")
    top_view = look.body in ("beetle", "butterfly", "spider")
    angle = rng.uniform(-np.pi, np.pi) if top_view else rng.normal(0, 0.07 if upright else 0.2)
    scale = side * rng.uniform(0.30, 0.42) * (0.75 if look.juvenile else 1.0)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    squeeze = np.array([[mirror * rng.uniform(0.85, 1.0), 0], [0, 1.0]])
    centre = side / 2 + rng.uniform(-0.08, 0.08, 2) * side
    pen = Pen(ImageDraw.Draw(image), scale * squeeze @ turn, centre)
    BODIES[look.body](pen, Paint.of(look), look)
    pixels = np.asarray(image.reduce(2), np.float32)
    tint = light * (1 + rng.uniform(-0.06, 0.06, 3))
    noise = rng.standard_normal((size, size, 1), np.float32) * rng.uniform(2, 7)
    pixels = pixels * tint.astype(np.float32) + noise
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _background(image: Image.Image, habitat: str, rng: np.random.Generator) -> None:
    ground, backdrop, things = HABITATS[habitat]
    side = image.width
    draw = ImageDraw.Draw(image)
    jitter = rng.normal(0, (0.02, 0.05, 0.06))
    horizon = rng.uniform(0.3, 0.65) * side
    draw.rectangle((0, 0, side, horizon), fill=rgb(*(np.array(backdrop) + jitter)))
    draw.rectangle((0, horizon, side, side), fill=rgb(*(np.array(ground) + jitter)))
    for _ in range(int(rng.integers(5, 14))):
        x, y, length = (
            rng.uniform(0, side),
            rng.uniform(horizon * 0.8, side),
            rng.uniform(0.03, 0.2),
        )
        shade = rgb(*(np.array(ground) + rng.normal(0, (0.03, 0.08, 0.12))))
        r = length * side
        if things == "trunks":
            draw.rectangle((x, 0, x + r / 2, y), fill=shade)
        elif things == "blades":
            draw.line((x, y, x + rng.uniform(-r, r), y - 2 * r), fill=shade, width=3)
        else:
            height = r if things == "bubbles" else r / 2
            top = rng.uniform(0, side) if things == "bubbles" else y
            draw.ellipse((x, top, x + r, top + height), fill=shade)
