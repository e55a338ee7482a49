"""Analyses of kept features: what a model knows between and within species.

Each writes `OUT/NAME.json` and figures as SVG, those of features also a CSV with a row a species.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.analysis import between as between_species
from bioclip2_jax.analysis import nulls, traits
from bioclip2_jax.analysis import within as within_species
from bioclip2_jax.errors import UsageError, UserError, naming
from bioclip2_jax.evaluation import experiments, findings, schema
from bioclip2_jax.features import store as stores
from bioclip2_jax.measures import accuracy
from bioclip2_jax.measures.maps import flat_map, principal_map
from bioclip2_jax.report.figures import traits as drawings
from bioclip2_jax.text.taxonomy import RANKS

PANELS = 2
PANEL_POINTS = 50  # pictures of a variant of a species

# p-values of one test of all traits, measured or named, and of one test of all species.
TESTS = (
    ("mantel_p", "separation_p"),
    ("mantel_tree_p", "separation_tree_p"),
    ("ridge_p", "accuracy_p"),
    ("ridge_tree_p", "accuracy_tree_p"),
    ("within_clade_p",),
)
VARIANT_TESTS = (("rho_p",), ("fisher_p",))

T = TypeVar("T")


def between(
    features: str | Path, out: str | Path, settings: findings.BetweenSettings
) -> findings.Between:
    """Looks for traits in the prototypes of species; see `analysis.between`.

    Args:
      features: a feature store.
      out: folder for the results.
      settings: what is looked for; without any trait, the simulated tree's own.

    Returns:
      What is written to `between.json`.

    Raises:
      UsageError: no such label or column, or no trait to look for.
      UserError: no features there, a trait that is known of too few species, or too few clades.
    """
    features, out = files.place(features), files.place(out)
    store = _read(features, settings.split)
    species = traits.list_species(store, str(features), min_images=settings.min_images)
    values, classes = traits.known_traits(store, species, settings, str(features))
    pictures = species.numbers >= 0
    prototypes = between_species.prototypes(store.features[pictures], species.numbers[pictures])
    rank, clades = settings.leave_out, species.clades(settings.leave_out)
    lineages = accuracy.lineage_groups(species.taxa)

    def known_of(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {rank: numbers[rows] for rank, numbers in lineages.items()}

    draws: dict[str, Any] = {"permutations": settings.permutations, "seed": settings.seed}

    columns: dict[str, list] = {
        "scientificName": species.names,
        rank: [taxon.ranks[RANKS.index(rank)] for taxon in species.taxa],
        "num_images": np.bincount(species.numbers[pictures]).tolist(),
    }
    continuous, discrete = [], []
    for name, numbers in values.items():
        with_trait = np.isfinite(numbers)
        _require_any(name, with_trait)
        with naming(name):
            gradient = between_species.continuous_trait(
                prototypes[with_trait],
                numbers[with_trait],
                clades[with_trait],
                lineages=known_of(with_trait),
                **draws,
            )
        names = [species.names[row] for row in np.flatnonzero(with_trait)]
        places = (names, numbers[with_trait].tolist(), gradient.projections.tolist())
        continuous.append(
            _row(
                findings.ContinuousTrait,
                gradient,
                trait=name,
                num_species=len(names),
                clade=rank,
                projections=list(zip(*places, strict=True)),
                predictions=gradient.predictions.tolist(),
            )
        )
        columns[name] = [float(v) if np.isfinite(v) else None for v in numbers]
        predictions = np.full(len(numbers), None, object)
        predictions[with_trait] = gradient.predictions
        columns[f"{name} predicted"] = predictions.tolist()
    for name, labels in classes.items():
        with_trait = np.asarray([label != "" for label in labels])
        _require_any(name, with_trait)
        with naming(name):
            separation = between_species.discrete_trait(
                prototypes[with_trait],
                np.asarray(labels)[with_trait],
                clades[with_trait],
                lineages=known_of(with_trait),
                **draws,
            )
        discrete.append(
            _row(
                findings.DiscreteTrait,
                separation,
                label=name,
                num_species=int(with_trait.sum()),
                num_classes=len(set(labels) - {""}),
                clade=rank,
            )
        )
        columns[name] = list(labels)

    rows = [*continuous, *discrete]
    rows = [
        replace(row, adjusted=adjusted, cautions=[f"{name}: {text}" for text in row.cautions])
        for row, name, adjusted in zip(
            rows, [*values, *classes], nulls.adjusted(rows, TESTS), strict=True
        )
    ]
    continuous = [row for row in rows if isinstance(row, findings.ContinuousTrait)]
    discrete = [row for row in rows if isinstance(row, findings.DiscreteTrait)]

    tsne = flat_map(prototypes, settings.seed).tolist()
    columns["tsne_x"], columns["tsne_y"] = map(list, zip(*tsne, strict=True))
    layout = findings.SpeciesMap(
        species=species.names,
        group=[taxon.order or taxon.class_ or taxon.phylum for taxon in species.taxa],
        pca=principal_map(prototypes).tolist(),
        tsne=tsne,
    )
    result = findings.Between(
        model=_model(store),
        features=str(features),
        num_images=int(pictures.sum()),
        num_species=len(species.names),
        settings=settings,
        continuous=continuous,
        discrete=discrete,
        map=layout,
    )
    figures = {"species_map.svg": drawings.species_map(layout)}
    if continuous:
        figures["trait_axes.svg"] = drawings.trait_axes(result)
    _write(out, result, columns, figures)
    return result


def within(
    features: str | Path,
    out: str | Path,
    label: str,
    values: tuple[str, str] | None = None,
    *,
    dimensions: int | None = None,
    settings: findings.WithinSettings,
) -> findings.Within:
    """Measures how two variants of the same species differ; see `analysis.within`.

    Args:
      features: a feature store.
      out: folder for the results.
      label: of the pictures, such as sex.
      values: its two values; None if it has just two.
      dimensions: of the between-species subspace; None takes all.
      settings: everything else.

    Returns:
      What is written to `within.json`.

    Raises:
      UsageError: no such label or value, or unfit `dimensions`.
      UserError: no features there, or nothing to compare.
    """
    features, out = files.place(features), files.place(out)
    store = _read(features, settings.split)
    texts = traits.label_values(store, label, str(features))
    variants = _two_values(texts, label, values, str(features))
    species = traits.list_species(store, str(features), settings.species_rank, settings.min_images)
    rows = np.flatnonzero(species.numbers >= 0)
    places, numbers = store.features[rows], species.numbers[rows]
    kinds = np.select([texts[rows] == variants[0], texts[rows] == variants[1]], [0, 1], -1)
    measured = within_species.within(
        places,
        numbers,
        kinds,
        dimensions=dimensions,
        permutations=settings.permutations,
        seed=settings.seed,
    )
    entries = [
        _row(findings.SpeciesVariants, entry, name=species.names[entry.species], adjusted=adjusted)
        for entry, adjusted in zip(
            measured.species, nulls.adjusted(measured.species, VARIANT_TESTS), strict=True
        )
    ]
    result = findings.Within(
        model=_model(store),
        features=str(features),
        label=label,
        variants=variants,
        num_species=len(entries),
        dimensions=measured.dimensions,
        resolved=measured.resolved,
        settings=replace(settings, subspace_species=measured.spanning, dim=places.shape[1]),
        rho=findings.Share(
            mean=measured.rho,
            interval=measured.rho_interval,
            all_species=measured.rho_all,
            null_mean=measured.null_mean,
            p=measured.p,
            raw_mean=measured.rho_raw,
            halves_mean=measured.halves,
            random_direction=measured.random_direction,
        ),
        fisher=findings.Ratio(
            mean=measured.fisher, interval=measured.fisher_interval, raw=measured.fisher_raw
        ),
        fisher_removed=findings.Ratio(
            mean=measured.fisher_removed,
            interval=measured.fisher_removed_interval,
            raw=measured.fisher_removed_raw,
        ),
        fisher_floor=measured.fisher_floor,
        plane=measured.plane,
        cautions=measured.cautions,
        species=entries,
        panels=_panels(measured, places, numbers, kinds, species.names),
    )
    figures = {"rho_by_species.svg": drawings.rho_by_species(result)}
    for number, panel in enumerate(result.panels, start=1):
        figures[f"panel_{number}.svg"] = drawings.variant_panel(panel, variants)
    several = ("counts", "adjusted")
    measures = [field.name for field in fields(findings.Variants) if field.name not in several]
    columns = {key: [getattr(entry, key) for entry in entries] for key in ("name", *measures)}
    for key in ("rho_p", "fisher_p"):
        columns[f"{key}_adjusted"] = [entry.adjusted.get(key) for entry in entries]
    for place, variant in enumerate(variants):
        columns[f"num_{variant}"] = [entry.counts[place] for entry in entries]
    _write(out, result, columns, figures)
    return result


def theory(
    out: str | Path, seed: int = 0, say: Callable[[str], None] = print
) -> experiments.Theory:
    """The experiments of `analysis.theory`.

    Args:
      out: folder for the results.
      seed: of everything that is drawn.
      say: receives one line a setting.

    Returns:
      What is written to `theory.json`.
    """
    from bioclip2_jax.analysis import theory as experiments
    from bioclip2_jax.report.figures.theory import theory_curves

    result = experiments.run(seed, say=say)
    out = files.place(out)
    files.make_folder(out)
    files.write_text(out / "theory.svg", theory_curves(result))
    schema.write(out / "theory.json", result)
    return result


def _read(features: Path, split: str | None) -> stores.Store:
    store = stores.read(features)
    if split is None:
        return store
    rows = store.texts["split"] == split
    if not rows.any():
        splits = sorted(set(store.texts["split"].tolist()) - {""})
        has = f"it has {', '.join(splits)}" if splits else "it was made of a plain folder"
        raise UsageError(f"{features}: no features of split {split!r}; {has}")
    return store.select(rows)


def _model(store: stores.Store) -> str | None:
    return store.about.model.path


def _row(kind: type[T], measures: Any, **more: Any) -> T:
    """A row of a result: what it shares with `measures` by name, and more."""
    shared = {field.name for field in fields(kind)} - more.keys()  # pyright: ignore[reportArgumentType]
    return kind(**{name: getattr(measures, name) for name in shared}, **more)


def _require_any(trait: str, with_trait: np.ndarray) -> None:
    if not with_trait.any():
        raise UserError(
            f"{trait} is known of none of the {len(with_trait)} species; do the names in the table"
            " agree with those of the features?"
        )


def _two_values(
    texts: np.ndarray, label: str, values: tuple[str, str] | None, place: str
) -> tuple[str, str]:
    counts = Counter(texts.tolist())
    counts.pop("", None)
    listed = ", ".join(f"{value} ({count})" for value, count in sorted(counts.items())) or "none"
    if values is None and len(counts) != 2:
        raise UsageError(f"{place}: choose two values of {label} with --values: {listed}")
    first, second = values or sorted(counts)
    for value in (first, second):
        if value not in counts:
            raise UsageError(f"{place}: no picture has {label} {value!r}; there are {listed}")
    if first == second:
        raise UsageError(f"--values {first} {second}: name two different values")
    return first, second


def _panels(
    measured: within_species.Within,
    features: np.ndarray,
    numbers: np.ndarray,
    kinds: np.ndarray,
    names: list[str],
) -> list[findings.Panel]:
    # The species with the most pictures, which is no choice by how well they look.
    order = sorted(measured.species, key=lambda entry: (-min(entry.counts), entry.species))
    panels = []
    for start in range(0, min(len(order) // 3, PANELS) * 3, 3):
        three = [entry.species for entry in order[start : start + 3]]
        panel = within_species.panel(features, numbers, kinds, three)
        points = []
        for place, variant in np.ndindex(3, 2):
            rows = np.flatnonzero((panel.species == place) & (panel.variants == variant))
            for xyz in panel.points[rows[:PANEL_POINTS]].tolist():
                points.append(findings.Point(species=place, variant=variant, xyz=xyz))
        panels.append(
            findings.Panel(
                names=[names[number] for number in three],
                rho=panel.rho,
                points=points,
                means=panel.means.tolist(),
            )
        )
    return panels


def _write(
    out: Path,
    result: findings.Between | findings.Within,
    columns: dict[str, list],
    figures: dict[str, str],
) -> None:
    files.make_folder(out)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    files.write_csv(out / f"{result.analysis}.csv", rows, list(columns))
    for name, svg in figures.items():
        files.write_text(out / name, svg + "\n")
    schema.write(out / f"{result.analysis}.json", result)
