"""Pictures of simulated organisms: format, nuisance, habitats, and what of the traits shows."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from bioclip2_jax.prepare.simulated.bodies import BODIES, Appearance, Paint, rgb
from bioclip2_jax.prepare.simulated.photograph import HABITATS, render


def _look(**changes) -> Appearance:
    middle = Appearance(
        body="bird",
        hue=0.0,
        second_hue=0.6,
        saturation=0.7,
        lightness=0.7,
        elongation=0.0,
        head=0.0,
        appendage=0.0,
        limb=0.0,
        frequency=0.0,
        contrast=1.0,
        pattern="plain",
        form=0,
        juvenile=False,
        male=True,
        nocturnal=False,
        habitat="grassland",
    )
    return dataclasses.replace(middle, **changes)


def _pixels(look: Appearance, seed: int = 0, size: int = 64) -> np.ndarray:
    """[size, size, 3] float32; the same seed repeats pose, light, background and noise."""
    data = render(look, np.random.default_rng(seed), size)
    return np.asarray(Image.open(io.BytesIO(data)), np.float32)


def _changed(a: Appearance, b: Appearance, threshold: float = 25) -> float:
    """Share of pixels that differ between two looks under the same nuisance."""
    return float((abs(_pixels(a) - _pixels(b)).max(axis=2) > threshold).mean())


@pytest.mark.parametrize("size", [16, 64, 97])
def test_a_picture_is_a_square_jpeg_in_colour(size):
    image = Image.open(io.BytesIO(render(_look(), np.random.default_rng(0), size)))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))


@pytest.mark.parametrize("body", BODIES)
def test_the_same_random_numbers_draw_the_same_picture_and_others_another(body):
    look = _look(body=body)
    one, again, other = (render(look, np.random.default_rng(seed), 48) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("body", BODIES)
def test_extreme_traits_still_draw_inside_the_picture(body):
    for z in (-30.0, 30.0):
        shape = dict.fromkeys(("elongation", "head", "appendage", "limb", "frequency"), z)
        assert _pixels(_look(body=body, contrast=z, pattern="spots", **shape)).std() > 5


@pytest.mark.parametrize(
    ("body", "trait"),
    [
        (body, trait)
        for body in BODIES
        for trait in ("elongation", "head", "appendage", "limb")
        if (body, trait) != ("fern", "limb")  # a frond has no limb
    ],
)
def test_proportions_show_in_every_body_plan(body, trait):
    small, large = (_look(body=body, **{trait: z}) for z in (-2.0, 2.0))
    assert _changed(small, large) > 0.002


@pytest.mark.parametrize("body", BODIES)
def test_the_hue_shows_in_every_body_plan(body):
    assert _changed(_look(body=body, hue=0.0), _look(body=body, hue=0.33)) > 0.02


@pytest.mark.parametrize("body", ["bird", "fish", "mammal", "beetle", "butterfly", "spider"])
def test_animals_with_different_patterns_look_different(body):
    looks = [_look(body=body, pattern=p) for p in ("plain", "stripes", "bands", "spots")]
    for i, one in enumerate(looks):
        assert all(_changed(one, other) > 0.003 for other in looks[:i])


def test_body_plans_differ_from_each_other_more_than_species_of_one():
    bodies = [_look(body=body) for body in BODIES]
    between = min(_changed(a, b) for i, a in enumerate(bodies) for b in bodies[:i])
    within = _changed(_look(), _look(head=0.45, appendage=0.45))
    assert between > 2 * within > 0


def test_each_habitat_has_a_background_of_its_own():
    means = {
        habitat: np.mean(
            [_pixels(_look(habitat=habitat), s, 32) for s in range(12)], axis=(0, 1, 2)
        )
        for habitat in HABITATS
    }
    habitats = list(means)
    gaps = [np.abs(means[a] - means[b]).max() for i, a in enumerate(habitats) for b in habitats[:i]]
    assert min(gaps) > 8


def test_nocturnal_species_are_photographed_in_less_light():
    assert _pixels(_look(nocturnal=True)).mean() < 0.75 * _pixels(_look()).mean()


def test_juveniles_are_smaller_than_adults():
    def area(juvenile: bool) -> float:
        # A hue far from the grassland's picks out the organism.
        look = _look(body="beetle", hue=0.83, second_hue=0.83, juvenile=juvenile)
        red, green, blue = np.moveaxis(_pixels(look), 2, 0)
        return float((np.minimum(red, blue) > green + 15).mean())

    assert 0 < area(True) < 0.8 * area(False)


def test_males_are_brighter_and_young_ones_paler():
    def saturation(look: Appearance) -> float:
        colour = Paint.of(look).main
        return 1 - min(colour) / max(colour)

    male, female, young = _look(), _look(male=False), _look(male=False, juvenile=True)
    assert saturation(male) > saturation(female) > saturation(young)


def test_colours_wrap_around_in_hue_and_are_clipped_otherwise():
    assert rgb(1.25, 0.5, 0.5) == rgb(0.25, 0.5, 0.5)
    assert rgb(0.0, 2.0, 3.0) == (255, 0, 0)
    assert rgb(0.0, -1.0, 1.0) == (255, 255, 255)
    assert rgb(0.4, 0.5, -1.0) == (0, 0, 0)
