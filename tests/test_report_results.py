"""The report about any folders of results: which are found, and what the page says of them."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from colour_world import square
from matplotlib.axes import Axes
from result_files import (
    PRIOR,
    WITHIN,
    beyond,
    put,
    put_csv,
    put_evaluation,
    put_squares,
    results_of,
    zero_shot,
)
from test_report import Tags

from bioclip2_jax.cli.report import report as command
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.measures.prior import PriorPoint
from bioclip2_jax.report import gather, published, tables
from bioclip2_jax.report.build import build_results
from bioclip2_jax.report.figures.species import prior_trade


@pytest.fixture
def squares(tmp_path) -> Path:
    """A folder of three pictures."""
    return put_squares(tmp_path / "squares")


def page_of(*folders: Path) -> str:
    """The page about these folders, with single spaces."""
    out = build_results(folders, folders[0].parent / "report.html")
    return " ".join(out.read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ").split())


# ---- Several models


def test_each_model_has_rows_and_a_part_of_its_own(tmp_path):
    for model, top1 in (("hf-hub:imageomics/bioclip-2", 0.75), ("exports/ours", 0.25)):
        told = zero_shot(top1, 11_983, 400, annotations="rare_species.csv") | {"model": model}
        put(tmp_path / plain_name(model) / "zero_shot.json", told)
    page = page_of(tmp_path)
    assert Tags(page).open == []
    assert "Models: bioclip-2; ours." in page
    ours = re.findall(r'<tr class="ours"><td>([\w-]+)<small>measured here, asis', page)
    assert ours == ["bioclip-2", "ours"]
    assert 'id="species-1" open> <summary><h2>bioclip-2: rare_species</h2>' in page
    assert "<td>75.0 <small>65.0–85.0</small>" in page


def plain_name(model: str) -> str:
    return re.sub(r"\W", "_", model)


def test_models_of_the_same_name_are_told_apart(tmp_path):
    for number, model in enumerate(("a/export", "b/export")):
        put(tmp_path / str(number) / "zero_shot.json", zero_shot() | {"model": model})
    assert {result.model for result in gather.gather([tmp_path])} == {"a/export", "b/export"}


def test_of_several_steps_the_last_one_is_shown(tmp_path):
    for step in (900, 1000):
        told = zero_shot(step / 2000) | {"step": step, "model": f"runs/x/checkpoints/{step}"}
        put(tmp_path / "eval" / str(step) / "zero_shot.json", told)
    page = page_of(tmp_path)
    assert "Checkpoint of step 1,000" in page and "<dd>50.0 %" in page
    assert 'aria-label="Species accuracy over training"' in page


# ---- Pictures


def test_pictures_of_a_folder_are_found_by_their_keys(tmp_path, squares):
    page = page_of(put_evaluation(tmp_path / "out", squares))
    hardest = page.split("<h2>Hardest taxa</h2>")[1]
    assert hardest.count("data:image/jpeg") == 2
    assert hardest.index("✗ Mare blue") > hardest.index("Ignis red")
    assert "Pictures are missing" not in page


def test_missing_pictures_are_a_sentence_on_the_page(tmp_path, squares):
    put_evaluation(tmp_path / "out", squares)
    (squares / "red.png").unlink()
    page = page_of(tmp_path / "out")
    assert "Pictures are missing on this page:" in page and "red.png: cannot be read" in page
    assert page.split("<h2>Hardest taxa</h2>")[1].count("data:image/jpeg") == 1
    shutil.rmtree(squares)
    page = page_of(tmp_path / "out")
    assert f"Pictures are missing on this page: {squares}: no such folder any more." in page
    assert "data:image/jpeg" not in page and "Ignis red" in page


def test_kept_features_have_no_pictures(tmp_path):
    page = page_of(put_evaluation(tmp_path / "out"))
    assert "tells no place of the pictures" in page


def test_a_key_cannot_leave_the_folder_of_the_pictures(tmp_path, squares):
    folder = put_evaluation(tmp_path / "out", squares)
    (tmp_path / "red.png").write_bytes(square("red"))
    path = folder / "zero_shot_images.csv"
    path.write_text(path.read_text().replace("red.png", "../red.png"))
    assert "lies outside" in page_of(folder)


# ---- What else is on the page


def test_what_was_left_out_and_where_it_comes_from(tmp_path):
    page = page_of(put_evaluation(tmp_path / "out"))
    assert "2 pictures of taxa that are not on the list of names." in page
    assert "1 missing or unreadable picture, such as broken.jpg (the file is empty)" in page
    assert "models/ours" in page and "text_kind asis" in page and "<td>0.1.0</td>" in page


def test_few_shot_leaves_out_for_want_of_pictures_and_says_its_protocol(tmp_path):
    told = zero_shot(protocol="v1") | {"task": "few_shot_5", "k": 5, "std": 0.1, "folds": [0.5]}
    told |= {"num_excluded": 9, "num_bad": 0, "bad": [], "left_out": ["Rara avis"]}
    put(tmp_path / "out" / "few_shot_5.json", told)
    page = page_of(tmp_path / "out")
    assert "9 pictures that were never a question: of taxa with no more than 5 pictures" in page
    assert "for want of 5 pictures: 1 taxon, for example <em>Rara avis</em>" in page
    assert "not on the list" not in page and '<td class="text">v1</td>' in page
    assert "<td>–––</td>" in page  # of the first versions
    put(
        tmp_path / "out" / "few_shot_5.json",
        told | {"draw_intervals": {name: [0.3, 0.75] for name in told["intervals"]}},
    )
    assert "with other<br>draws" in page and "<td>30 %–75 %</td>" in page_of(tmp_path / "out")


def test_classes_of_one_text_are_named_on_the_page(tmp_path):
    same = [{"text": "a bird", "classes": ["Ignis red", "Mare blue"]}]
    put(tmp_path / "out" / "zero_shot.json", zero_shot() | {"same_text": same})
    assert "Ignis red, Mare blue are all asked for as “a bird”" in page_of(tmp_path / "out")


def test_calibration_is_told_before_and_after_on_the_same_pictures(tmp_path):
    told = zero_shot()
    told["calibration"]["scaled"] = {
        **{"temperature": 1.5, "num_fitted": 2, "num_judged": 1234, "ece_before": 0.132},
        **{"ece_after": 0.111, "nll_before": 1.0, "nll_after": 0.9},
    }
    put(tmp_path / "out" / "zero_shot.json", told)
    page = page_of(tmp_path / "out")
    assert "On the 1,234 pictures that a temperature of 1.50 was not fitted on" in page
    assert "13.2 % without it, 11.1 % with it" in page


def test_micro_and_macro_are_explained_where_they_differ(tmp_path):
    told = zero_shot(0.5, 10) | {"macro_top1": 0.75}
    put(tmp_path / "out" / "zero_shot.json", told)
    page = page_of(tmp_path / "out")
    assert "50.0 % of the first answers are right (micro); averaged over the taxa, 75.0 %" in page
    assert "named less well than the others. Contrastive training makes for this" in page
    assert "<em>Mare blue</em>, is on 2 pictures, and named right in 0.0 % of them" in page
    for macro, words in ((0.25, "named better than the others."), (0.5, "The two hardly differ")):
        put(tmp_path / "out" / "zero_shot.json", told | {"macro_top1": macro})
        page = page_of(tmp_path / "out")
        assert words in page and "Contrastive" not in page


def test_a_prior_is_shown_with_and_without(tmp_path):
    told = zero_shot(prior="taxa.csv") | {"prior": PRIOR}
    before, after = PRIOR[0], PRIOR[4] | {"strength": 0.27, "ece": 0.034}
    fit = {"strength": 0.27, "num_fitted": 2, "num_judged": 1234, "before": before, "after": after}
    put(tmp_path / "out" / "zero_shot.json", told | {"prior_fit": fit | {"caution": "a guess"}})
    page = page_of(tmp_path / "out")
    assert "by the log loss, is 0.27 (but a guess). On the other 1,234, which" in page
    figures = [re.sub("<.*?>", " ", row).split() for row in page.split("<tr>")]
    assert "without a prior 50.0 % 50.0 % 0.0 % 12.0 % 1.50".split() in figures
    assert "All other figures of this evaluation are without the prior" in page
    assert page.count('aria-label="First answers right while a prior grows stronger"') == 1
    told = zero_shot(prior="taxa.csv", prior_strength=0.25) | {"prior": PRIOR}
    put(tmp_path / "out" / "zero_shot.json", told)
    page = page_of(tmp_path / "out")
    assert "Names have a prior of strength 0.25, in all figures here" in page
    assert '<tr class="ours"><td>0.25 <small>of all figures here</small>' in page
    assert "not fitted on" not in page


def test_priors_of_two_models_on_one_set_are_drawn_together(tmp_path):
    for name in ("base", "level"):
        told = zero_shot() | {"model": f"models/{name}", "prior": PRIOR}
        put(tmp_path / name / "zero_shot.json", told)
    page = page_of(tmp_path)
    overview, *parts = page.split('<details id="species-')
    assert "Of two curves the one further up" in overview
    label = 'aria-label="First answers right while a prior grows stronger"'
    assert [part.count(label) for part in (overview, *parts)] == [1, 1, 1]
    settings = {"annotations": "nabirds.csv", "prior": "taxa.csv", "prior_strength": 0.25}
    told = [zero_shot(0.5, 48_562, 555, **settings)]
    [row] = tables.paper_rows(published.ZERO_SHOT, results_of(tmp_path / "other", told))
    assert row.note == "asis, prior of strength 0.25"


def test_of_several_runs_the_mean_is_drawn_at_the_strengths_they_share(monkeypatch):
    drawn, plot = [], Axes.plot

    def draw(axes: Axes, x, y, **how):
        drawn.append((list(x), how))
        return plot(axes, x, y, **how)

    monkeypatch.setattr(Axes, "plot", draw)
    runs = [
        [PriorPoint(strength=a, top1=0.5, macro_top1=m + a) for a in strengths]
        for m, strengths in ((0.1, (0, 0.25, 0.5)), (0.3, (0, 0.5)))
    ]
    svg = prior_trade({"base": runs, "level": runs[:1]})
    assert 'aria-label="First answers right while a prior grows stronger"' in svg
    lines = {how["label"]: x for x, how in drawn if "label" in how}
    assert lines["base, mean of 2"] == pytest.approx([0.2, 0.7])
    assert lines["level"] == pytest.approx([0.1, 0.35, 0.6])
    assert len(drawn) == 4


def test_strata_are_explained_and_no_published_table_is_empty(tmp_path):
    strata = {"few": {"num_images": 3, "num_classes": 2, "top1": 0.5, "macro_top1": 0.25}}
    put(tmp_path / "out" / "zero_shot.json", zero_shot() | {"strata": strata})
    page = page_of(tmp_path / "out")
    assert "how many pictures of them the training saw" in page
    assert "Beside the published figures" not in page and "BioCLIP 2</td>" not in page


def test_the_single_tasks_of_newt_are_listed(tmp_path):
    told = beyond("newt", [0.9], 100, tasks={"ml_age": 0.95, "ml_sex": 0.85})
    put(tmp_path / "out" / "newt.json", told)
    page = page_of(tmp_path / "out")
    assert "All 2 tasks of NeWT" in page
    assert page.index("ml_sex</td><td>85.0 %") < page.index("ml_age</td><td>95.0 %")
    assert "measured here, protocol v2" in page  # the file says faithful


def test_results_of_the_first_version_are_shown_without_what_they_lack(tmp_path):
    told = zero_shot()
    for key in ("calibration", "hierarchy", "model", "version"):
        del told[key]
    put(tmp_path / "out" / "zero_shot.json", told)
    page = page_of(tmp_path / "out")
    assert "Reliability" not in page and "<dd>50.0 %" in page


def test_classes_without_lineage_have_no_ranks(tmp_path):
    put(tmp_path / "out" / "zero_shot.json", zero_shot() | {"ranks": {}})
    assert "Accuracy per rank" not in page_of(tmp_path / "out")


def test_variation_within_species_is_reported_beside_the_published_share(tmp_path):
    put(tmp_path / "out" / "within.json", WITHIN)
    page = page_of(tmp_path / "out")
    assert (
        "<dt>ρ</dt><dd>0.21 <small>95 % interval 0.10 to 0.30; uncorrected in halves 0.31, random"
        " divisions 0.40, p 0.0020" in page
    )
    assert "CLIP 0.33, 1M 0.28, 10M 0.26, 50M 0.17, 214M 0.14 (figure" in page
    table = page.split("<h2>Within species")[1]
    assert table.index("Ignis red") < table.index("Mare blue")


def test_p_values_are_shown_with_those_by_the_tree_and_adjusted_ones(tmp_path):
    trait = {
        **{"trait": "Mass", "num_species": 9, "clade": "family", "spearman": 0.3, "mantel_p": 0.01},
        **{"mantel_tree_p": 0.21, "ridge_r": 0.4, "ridge_r2": 0.1, "ridge_p": 0.02},
        **{"within_clade_r": None, "within_clade_p": None, "predictions": [0.5, 0.6]},
        **{"projections": [["a", 0.1, 0.2], ["b", 0.2, 0.3]], "cautions": ["Mass: too few"]},
        "adjusted": {"mantel_tree_p": 0.37},
    }
    between = {"analysis": "between", "continuous": [trait], "discrete": []}
    put(tmp_path / "out" / "between.json", between)
    page = page_of(tmp_path / "out").replace("> <", "><")
    assert "<td>0.0100</td><td>0.2100<small>0.3700</small></td>" in page
    assert "Caution: Mass: too few." in page


# ---- Bad input


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"task": "zero_shot"}', "\x00"),
        json.dumps(zero_shot() | {"top1": "half"}),
        json.dumps(zero_shot() | {"ranks": {"species": {}}}),
        json.dumps(zero_shot() | {"calibration": {"bins": [{}]}}),
    ],
)
def test_a_damaged_result_is_named(tmp_path, text):
    put(tmp_path / "good" / "zero_shot.json", zero_shot())
    (tmp_path / "zero_shot.json").write_text(text)
    with pytest.raises(UserError, match=r"zero_shot\.json: .* make it again, or take it out"):
        build_results([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_table_is_named(tmp_path, squares):
    folder = put_evaluation(tmp_path / "out", squares)
    put_csv(folder / "zero_shot_images.csv", [{"index": 0, "key": "red.png"}])
    with pytest.raises(UserError, match=r"zero_shot_images\.csv: no column 'scientificName'"):
        build_results([folder], tmp_path / "report.html")
    (folder / "zero_shot_images.csv").unlink()
    (folder / "zero_shot_embeddings.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"zero_shot_embeddings\.npz: cannot be read"):
        build_results([folder], tmp_path / "report.html")


def test_a_folder_without_results_says_what_makes_them(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    put(tmp_path / "checkpoints" / "zero_shot.json", {})  # not a place of results
    with pytest.raises(UserError, match="no results in it or below; run `bioclip2 evaluate`"):
        build_results([tmp_path], tmp_path / "report.html")
    with pytest.raises(UsageError, match="no such folder"):
        build_results([tmp_path / "nowhere"], tmp_path / "report.html")


def test_the_command_takes_folders_or_a_run(tmp_path):
    put(tmp_path / "a" / "zero_shot.json", zero_shot())
    put(tmp_path / "b" / "within.json", WITHIN)
    out = str(tmp_path / "both.html")
    folders = ["--results", str(tmp_path / "a"), "--results", str(tmp_path / "b")]
    done = CliRunner().invoke(command, [*folders, "--out", out])
    assert done.exit_code == 0 and done.output.strip() == out
    for wrong in ([], folders + ["--workdir", "x"], ["--workdir", "x"]):
        done = CliRunner().invoke(command, wrong)
        assert isinstance(done.exception, UsageError), wrong
