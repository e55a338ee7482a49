"""The tables of the scaling study, in Markdown."""

import dataclasses
from collections.abc import Sequence

from bioclip2_jax.evaluation.experiments import FIRST, LEVEL, Measures, Row, Scaling


def tables(result: Scaling) -> str:
    """The answers and the means of the rows as Markdown: what `scaling.md` holds."""
    return "\n".join(
        [
            *answers_table(result),
            "",
            *families_table(result),
            "",
            *models_table(result.rows, [field.name for field in dataclasses.fields(Measures)]),
            "",
        ]
    )


def answers_table(result: Scaling) -> list[str]:
    """The claims about the paper's own model, and the check; lines."""
    lines = [
        "| claim | sign | slope a doubling | 95 % | p, corrected | trees that agree | answer |"
        " least, detectable | theory | pictures | shuffled: null of 100 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in result.hypotheses:
        if one.family not in (FIRST, "check"):
            continue
        agree = sum(one.sign * slope > 0 for slope in one.trees)
        cells = [
            one.claim,
            "+" if one.sign > 0 else "−",
            _signed(one.slope),
            "" if one.interval is None else " … ".join(map(_signed, one.interval)),
            f"{one.p_corrected:.4f}",
            f"{agree} of {len(one.trees)}",
            f"**{one.verdict}**",
            f"{one.least}, {_plain(one.detectable)}",
            _signed(one.predicted),
            _signed(one.in_pictures),
            "" if one.shuffled_null is None else f"{one.shuffled_null}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def families_table(result: Scaling) -> list[str]:
    """Slopes of all families, a column each; those that hold or whose opposite does are bold."""
    families = [one.family for one in result.hypotheses if one.family != "check"]
    families = list(dict.fromkeys(families))
    names = dict.fromkeys(one.name for one in result.hypotheses if one.family in families)
    cells = {(one.family, one.name): one for one in result.hypotheses}
    lines = [f"| slope a doubling | {' | '.join(families)} |", "|---" * (1 + len(families)) + "|"]
    for name in names:
        row = [name]
        for family in families:
            one = cells.get((family, name))
            text = "" if one is None else _signed(one.slope)
            row.append(f"**{text}**" if one and one.p_corrected <= LEVEL else text)
        lines.append(f"| {' | '.join(row)} |")
    return lines


def models_table(rows: Sequence[Row], measures: Sequence[str]) -> list[str]:
    """Means over trees, a line a model."""
    lines = [
        f"| model | species | pictures | steps | {' | '.join(measures)} |",
        "|---" * (4 + len(measures)) + "|",
    ]
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(_model(row), []).append(row)
    for model, those in groups.items():
        means = [_mean([getattr(row, name) for row in those]) for name in measures]
        lines.append(f"| {' | '.join([*model, *map(_plain, means)])} |")
    return lines


def main_models(rows: Sequence[Row]) -> list[Row]:
    """What is known before training, the paper's own model and what it is compared with, pictures.

    Compared: with flat names, and from random weights.
    """
    asked = (
        ("factors", "hierarchical", True),
        ("factors", "flat", True),
        ("scratch", "hierarchical", False),
    )
    chosen = [row for row in rows if row.captions in ("untrained", "general")]
    for kind in asked:
        chosen += [row for row in rows if (row.world, row.captions, row.replay) == kind]
    return chosen + [row for row in rows if row.world == "pictures" and row.images]


def _model(row: Row) -> tuple[str, ...]:
    name = f"{row.world}: {row.captions}{', replay' if row.replay else ''}"
    if row.grows not in ("", "all"):
        name += f", {row.grows} alone"
    return (name, *(f"{size:,}" if size else "" for size in (row.species, row.images, row.steps)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}".replace("-", "−")
