"""`bioclip2 analyze` on planted features of a simulated tree, and what it says of bad calls."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import false_discovery_control

from bioclip2_jax.cli.analyze import analyze
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import findings
from bioclip2_jax.features import store
from bioclip2_jax.prepare.simulated.tree import TRAITS, grow_tree
from bioclip2_jax.report.figures import traits as drawings
from bioclip2_jax.text.taxonomy import RANKS
from bioclip2_jax.weights.description import Preprocess

SPECIES, DIM, IMAGES = 40, 64, 8
FEW = ("--permutations", "49")


def write_store(folder, labels=True):
    """Trait head along one axis, sex across all species, habitat with strays; 8 pictures each."""
    rng = np.random.default_rng(0)
    species = grow_tree(3, SPECIES)
    axes = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    habitats = sorted({one.habitat for one in species})
    rows, features = [], []
    for number, one in enumerate(species):
        mean = rng.normal(size=DIM // 2) @ axes[DIM // 2 :] * 0.3 + one.traits[5] * axes[0]
        mean += 1.5 * axes[1 + habitats.index(one.habitat)]
        for image in range(IMAGES):
            sex = image % 2
            features.append(mean + (sex - 0.5) * axes[20] + 0.03 * rng.normal(size=DIM))
            texts = dict(zip(RANKS, one.taxon.ranks, strict=True))
            texts["split"] = "val" if image < 6 else "test"
            habitat = habitats[0] if image == 0 else one.habitat
            said = {"sex": ("female", "male")[sex], "habitat": habitat, "note": f"n{number % 3}"}
            said |= {f"trait_{t}": f"{v:.4f}" for t, v in zip(TRAITS, one.traits, strict=True)}
            rows.append(store.Row(f"{number}-{image}", len(rows), texts, said if labels else {}))
    about = store.About(
        model=store.Maker(path="planted", step=None, sha256=""),
        preprocess=Preprocess(16),
        dim=DIM,
        dtype="float32",
        pictures={},
        labels=list(rows[0].labels),
        version="",
        num_parts=1,
        num_rows=len(rows),
    )
    folder.mkdir(parents=True)
    features = np.asarray(features, np.float32)
    store.write_part(store.part_path(folder, 0), rows, features, about)
    store.write_about(folder, replace(about, complete=True))
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("features") / "planted")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A trait table keyed by binomial, with a mass whose logarithm is the planted trait."""
    path = tmp_path_factory.mktemp("traits") / "traits.csv"
    lines = ["Species1,Mass,Guild,Zero"]
    for number, one in enumerate(grow_tree(3, SPECIES)):
        mass = "NA" if number == 0 else f"{10 ** one.traits[5]:.5f}"
        lines.append(f"{one.taxon.scientific_name.replace(' ', '_')},{mass},g{number % 2},0")
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*args):
    found = CliRunner().invoke(analyze, [str(a) for a in args], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def fails(error, match, *args):
    with pytest.raises(error, match=match):
        CliRunner().invoke(analyze, [str(a) for a in args], catch_exceptions=False)


def test_traits_from_the_labels_of_the_pictures(features, tmp_path):
    said = run(
        "between", "--features", features, "--out", tmp_path / "out", *FEW,
        "--trait", "trait_head", "--trait", "trait_hue", "--label", "habitat",
    )  # fmt: skip
    result = json.loads((tmp_path / "out" / "between.json").read_text())
    head, hue = result["continuous"]
    (habitat,) = result["discrete"]
    assert head["ridge_p"] <= 0.02 and head["ridge_r"] > 0.9 and hue["ridge_r"] < 0.5
    lines = [line for line in said.splitlines() if not line.startswith("caution: ")]
    assert len(lines) == 3 and lines[0].startswith("trait_head: r +0.9")
    assert head["ridge_tree_p"] == 0.02 and habitat["accuracy_tree_p"] <= 0.1
    # Of two traits the smaller p counts twice; habitats stand in the same column.
    every = [head["ridge_tree_p"], hue["ridge_tree_p"], habitat["accuracy_tree_p"]]
    assert head["adjusted"]["ridge_tree_p"] == pytest.approx(false_discovery_control(every)[0])
    assert f"by the tree p 0.020, adjusted {head['adjusted']['ridge_tree_p']:.3f}" in lines[0]
    truth = {s.taxon.scientific_name: s.traits[5] for s in grow_tree(3, SPECIES)}
    for name, value, _ in head["projections"]:
        assert value == pytest.approx(truth[name], abs=1e-3)
    assert (
        habitat["accuracy_p"] <= 0.02 and habitat["chance"] == 1 / 3
    )  # 3 of 7 in several families
    assert (result["num_images"], result["num_species"]) == (SPECIES * IMAGES, SPECIES)
    assert result["model"] == "planted" and result["settings"]["leave_out"] == "family"
    with (tmp_path / "out" / "between.csv").open() as file:
        rows = list(csv.DictReader(file))
    # The majority of a species' pictures counts, not the strays.
    habitats = {s.taxon.scientific_name: s.habitat for s in grow_tree(3, SPECIES)}
    assert {row["scientificName"]: row["habitat"] for row in rows} == habitats
    for name in ("trait_axes", "species_map"):
        assert (tmp_path / "out" / f"{name}.svg").read_text().startswith("<svg")


def test_traits_from_a_table_with_logarithms_and_gaps(features, table, tmp_path):
    run(
        "between", "--features", features, "--traits", table, "--log-trait", "Mass",
        "--label", "Guild", "--leave-out", "genus", "--out", tmp_path, *FEW,
    )  # fmt: skip
    result = json.loads((tmp_path / "between.json").read_text())
    (mass,) = result["continuous"]
    assert mass["trait"] == "log10 Mass" and mass["num_species"] == SPECIES - 1
    assert mass["ridge_r"] > 0.9 and mass["clade"] == "genus"
    assert result["discrete"][0]["num_classes"] == 2


def test_without_names_the_simulated_traits_are_taken(features, tmp_path):
    run("between", "--features", features, "--out", tmp_path, "--permutations", "9")
    result = json.loads((tmp_path / "between.json").read_text())
    assert [row["trait"] for row in result["continuous"]] == [f"trait_{t}" for t in TRAITS]
    assert [row["label"] for row in result["discrete"]] == ["habitat"]


def test_sex_lies_across_the_species(features, tmp_path):
    said = run("within", "--features", features, "--variant", "sex", "--out", tmp_path, *FEW)
    result = json.loads((tmp_path / "within.json").read_text())
    assert result["variants"] == ["female", "male"] and result["dimensions"] == SPECIES - 1
    assert result["rho"]["mean"] == pytest.approx(0, abs=0.03) and result["rho"]["p"] <= 0.02
    assert result["species"][0]["counts"] == [4, 4]
    every = [row["fisher_p"] for row in result["species"]]
    told = [row["adjusted"]["fisher_p"] for row in result["species"]]
    assert told == pytest.approx(false_discovery_control(every).tolist())
    # Lengths of 1 bend the space: across all is across each, but not to the last digit.
    assert result["fisher_removed"]["mean"] > 0.9 * result["fisher"]["mean"]
    assert len(result["panels"]) == 2 and len(result["panels"][0]["points"]) == 3 * IMAGES
    lines = said.splitlines()
    assert lines[SPECIES].startswith(f"sex, {SPECIES} species: rho ")
    assert lines[SPECIES + 1].startswith("in the plane of three species: rho ")
    assert lines[SPECIES + 2 :] == [f"caution: {text}" for text in result["cautions"]]
    assert {"panel_1.svg", "rho_by_species.svg", "within.csv"} <= {
        p.name for p in tmp_path.iterdir()
    }


def test_one_split_and_leading_dimensions(features, tmp_path):
    run(
        "within", "--features", features, "--variant", "note", "--values", "n0", "n1",
        "--species-rank", "class", "--split", "val", "--dimensions", "3", "--out", tmp_path, *FEW,
    )  # fmt: skip
    result = json.loads((tmp_path / "within.json").read_text())
    assert result["dimensions"] == 3 and result["variants"] == ["n0", "n1"]
    assert all(sum(row["counts"]) % 6 == 0 for row in result["species"])


def test_a_wrong_call_between_species_is_one_sentence(features, table, tmp_path):
    call = ("between", "--features", features, "--out", tmp_path / "out")
    fails(UsageError, "no label 'trait_x'; it has habitat", *call, "--trait", "trait_x")
    fails(UsageError, "no column 'Beak'; it has Species1, Mass", *call, "--traits", table,
          "--trait", "Beak")  # fmt: skip
    fails(UsageError, "no column 'who'.*--species-column", *call, "--traits", table,
          "--species-column", "who", "--trait", "Mass")  # fmt: skip
    fails(UsageError, "name what to look for with --trait", *call, "--traits", table)
    fails(UserError, "Guild of .*: 'g0' is no number; is it a --label", *call, "--traits", table,
          "--trait", "Guild")  # fmt: skip
    fails(UserError, "Zero of .* is 0, which has no logarithm", *call, "--traits", table,
          "--log-trait", "Zero")  # fmt: skip
    fails(UserError, "Zero: the trait has the same value, 0,", *call, "--traits", table,
          "--trait", "Zero")  # fmt: skip
    other = tmp_path / "other.csv"
    other.write_text("species,Mass\nUrsus arctos,300\n")
    fails(UserError, "Mass is known of none of the 40 species", *call, "--traits", other,
          "--trait", "Mass")  # fmt: skip
    fails(UsageError, "missing.csv: cannot be read", *call, "--traits", tmp_path / "missing.csv")
    fails(UserError, "no species has 9 pictures, the most is 8", *call, "--min-images", "9")
    fails(UsageError, "no features of split 'train'; it has test, val", *call, "--split", "train")
    fails(UserError, "no feature store here", "between", "--features", tmp_path, "--out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_too_few_clades_is_one_sentence(features, tmp_path):
    few = tmp_path / "few.csv"
    names = [s.taxon.scientific_name for s in grow_tree(3, SPECIES)[:8]]
    few.write_text("species,x\n" + "".join(f"{name},{n}\n" for n, name in enumerate(names)))
    fails(UserError, "^x: the species belong to 1 clade.*leave out a finer rank", "between",
          "--features", features, "--traits", few, "--trait", "x", "--leave-out", "class",
          "--out", tmp_path / "out")  # fmt: skip


def test_a_store_without_labels_says_what_to_give(tmp_path):
    bare = write_store(tmp_path / "bare", labels=False)
    fails(UsageError, "it has no label, and --traits names a table", "between", "--features", bare,
          "--out", tmp_path / "out")  # fmt: skip
    fails(UsageError, "no label 'sex'; it has none", "within", "--features", bare,
          "--variant", "sex", "--out", tmp_path / "out")  # fmt: skip


def test_a_wrong_call_within_species_is_one_sentence(features, tmp_path):
    call = ("within", "--features", features, "--out", tmp_path / "out", "--variant")
    fails(UsageError, r"choose two values of note with --values: n0 \(112\), n1", *call, "note")
    fails(UsageError, r"no picture has sex 'hen'; there are female \(160\)", *call, "sex",
          "--values", "hen", "male")  # fmt: skip
    fails(UsageError, "name two different values", *call, "sex", "--values", "male", "male")
    fails(UserError, "no species has 2 pictures of each variant", *call, "note",
          "--values", "n0", "n1")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_figures_are_drawn_where_little_is_known():
    only = findings.SpeciesVariants(
        name="a",
        counts=(2, 2),
        rho=None,
        rho_raw=0.2,
        rho_p=0.5,
        fisher=0.1,
        fisher_removed=0.1,
        fisher_p=0.5,
    )
    rho = findings.Share(mean=None, null_mean=0.2, p=0.5, raw_mean=0.2, random_direction=0.1)
    ratio = findings.Ratio(mean=0.1)
    result = findings.Within(
        variants=("m", "f"), species=[only], rho=rho, fisher=ratio, fisher_removed=ratio
    )
    assert drawings.rho_by_species(result).startswith("<svg")


def test_features_that_are_not_finite_are_refused_and_named(tmp_path):
    folder = write_store(tmp_path / "broken")
    kept = store.read(folder)
    kept.features[3, 5] = np.nan
    rows = [store.Row(key, place, {}, {}) for place, key in enumerate(kept.keys)]
    about = replace(kept.about, labels=[])
    store.write_part(store.part_path(folder, 0), rows, kept.features, about)
    store.write_about(folder, about)
    fails(UserError, r"of 1 of 320 pictures are not finite, 0-3 is the first", "between",
          "--features", folder, "--out", tmp_path / "out")  # fmt: skip
