"""The zero-shot templates: how many, in which order, and what becomes of a name in them."""

import hashlib

import pytest

from bioclip2_jax.text.templates import IMAGENET_TEMPLATES, ZERO_SHOT_TEMPLATES


def test_the_plain_photo_prompt_comes_before_the_80_of_clip():
    assert len(IMAGENET_TEMPLATES) == 80
    assert ZERO_SHOT_TEMPLATES == ("a photo of {}.", *IMAGENET_TEMPLATES)


def test_no_template_stands_twice():
    assert len(set(ZERO_SHOT_TEMPLATES)) == 81


def test_the_list_is_the_published_one_in_its_order():
    text = "\n".join(IMAGENET_TEMPLATES)
    assert IMAGENET_TEMPLATES[0] == "a bad photo of a {}."
    assert IMAGENET_TEMPLATES[-1] == "a tattoo of the {}."
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "4f976686fb651bb5803d4689dcd849f75efe0ef19a3c801355bc9a6f03c8a5af"
    )


@pytest.mark.parametrize("name", ["Ursus arctos", "{weird} name {0}", "Tomato___Late_blight", "%s"])
def test_a_name_goes_in_once_and_unchanged(name):
    for template in ZERO_SHOT_TEMPLATES:
        before, after = template.split("{}")
        assert template.format(name) == before + name + after
        assert template.endswith(".")
