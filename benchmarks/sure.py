"""What `predict --sure` is worth on pictures that it was not calibrated on.

    python benchmarks/sure.py --model runs/photos --data runs/photos/data [--outside unseen] \\
        [--wanted 0.9] [--halves 20] [--json]

calibrates on a random half of the pictures of a split (val) and answers the other half, again and
again. Printed are means over the halves, with the least and most: the share of answers that are
right; the share answered at species of those that plain top 1 names right; of `none of these` the
area under the ROC curve, between the other half and pictures of species that the list of names
(those with training pictures) does not have, beside that of the uncalibrated best probability, and
the difference with 95 % bootstrap intervals: over pictures, and over whole species of the others.
Those species are all of the split `--outside`, or else a random half of the species of val, taken
off the list.
"""

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np

from bioclip2_jax.data import dataset
from bioclip2_jax.features.encode import SplitFeatures, embed_split
from bioclip2_jax.identify import name_lists
from bioclip2_jax.identify.calibrate import Pictures
from bioclip2_jax.identify.ladder import RIGHT, Ladder
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.identify.sure import Scores
from bioclip2_jax.measures import outside
from bioclip2_jax.measures import sure as measure
from bioclip2_jax.measures.calibration import summary
from bioclip2_jax.weights import load as loading
from bioclip2_jax.weights.load import Model

RESAMPLES = 300
FALSE_NONE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--outside", help="a split of other species")
    parser.add_argument("--wanted", type=float, default=0.9)
    parser.add_argument("--halves", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = loading.load(options.model)
    known = embed_split(model, dataset.open_split(options.data, options.split), 64)
    others = None
    if options.outside:
        others = embed_split(model, dataset.open_split(options.data, options.outside), 64)
    labels = trained(options.data)
    rng = np.random.default_rng(0)
    scores = Scores(model, labels, 128, None, 0.0)
    asked = (model, labels, known, others, options.wanted, rng, scores)
    rows = [half(*asked) for _ in range(options.halves)]
    if options.json:
        print(json.dumps(rows))
        return
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if row.get(name) is not None]
        print(f"{name:44} {np.mean(values):.3f} ({min(values):.3f} ... {max(values):.3f})")


def trained(data: str) -> LabelSet:
    """The taxa with training pictures."""
    labels = name_lists.read_taxa(data)
    counts = {e.taxon: e.counts.get("train", 0) for e in dataset.read_taxa(data)}
    return part_of(labels, np.array([counts.get(taxon, 0) > 0 for taxon in labels.taxa]))


def part_of(labels: LabelSet, chosen: np.ndarray) -> LabelSet:
    """Some names of a list."""
    rows = np.flatnonzero(chosen)
    return replace(
        labels,
        names=[labels.names[row] for row in rows],
        rows=[labels.rows[row] for row in rows],
        taxa=tuple(labels.taxa[row] for row in rows),
        groups=np.arange(len(rows)),
    )


def half(
    model: Model,
    labels: LabelSet,
    known: SplitFeatures,
    others: SplitFeatures | None,
    wanted: float,
    rng: np.random.Generator,
    scores: Scores,
) -> dict[str, Any]:
    """The figures of one division."""
    order = rng.permutation(len(known.keys))
    taught, judged = order[: len(order) // 2], order[len(order) // 2 :]

    def take(split: SplitFeatures, rows: np.ndarray) -> SplitFeatures:
        return replace(split, features=split.features[rows], taxa=[split.taxa[r] for r in rows])

    def looked_at(*parts: SplitFeatures) -> list[Pictures]:
        """All of them by the temperature of the first."""
        looks: list[Pictures] = []
        for part in parts:
            temperature = looks[0].temperature if looks else None
            looks.append(Pictures.of(part.features, part.taxa, ladder, scores, temperature))
        return looks

    ladder = Ladder(labels)
    teacher, test = looked_at(take(known, taught), take(known, judged))
    (depths,) = teacher.answers(test, [wanted], FALSE_NONE)
    figure = test.figure(wanted, depths)
    is_plain = test.right[:, -1] == RIGHT
    species = len(test.ranks) - 1
    row: dict[str, Any] = {
        "right of all answers": figure.precision,
        "right of answers at species": figure.right["species"] / max(1, figure.answers["species"]),
        "plain top 1 right": float(is_plain.mean()),
        "of these answered at species": float((depths == species)[is_plain].mean()),
        "temperature": teacher.temperature,
    }
    row |= {f"answered: {what}": n / len(judged) for what, n in figure.answers.items()}
    for number, rank in enumerate(test.ranks):
        is_known = test.right[:, number] != measure.UNKNOWN
        hits = test.right[is_known, number] == RIGHT
        row[f"ECE of sums, {rank}"] = summary(test.scores[is_known, number], hits).ece
    if others is None:  # half of the species are taken off the list
        present = sorted({taxon for taxon in known.taxa if taxon in labels.taxa})
        hidden = {present[n] for n in rng.permutation(len(present))[: len(present) // 2]}
        labels = part_of(labels, np.array([taxon not in hidden for taxon in labels.taxa]))
        ladder, scores = Ladder(labels), Scores(model, labels, 128, None, 0.0)
        others = take(known, np.array([r for r in judged if known.taxa[r] in hidden]))
        taught = np.array([r for r in taught if known.taxa[r] not in hidden])
        judged = np.array([r for r in judged if known.taxa[r] not in hidden])
    teacher, test, strangers = looked_at(take(known, taught), take(known, judged), others)
    inside = test.own >= 0
    strange = strangers.own < 0
    detector = teacher.detector()
    ours = [detector.listed(each.seen) for each in (test, strangers)]
    plain = [each.seen[:, outside.FIGURES.index("share")] for each in (test, strangers)]
    kept = [ours[0][inside], ours[1][strange], plain[0][inside], plain[1][strange]]
    of = np.array([hash(taxon) for taxon in others.taxa])[strange]
    row |= {
        "none of these: AUROC": outside.auroc(kept[0], kept[1]),
        "uncalibrated best probability: AUROC": outside.auroc(kept[2], kept[3]),
    }
    row |= difference(*kept, species=of, rng=rng)
    least = teacher.least(detector, FALSE_NONE)
    row["listed pictures called none of these"] = float((kept[0] < least).mean())
    row["others called none of these"] = float((kept[1] < least).mean())
    (depths,) = teacher.answers(strangers, [wanted], FALSE_NONE)
    depths = depths[strange]
    row["others: answered at species"] = float((depths == species).mean())
    figure = strangers.select(strange).figure(wanted, depths)
    row["others: right of all answers"] = figure.precision
    return row


def difference(
    ours: np.ndarray,
    our_others: np.ndarray,
    plain: np.ndarray,
    plain_others: np.ndarray,
    *,
    species: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Of the two areas, with intervals."""
    own = np.unique(species)
    members = [np.flatnonzero(species == one) for one in own]
    found: dict[str, float] = {
        "difference": outside.auroc(ours, our_others) - outside.auroc(plain, plain_others)
    }
    for over in ("pictures", "species"):
        draws = []
        for _ in range(RESAMPLES):
            a = rng.integers(len(ours), size=len(ours))
            b = rng.integers(len(our_others), size=len(our_others))
            if over == "species":
                b = np.concatenate([members[n] for n in rng.integers(len(own), size=len(own))])
            area = outside.auroc(ours[a], our_others[b])
            draws.append(area - outside.auroc(plain[a], plain_others[b]))
        low, high = np.percentile(draws, [2.5, 97.5]).tolist()
        found |= {f"difference, low, over {over}": low, f"difference, high, over {over}": high}
    return found | {"other species": len(own)}


if __name__ == "__main__":
    main()
