"""Analyses of kept features: what a model knows between and within species.

Each writes `OUT/NAME.json` and figures as SVG, those of features also a CSV with a row a species.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.analysis import between as between_species
from bioclip2_jax.analysis import traits
from bioclip2_jax.analysis import within as within_species
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features import store as stores
from bioclip2_jax.measures.maps import flat_map, principal_map
from bioclip2_jax.text.taxonomy import RANKS

PANELS = 2
PANEL_POINTS = 50  # pictures of a variant of a species


def between(
    features: str | Path,
    out: str | Path,
    wanted: traits.Wanted = traits.Wanted(),  # noqa: B008, it is frozen
    *,
    split: str | None = None,
    leave_out: str = "family",
    min_images: int = 1,
    permutations: int = 999,
    seed: int = 0,
) -> dict:
    """Looks for traits in the prototypes of species; see `emergence.between`.

    Args:
      features: a feature store.
      out: folder for the results.
      wanted: the traits; without any, the simulated tree's own.
      split: only pictures of this split make the prototypes.
      leave_out: rank of the clades that are held out.
      min_images: species with fewer pictures are left out.
      permutations: of every trait.
      seed: of the permutations and the map.

    Returns:
      What is written to `between.json`.

    Raises:
      UsageError: no such label or column, or no trait to look for.
      UserError: no features there, a trait that is known of too few species, or too few clades.
    """
    features, out = Path(features), Path(out)
    store = _read(features, split)
    species = traits.list_species(store, str(features), min_images=min_images)
    values, classes = traits.known_traits(store, species, wanted, str(features))
    pictures = species.numbers >= 0
    prototypes = between_species.prototypes(store.features[pictures], species.numbers[pictures])
    clades = species.clades(leave_out)

    columns: dict[str, list] = {
        "scientificName": species.names,
        leave_out: [taxon.ranks[RANKS.index(leave_out)] for taxon in species.taxa],
        "num_images": np.bincount(species.numbers[pictures]).tolist(),
    }
    options = {"permutations": permutations, "seed": seed}
    continuous, discrete = [], []
    for name, numbers in values.items():
        known = np.isfinite(numbers)
        _check_known(name, known)
        found = _named(
            name, between_species.continuous_trait, prototypes[known], numbers[known],
            clades[known], **options,
        )  # fmt: skip
        names = [species.names[row] for row in np.flatnonzero(known)]
        continuous.append(_continuous_row(name, found, names, numbers[known], leave_out))
        columns[name] = [float(v) if np.isfinite(v) else None for v in numbers]
        columns[f"{name} predicted"] = _spread(found.predictions, known)
    for name, labels in classes.items():
        known = np.asarray([label != "" for label in labels])
        _check_known(name, known)
        some = [labels[row] for row in np.flatnonzero(known)]
        found = _named(
            name, between_species.discrete_trait, prototypes[known], some, clades[known], **options
        )
        row = {"label": name, "num_species": len(some), "num_classes": len(set(some))}
        discrete.append(row | dataclasses.asdict(found) | {"clade": leave_out})
        columns[name] = list(labels)

    tsne = flat_map(prototypes, seed)
    result = _head("between", store, features) | {
        "num_images": int(pictures.sum()),
        "num_species": len(species.names),
        "settings": dataclasses.asdict(wanted)
        | {"split": split, "leave_out": leave_out, "min_images": min_images}
        | options,
        "continuous": continuous,
        "discrete": discrete,
        "map": {
            "species": species.names,
            "group": [taxon.order or taxon.class_ or taxon.phylum for taxon in species.taxa],
            "pca": principal_map(prototypes).tolist(),
            "tsne": tsne.tolist(),
        },
    }
    columns |= {"tsne_x": tsne[:, 0].tolist(), "tsne_y": tsne[:, 1].tolist()}
    from bioclip2_jax.report.figures import traits as emergence_figures

    figures = {"species_map.svg": emergence_figures.species_map(result)}
    if continuous:
        figures["trait_axes.svg"] = emergence_figures.trait_axes(result)
    _write(out, "between", result, columns, figures)
    return result


def within(
    features: str | Path,
    out: str | Path,
    label: str,
    values: tuple[str, str] | None = None,
    *,
    split: str | None = None,
    species_rank: str = "species",
    dimensions: int | None = None,
    min_images: int = 1,
    permutations: int = 999,
    seed: int = 0,
) -> dict:
    """Measures how two variants of the same species differ; see `emergence.within`.

    Args:
      features: a feature store.
      out: folder for the results.
      label: of the pictures, such as sex.
      values: its two values; None if it has just two.
      split: only pictures of this split.
      species_rank: rank whose taxa count as species.
      dimensions: of the between-species subspace; None takes all.
      min_images: species with fewer pictures are left out of that subspace too.
      permutations: random divisions of the pictures of each species.
      seed: of all draws.

    Returns:
      What is written to `within.json`.

    Raises:
      UsageError: no such label or value, or unfit `dimensions`.
      UserError: no features there, or nothing to compare.
    """
    features, out = Path(features), Path(out)
    store = _read(features, split)
    texts = traits.label_values(store, label, str(features))
    variants = _two_values(texts, label, values, str(features))
    species = traits.list_species(store, str(features), species_rank, min_images)
    rows = np.flatnonzero(species.numbers >= 0)
    places, numbers = store.features[rows], species.numbers[rows]
    kinds = np.select([texts[rows] == variants[0], texts[rows] == variants[1]], [0, 1], -1)
    found = within_species.within(
        places, numbers, kinds, dimensions=dimensions, permutations=permutations, seed=seed
    )
    entries = [_species_row(entry, species.names) for entry in found.species]
    result = _head("within", store, features) | {
        "label": label,
        "variants": list(variants),
        "num_species": len(entries),
        "dimensions": found.dimensions,
        "settings": {
            "split": split,
            "species_rank": species_rank,
            "min_images": min_images,
            "permutations": permutations,
            "seed": seed,
            "subspace_species": len(species.names),
            "dim": places.shape[1],
        },
        "rho": {
            "mean": found.rho,
            "interval": found.rho_interval,
            "null_mean": found.null_mean,
            "p": found.p,
            "raw_mean": found.rho_raw,
            "halves_mean": found.halves,
            "random_direction": found.random_direction,
        },
        "fisher": {"mean": found.fisher, "interval": found.fisher_interval},
        "fisher_removed": {
            "mean": found.fisher_removed,
            "interval": found.fisher_removed_interval,
        },
        "species": entries,
        "panels": _panels(found, places, numbers, kinds, species.names),
    }
    from bioclip2_jax.report.figures import traits as emergence_figures

    figures = {"rho_by_species.svg": emergence_figures.rho_by_species(result)}
    for number, panel in enumerate(result["panels"], start=1):
        figures[f"panel_{number}.svg"] = emergence_figures.variant_panel(panel, result["variants"])
    columns = {key: [entry[key] for entry in entries] for key in entries[0] if key != "counts"}
    for place, variant in enumerate(variants):
        columns[f"num_{variant}"] = [entry["counts"][place] for entry in entries]
    _write(out, "within", result, columns, figures)
    return result


def theory(out: str | Path, seed: int = 0, say: Callable[[str], None] = print) -> dict:
    """The experiments of `emergence.theory`.

    Args:
      out: folder for the results.
      seed: of everything that is drawn.
      say: receives one line a setting.

    Returns:
      What is written to `theory.json`.
    """
    from bioclip2_jax.analysis import theory as experiments
    from bioclip2_jax.report.figures.theory import theory_curves

    found = experiments.run(seed, say=say)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / "theory.svg", theory_curves(found))
    files.write_json(out / "theory.json", found)
    return found


def trait_line(row: dict) -> str:
    """An entry of `continuous` or `discrete` of a between result, in one line."""
    if "trait" in row:
        inside = ""
        if row["within_clade_r"] is not None:
            inside = f", inside clades r {_r(row['within_clade_r'])} ({_p(row['within_clade_p'])})"
        return (
            f"{row['trait']}: r {_r(row['ridge_r'])}, R2 {_r(row['ridge_r2'])} with"
            f" {row['clade']} left out ({_p(row['ridge_p'])}){inside}, distances"
            f" {_r(row['spearman'])} ({_p(row['mantel_p'])}), {row['num_species']} species"
        )
    return (
        f"{row['label']}: accuracy {row['accuracy']:.2f} with {row['clade']} left out, chance"
        f" {row['chance']:.2f} ({_p(row['accuracy_p'])}), silhouette {_r(row['separation'])}"
        f" ({_p(row['separation_p'])}), {row['num_species']} species"
    )


def within_lines(result: dict) -> list[str]:
    """A within result in lines: one a species, and one over all."""
    lines = []
    for row in result["species"]:
        rho = "unknown" if row["rho"] is None else _r(row["rho"])
        counts = " + ".join(map(str, row["counts"]))
        lines.append(
            f"{row['name']} ({counts}): rho {rho}, uncorrected {row['rho_raw']:.2f}"
            f" ({_p(row['rho_p'])}), Fisher {row['fisher']:.3f} ({_p(row['fisher_p'])}), without"
            f" the species' subspace {row['fisher_removed']:.3f}"
        )
    rho = result["rho"]
    mean = "unknown" if rho["mean"] is None else _r(rho["mean"])
    span = "" if rho["interval"] is None else " [{:.2f}, {:.2f}]".format(*rho["interval"])
    lines.append(
        f"{result['label']}, {result['num_species']} species: rho {mean}{span}, uncorrected"
        f" in halves {rho['halves_mean']:.2f}, random divisions {rho['null_mean']:.2f}"
        f" ({_p(rho['p'])}), a"
        f" random direction {rho['random_direction']:.2f} ({result['dimensions']} of"
        f" {result['settings']['dim']} dimensions)"
    )
    return lines


def _r(value: float) -> str:
    return f"{value:+.2f}"


def _p(value: float) -> str:
    return f"p {value:.3f}"


def _read(features: Path, split: str | None) -> stores.Store:
    store = stores.read(features)
    if split is None:
        return store
    rows = store.texts["split"] == split
    if not rows.any():
        known = sorted(set(store.texts["split"].tolist()) - {""})
        has = f"it has {', '.join(known)}" if known else "it was made of a plain folder"
        raise UsageError(f"{features}: no features of split {split!r}; {has}")
    return store.select(rows)


def _head(name: str, store: stores.Store, features: Path) -> dict:
    return {"analysis": name, "model": store.about.model.path, "features": str(features)}


def _check_known(name: str, known: np.ndarray) -> None:
    if not known.any():
        raise UserError(
            f"{name} is known of none of the {len(known)} species; do the names in the table agree"
            " with those of the features?"
        )


def _named(name: str, function, *args, **options):
    try:
        return function(*args, **options)
    except UserError as error:
        raise type(error)(f"{name}: {error}") from error


def _continuous_row(
    name: str, found: between_species.ContinuousTrait, names: list[str], values: np.ndarray, rank
) -> dict:
    row = dataclasses.asdict(found)
    predictions, projections = row.pop("predictions"), row.pop("projections")
    del row["axis"]
    return (
        {"trait": name, "num_species": len(names)}
        | row
        | {
            "clade": rank,
            "projections": [
                list(x) for x in zip(names, values.tolist(), projections.tolist(), strict=True)
            ],
            "predictions": predictions.tolist(),
        }
    )


def _spread(values: np.ndarray, known: np.ndarray) -> list:
    column: list = [None] * len(known)
    for row, value in zip(np.flatnonzero(known), values.tolist(), strict=True):
        column[row] = value
    return column


def _two_values(
    texts: np.ndarray, label: str, values: tuple[str, str] | None, place: str
) -> tuple[str, str]:
    counts = Counter(texts.tolist())
    counts.pop("", None)
    known = ", ".join(f"{value} ({count})" for value, count in sorted(counts.items())) or "none"
    if values is None:
        if len(counts) != 2:
            raise UsageError(f"{place}: choose two values of {label} with --values: {known}")
        return tuple(sorted(counts))
    for value in values:
        if value not in counts:
            raise UsageError(f"{place}: no picture has {label} {value!r}; there are {known}")
    if values[0] == values[1]:
        raise UsageError(f"--values {values[0]} {values[1]}: name two different values")
    return tuple(values)


def _species_row(entry: within_species.SpeciesWithin, names: list[str]) -> dict:
    row = {"name": names[entry.species]} | dataclasses.asdict(entry)
    del row["species"]
    return row | {"counts": list(entry.counts)}


def _panels(
    found: within_species.Within,
    features: np.ndarray,
    numbers: np.ndarray,
    kinds: np.ndarray,
    names: list[str],
) -> list[dict]:
    # The species with the most pictures, which is no choice by how well they look.
    order = sorted(found.species, key=lambda entry: (-min(entry.counts), entry.species))
    panels = []
    for start in range(0, min(len(order) // 3, PANELS) * 3, 3):
        three = [entry.species for entry in order[start : start + 3]]
        panel = within_species.panel(features, numbers, kinds, three)
        points = []
        for place in range(3):
            for variant in (0, 1):
                rows = np.flatnonzero((panel.species == place) & (panel.variants == variant))
                for row in rows[:PANEL_POINTS]:
                    xyz = panel.points[row].tolist()
                    points.append({"species": place, "variant": variant, "xyz": xyz})
        panels.append(
            {
                "names": [names[number] for number in three],
                "rho": panel.rho,
                "points": points,
                "means": panel.means.tolist(),
            }
        )
    return panels


def _write(
    out: Path, name: str, result: dict, columns: dict[str, list], figures: dict[str, str]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    files.write_csv(out / f"{name}.csv", rows, list(columns))
    for file, text in figures.items():
        files.write_text(out / file, (text + "\n"))
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    files.write_text(out / f"{name}.json", (text + "\n"))
