"""Invented names: unique, pronounceable, and true to the picture."""

import re

import numpy as np
import pytest

from bioclip2_jax.prepare.simulated import names
from bioclip2_jax.prepare.simulated.tree import appearance, grow_tree


@pytest.fixture(scope="module")
def tree():
    return grow_tree(seed=5, num_species=5000)


def _adult_male(species):
    return appearance(species, male=True, juvenile=False, habitat=species.habitat)


def test_even_thousands_of_species_mostly_have_an_english_name_of_their_own(tree):
    given = [species.common_name for species in tree if species.common_name]
    assert len(set(given)) == len(given) > 0.8 * len(tree)
    assert all(re.fullmatch(r"([A-Z][a-z]+(-[a-z]+)? )+[A-Z][a-z]+", name) for name in given)


def test_some_species_have_no_english_name(tree):
    assert 0.05 < np.mean([not species.common_name for species in tree]) < 0.2


def test_colours_in_names_are_those_of_the_picture(tree):
    named = {word for s in tree for word in names._COLOURS if word.title() in s.common_name.split()}
    assert len(named) >= 15
    for species in tree:
        words = species.common_name.lower().split()[:-1]
        colour = names.colour_word(_adult_male(species))
        assert all(word == colour for word in words if word in names._COLOURS)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("Long-billed", lambda look: look.body == "bird" and look.appendage > 0),
        ("Short-eared", lambda look: look.body == "mammal" and look.appendage <= 0),
        ("Many-tiered", lambda look: look.body == "conifer" and look.frequency > 0),
        ("Striped", lambda look: look.pattern == "stripes" and look.body != "mushroom"),
        ("Marsh", lambda look: look.habitat == "wetland"),
        ("Deep-sea", lambda look: look.habitat == "deep sea"),
    ],
)
def test_other_words_in_names_say_what_the_picture_shows(tree, word, shown):
    called_so = [species for species in tree if word in species.common_name.split()]
    assert called_so and all(shown(_adult_male(species)) for species in called_so)


def test_names_grow_only_until_they_are_new(tree):
    used, look = set(), _adult_male(tree[0])
    given = [names.common_name(look, "finch", np.random.default_rng(1), used) for _ in range(20)]
    assert [len(name.split()) for name in given if name] == [2] * 4 + [3] * 6 + [4] * 4 + [5]
    assert given[15:] == [""] * 5


def test_latin_names_are_given_once_and_end_as_their_rank_does():
    source = names.LatinNames(np.random.default_rng(0))
    families = [source.latin(2, "idae") for _ in range(2000)]
    assert len(set(families)) == 2000
    assert all(re.fullmatch(r"[A-Z][a-z]+idae", name) for name in families)
    assert all(re.search(r"[aeiou]", name[:4].lower()) for name in families)


def test_epithets_are_unique_within_a_genus():
    source = names.LatinNames(np.random.default_rng(0))
    epithets = [source.epithet("Pica") for _ in range(500)]
    assert len(set(epithets)) == 500 and all(name.islower() for name in epithets)
