"""Fills the report's page with what evaluations and analyses wrote."""

import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import bioclip2_jax
from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.search_schema import RetrievalResult
from bioclip2_jax.evaluation.tables import FOLDER
from bioclip2_jax.measures.prior import PriorPoint
from bioclip2_jax.report import emergence, gather, pictures, published, tables
from bioclip2_jax.report.figures import species as figures
from bioclip2_jax.report.figures.style import inline
from bioclip2_jax.report.gather import ResultFile

_CLASS_COLUMNS = ("order", "scientificName", "vernacularName", "num_images", "top1")
_IMAGE_COLUMNS = ("index", "key", "scientificName", "correct", "answer_1", "score_1")


def build(workdir: str | Path, data_dir: str | Path, out: str | Path) -> Path:
    """Writes the page about a training run.

    Args:
      workdir: of the training run, evaluated at least once.
      data_dir: the dataset it was evaluated on, for the pictures.
      out: HTML file to write.

    Returns:
      The path of the page.

    Raises:
      UserError: not evaluated yet, or evaluated on another dataset.
    """
    folder = files.place(workdir) / FOLDER
    results = gather.gather([folder]) if folder.is_dir() else []
    if not any(isinstance(result.values, schema.ZeroShotResult) for result in results):
        raise UserError(
            f"{workdir}: no results to report; run `bioclip2 evaluate --workdir {workdir}"
            f" --data {data_dir}` first"
        )
    return _write(results, out, data_dir, files.place(workdir))


def build_results(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Writes the page about results of any models.

    Pictures that are not where they were evaluated are left out, and the page says so.

    Args:
      folders: results of `bioclip2 evaluate` and `bioclip2 analyze`, runs, or parents of those.
      out: HTML file to write.

    Returns:
      The path of the page.

    Raises:
      UserError: a folder holds no results, or damaged ones.
    """
    return _write(gather.gather(folders), out)


def _write(
    results: list[ResultFile],
    out: str | Path,
    data_dir: str | Path | None = None,
    workdir: Path | None = None,
) -> Path:
    latest = gather.newest(results)

    def of_kind(*kinds: type) -> list[ResultFile]:
        return sorted((r for r in latest if isinstance(r.values, kinds)), key=lambda r: r.order)

    answered, beyond = of_kind(schema.ZeroShotResult), of_kind(schema.BeyondResult)
    parts = [
        {"anchor": f"species-{place}"} | _checked(evaluation_part, result, results, data_dir)
        for place, result in enumerate(answered, start=1)
    ]
    analyses = of_kind(*gather.ANALYSES.values())
    subjects = sorted({result.subject for result in latest if result.model})
    context = {
        "title": subjects[0] if len(subjects) == 1 else "Results",
        "subjects": subjects,
        "parts": parts,
        "named": len(parts) != 1,
        "trades": prior_trades(answered),
        "papers": [
            (table, rows)
            for table in (published.ZERO_SHOT, published.BEYOND_SPECIES)
            if (rows := tables.paper_rows(table, answered + beyond))
        ],
        "few_shot": tables.few_shot_rows(latest),
        "beyond": beyond,
        "searches": of_kind(RetrievalResult),
        "emergence": [_checked(emergence.part, result) for result in analyses],
        "runs": training_parts(latest, workdir),
        "left_out": [(r, lost) for r in latest if (lost := tables.left_out(r))],
        "latest": latest,
        "version": bioclip2_jax.__version__,
    }
    page = _environment().get_template("report.html.j2").render(context)
    out = files.place(out)
    files.make_folder(out.parent)
    files.write_text(out, page)
    return out


def _checked(function: Callable[..., dict], result: ResultFile, *arguments: Any) -> dict:
    """What `function` makes of a result; what is damaged deep inside one names its file too."""
    try:
        return function(result, *arguments)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise schema.not_a_result(result.path, f"{type(error).__name__}: {error}") from error


def _environment() -> jinja2.Environment:
    numbers = itertools.count(1)

    def drawn(svg: str) -> Markup:
        """A figure with ids that no other one of the page has."""
        return Markup(inline(svg, f"f{next(numbers)}"))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, number, hundredths, tables.remarks, tables.settings_text, drawn)
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals["published"] = published
    return environment


# ---- One evaluation of species


def evaluation_part(
    result: ResultFile,
    results: Sequence[ResultFile],
    data_dir: str | Path | None,
) -> dict:
    """What the page shows of one zero-shot evaluation.

    Args:
      result: the evaluation.
      results: all of them, for the earlier steps of the same run.
      data_dir: the dataset, where the caller names it; then pictures must be there.

    Raises:
      UserError: a table beside the result is damaged, or the dataset is another one.
    """
    folder, values = result.path.parent, result.values
    classes = gather.read_csv(folder / "zero_shot_classes.csv", _CLASS_COLUMNS)
    answers = gather.read_csv(folder / "zero_shot_images.csv", _IMAGE_COLUMNS)
    alike = [r for r in results if r.model == result.model and r.asked == result.asked]
    steps = sorted((r.values for r in alike if r.step is not None), key=lambda v: v.step)
    bins = values.calibration.bins if values.calibration else []
    return {
        "result": result,
        "values": values,
        "vision": _vision(result),
        "few_shot": [
            other.values
            for other in tables.few_shot_rows(results)
            if (other.subject, other.set_name) == (result.subject, result.set_name)
        ],
        "per_rank": figures.accuracy_per_rank(values.ranks) if values.ranks else "",
        "progress": figures.accuracy_over_steps(steps) if len(steps) > 1 else "",
        "reliability": figures.reliability(bins) if bins else "",
        "trade": figures.prior_trade({"": [values.prior]}) if values.prior else "",
        "maps": class_maps(folder, classes),
        "datasets": gather.read_csv(folder / "zero_shot_datasets.csv", ("datasetName", "top1")),
        **picture_parts(result, classes, answers, data_dir),
    }


def picture_parts(
    result: ResultFile,
    classes: list[dict[str, str]],
    answers: list[dict[str, str]],
    data_dir: str | Path | None,
) -> dict:
    """Right and wrong answers, and the hardest taxa, with pictures as far as they are there.

    Returns:
      `right`, `wrong`: lists of pictures; `hardest`: a taxon's row, the share named rightly at
      most, and pictures taken for something else; `no_pictures`: why some or all are missing, ""
      where none is.

    Raises:
      UserError: `data_dir` is not the dataset that was evaluated.
    """
    common = {row["scientificName"]: row["vernacularName"] for row in classes}
    reasons: list[str] = []
    opener = None
    settings = result.settings
    try:
        data = settings.get("data") if data_dir is None else str(data_dir)
        is_folder = bool(settings.get("annotations"))
        opener = pictures.open_pictures(data, settings.get("split") or "", is_folder)
    except UserError as error:
        if data_dir is not None:
            raise
        reasons.append(str(error))

    def show(rows: list[dict], pixels: int) -> list[dict]:
        shown = []
        if opener is None:
            return shown
        for row in rows:
            try:
                picture = pictures.picture(opener, row, pixels)
                shown.append(picture | {"common": common.get(row["scientificName"], "")})
            except UserError as error:
                if data_dir is not None:
                    raise
                reasons.append(str(error))
        return shown

    right, wrong = pictures.choose_pictures(answers)
    hardest = []
    for row, most in pictures.worst_classes(classes):
        mistakes = pictures.wrong_of_class(answers, row["scientificName"])
        hardest.append((row, most, show(mistakes, pictures.THUMBNAIL_PIXELS)))
    return {
        "right": show(right, pictures.CARD_PIXELS),
        "wrong": show(wrong, pictures.CARD_PIXELS),
        "hardest": hardest,
        "no_pictures": reasons[0] if reasons else "",
        "answered": bool(answers),
    }


def class_maps(folder: Path, classes: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Maps of the evaluated taxa by their pictures and by their names; none without the vectors.

    Raises:
      UserError: the file of the vectors is damaged.
    """
    path = folder / "zero_shot_embeddings.npz"
    if not path.exists() or len(classes) < 2:
        return []
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            vectors = {name: stored[name] for name in ("image", "text")}
        if {len(array) for array in vectors.values()} != {len(classes)}:
            raise ValueError(f"not one vector for each of {len(classes)} classes")
    except Exception as error:  # a damaged zip raises nearly anything
        raise UserError(f"{path}: cannot be read ({error}); evaluate again") from error
    orders = [row["order"] for row in classes]
    titles = {"image": "Taxa by their pictures", "text": "Taxa by their names"}
    return [
        (title, figures.class_map(vectors[name], orders, title)) for name, title in titles.items()
    ]


def prior_trades(results: Sequence[ResultFile]) -> list[tuple[str, str]]:
    """Of each set on which several evaluations tried priors: its name, and their curves in one."""
    trades: dict[tuple, dict[str, list[list[PriorPoint]]]] = {}
    for result in results:
        if result.values.prior:
            settings = (result.settings.get(name) for name in ("prior", "text_kind", "templates"))
            asked = (result.set_name, result.values.classes_sha256, *settings)
            trades.setdefault(asked, {})[result.subject] = [result.values.prior]
    several = {asked: curves for asked, curves in trades.items() if len(curves) > 1}
    return [(asked[0], figures.prior_trade(curves)) for asked, curves in several.items()]


# ---- Runs


def _run_folder(result: ResultFile) -> Path | None:
    """The training run of a result, if it is still there."""
    model = files.place(result.source or "-")
    places = [model.parent.parent, model, result.path.parent.parent.parent]
    return next((place for place in places if (place / "model.json").is_file()), None)


def _vision(result: ResultFile) -> dict | None:
    """Sizes of the image tower, where the run tells them."""
    folder = _run_folder(result)
    if folder is None:
        return None
    sizes = files.read_json_object(folder / "model.json").get("model_cfg") or {}
    vision = sizes.get("vision_cfg") or {}
    keys = ("width", "layers", "image_size", "patch_size")
    return vision if all(key in vision for key in keys) else None


def training_parts(latest: Sequence[ResultFile], workdir: Path | None) -> list[dict]:
    """Curves of the runs that results came from."""
    runs: dict[Path, str] = {}
    for result in latest:
        folder = workdir or _run_folder(result)
        if folder is not None:
            runs.setdefault(gather.whole(folder), result.model)
    parts = []
    for folder, name in runs.items():
        rows = gather.read_jsonl(folder / "metrics.jsonl")
        if rows:
            curves = figures.training_curves(rows)
            parts.append({"name": name, "curves": curves, "last": rows[-1]})
    return parts


# ---- Filters


def percent(value: float | str | None, digits: int = 1) -> str:
    """0.1234 → "12.3 %", with a space that does not break; a dash for nothing."""
    return "–" if value in (None, "") else f"{100 * float(value):.{digits}f}\N{NO-BREAK SPACE}%"


def hundredths(value: float) -> str:
    """0.1234 → "12.3", for tables that are in percent throughout."""
    return f"{100 * value:.1f}"


def number(value: float | None, digits: int = 2) -> str:
    """0.123 → "0.12"; a dash for nothing."""
    return "–" if value is None else f"{value:.{digits}f}"
