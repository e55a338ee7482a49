"""Shares of names at a place: what was recorded gains, what was not is damped, nothing is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip2_jax.measures.local_shares import LOCAL, Tree, shares

# Birds of three families: three species of a genus with another genus beside it, and two of one
# species each; and two beetles.
CLASS = np.array([0, 0, 0, 0, 0, 0, 1, 1])
FAMILY = np.array([0, 0, 0, 0, 1, 2, 3, 3])
GENUS = np.array([0, 0, 0, 1, 2, 3, 4, 5])
NAMES = np.arange(8)
TREE = Tree.of([CLASS, FAMILY, GENUS, NAMES], apart=1)
NODES = int(TREE.starts[-1])


def window(*, class_=(), family=(), genus=(), name=()) -> np.ndarray:
    """[nodes] of {number: records} a level."""
    counts = np.zeros(NODES)
    for start, level in zip(TREE.starts, (class_, family, genus, name), strict=False):
        for number, count in dict(level).items():
            counts[start + number] = count
    return counts


windows = st.lists(st.lists(st.integers(0, 10**6), min_size=NODES, max_size=NODES), max_size=4).map(
    lambda many: [np.array(one, float) for one in many]
)


def test_without_records_one_name_is_like_another():
    for empty in ([], [window(), window()]):
        assert shares(TREE, empty) == pytest.approx(np.full(8, 1 / 8))


def test_the_formula_by_hand():
    # One window: three of four records are of name 0, one of name 3.
    found = shares(TREE, [window(name={0: 3, 3: 1})])
    birds = LOCAL * (4 + 6 / 8) / 5 + (1 - LOCAL) * 6 / 8
    family, genus, name = (4 + 4 / 6) / 5, (3 + 3 / 4) / 5, (3 + 1 / 3) / 4
    assert found[0] == pytest.approx(birds * (LOCAL * family * genus * name + (1 - LOCAL) / 6))
    other = family * genus * (1 - name) / 2
    assert found[1] == pytest.approx(birds * (LOCAL * other + (1 - LOCAL) / 6))
    # A narrower window without records changes nothing; one with records does.
    assert shares(TREE, [window(), window(name={0: 3, 3: 1})]) == pytest.approx(found)
    assert shares(TREE, [window(name={5: 1}), window(name={0: 3, 3: 1})])[5] > found[5]


@settings(max_examples=60, deadline=None)
@given(windows, st.integers(0, 7), st.integers(0, 3))
def test_shares_sum_to_one_lose_nothing_and_grow_with_records(many, name, place):
    before = shares(TREE, many)
    assert before.sum() == pytest.approx(1) and before.min() > 1e-10
    if many:
        more = [one.copy() for one in many]
        more[place % len(many)][TREE.starts[3] + name] += 1
        assert shares(TREE, more)[name] >= before[name] * (1 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_recorded_genus_lifts_its_other_species_above_those_of_unrecorded_families(
    few, many, others
):
    found = shares(TREE, [window(name={0: few, 3: many, 4: others})])
    assert found[0] > found[1] == pytest.approx(found[2])
    assert found[1] >= found[5] * (1 - 1e-12)


def test_records_of_a_genus_alone_lift_all_its_species():
    found = shares(TREE, [window(genus={0: 20})])
    assert found[0] == pytest.approx(found[1]) and found[0] > found[3] > found[4]


def test_records_of_one_class_tell_nothing_of_the_proportions_in_another():
    few = shares(TREE, [window(name={6: 3, 7: 1})])
    many = shares(TREE, [window(name={0: 10**6, 6: 3, 7: 1})])
    assert many[6] < few[6] and many[6] / many[7] == pytest.approx(few[6] / few[7])


def test_damping_is_bounded_by_a_tenth_for_the_class_and_one_within_it():
    world = window(name=dict.fromkeys(range(8), 10**9))
    for missing, factor in ({5: 0}, 1 - LOCAL), ({6: 0, 7: 0}, 1 - LOCAL):
        here = window(name=dict.fromkeys(range(8), 10**9) | missing)
        name = next(iter(missing))
        ratio = shares(TREE, [here, world])[name] / shares(TREE, [world])[name]
        assert 0.9 * factor < ratio < 1.2 * factor


def test_names_of_one_node_share_alike():
    levels = [np.array([0, 0, 1]), np.array([0, 0, 1])]
    for apart in (1, 2):
        tree = Tree.of(levels, apart=apart)
        assert shares(tree, []) == pytest.approx(np.full(3, 1 / 3))
        found = shares(tree, [np.array([0, 0, 5.0, 0])])
        assert found[0] == found[1] > found[2] and found.sum() == pytest.approx(1)
