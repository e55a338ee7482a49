"""What a permutation can show: p-values, their least, what it takes to reach them, and many tests.

Where a table has many p-values, some are small by chance. Those of one column, the same test of
many traits or species, are adjusted by Benjamini and Hochberg (1995): of the rows that are called
found at an adjusted p of 0.05, one in twenty is expected to be false. Looking through a table asks
just that; Holm's step-down, which makes even a single false one unlikely, could pass nothing in a
table of more than fifty rows and 999 permutations, whose least p is 0.001. The procedure holds for
tests that are independent or agree with one another, as those of related traits of the same species
do. Columns are adjusted apart: a column whose p are all small, as ancestry makes those of plain
swaps, would lend its leniency to the others.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

LEVEL = 0.05
LARGE = 0.3  # a correlation that it should not take to be found


def p_value(statistics: np.ndarray) -> float:
    """Share of the values that reach the first one, which is the observed one and counts itself."""
    # Ties that differ by rounding are ties.
    slack = 1e-12 * max(1.0, abs(float(statistics[0])))
    return float((statistics >= statistics[0] - slack).mean())


def needed(null: np.ndarray) -> float:
    """What a statistic must exceed for p <= 0.05 among these values; infinite if nothing would."""
    spare = math.floor(LEVEL * (1 + len(null)) + 1e-9) - 1  # null values that may reach it
    return float(np.sort(null)[-spare - 1]) if spare >= 0 else math.inf


def cautions(
    held_out: str, chance: float, kinds: dict[str, np.ndarray], ways: dict[str, int]
) -> list[str]:
    """What so few cases cannot show, a sentence each; none where there are enough.

    Args:
      held_out: name of a statistic between `chance` and 1.
      chance: its value where nothing is found.
      kinds: what is dealt → the statistic's values in that null.
      ways: what is dealt → in how many different ways it can be.
    """
    said = []
    for kind, count in ways.items():
        if 1 / count > LEVEL:
            said.append(
                f"{kind} can be dealt in {count} ways only, so that p cannot fall below"
                f" {1 / count:.3f}"
            )
    least = {kind: needed(null) for kind, null in kinds.items() if len(null)}
    if any(value >= chance + LARGE * (1 - chance) for value in least.values()):
        bars = " and ".join(
            f"{value:.2f} among {kind}" if value < 1 else f"more than there is among {kind}"
            for kind, value in least.items()
        )
        said.append(
            f"{held_out} must exceed {bars} for a p of {LEVEL}; where it truly is just so much,"
            " that is found in half of such sets"
        )
    return said


def arrangements(values: np.ndarray, clades: np.ndarray | None = None) -> int:
    """Different ways to deal the values to their cases, inside the clades if there are any."""
    clades = np.zeros(len(values), np.int64) if clades is None else clades
    ways = 1
    for clade in np.unique(clades):
        counts = np.unique(values[clades == clade], return_counts=True)[1].tolist()
        ways *= math.factorial(sum(counts)) // math.prod(map(math.factorial, counts))
    return ways


def divisions(labels: np.ndarray) -> int:
    """Different ways to divide the cases as the labels do, whatever the parts are called."""
    sizes = np.unique(labels, return_counts=True)[1]
    alike = np.unique(sizes, return_counts=True)[1].tolist()
    return arrangements(labels) // math.prod(map(math.factorial, alike))


def adjusted(rows: Sequence[Any], columns: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Adjusted p-values of the rows of a table.

    Args:
      rows: objects with p-values as attributes, None where there is none.
      columns: names of these; a column goes by another name in other kinds of rows.

    Returns:
      Of every row, name → adjusted p-value; of columns with more than one.
    """
    results: list[dict[str, float]] = [{} for _ in rows]
    for names in columns:
        cells = [
            (row, name, getattr(each, name))
            for row, each in enumerate(rows)
            for name in names
            if getattr(each, name, None) is not None
        ]
        if len(cells) > 1:
            values = false_discovery_control([p for _, _, p in cells])
            for (row, name, _), value in zip(cells, values.tolist(), strict=True):
                results[row][name] = value
    return results
