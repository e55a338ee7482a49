"""Gathers what a training run left behind and fills the report's page with it."""

import base64
import csv
import io
import json
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from bioclip2_jax import images, results
from bioclip2_jax.data import sources
from bioclip2_jax.errors import UserError
from bioclip2_jax.report import figures

PICTURES = 6  # right ones, and as many wrong ones
PICTURE_PIXELS = 280
WORST_CLASSES = 10


def build(workdir: str | Path, data_dir: str | Path, out: str | Path) -> Path:
    """Writes the page about the newest evaluated checkpoint.

    Args:
      workdir: of the training run, evaluated at least once.
      data_dir: the dataset it was evaluated on, for the pictures.
      out: HTML file to write.

    Returns:
      The path of the page.

    Raises:
      UserError: not evaluated yet, or evaluated on another dataset.
    """
    evaluated = read_results(workdir, "zero_shot")
    if not evaluated:
        raise UserError(
            f"{workdir}: no results to report; run `bioclip2 evaluate --workdir {workdir}"
            f" --data {data_dir}` first"
        )
    latest = evaluated[-1]
    folder = results.folder_of(workdir, latest["step"])
    answers = read_csv(folder / "zero_shot_images.csv")
    right, wrong = choose_pictures(answers)
    source = sources.open_split(data_dir, latest["settings"]["split"])
    metrics_rows = read_jsonl(Path(workdir) / "metrics.jsonl")
    few_shot = [
        result
        for task in ("few_shot_1", "few_shot_5")
        for result in read_results(workdir, task)
        if result["step"] == latest["step"] and result["top1"] is not None
    ]
    classes = read_csv(folder / "zero_shot_classes.csv")
    context = {
        "result": latest,
        "model": _read_json(Path(workdir) / "model.json"),
        "name": Path(workdir).absolute().name,
        "metrics": metrics_rows[-1] if metrics_rows else None,
        "curves": Markup(figures.training_curves(metrics_rows)) if metrics_rows else "",
        "progress": Markup(figures.accuracy_over_steps(evaluated)) if len(evaluated) > 1 else "",
        "per_rank": Markup(figures.accuracy_per_rank(latest["ranks"])),
        "maps": class_maps(folder, classes),
        "right": [picture(source, row) for row in right],
        "wrong": [picture(source, row) for row in wrong],
        "datasets": read_csv(folder / "zero_shot_datasets.csv"),
        "few_shot": few_shot,
        "worst": worst_classes(classes),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    page = environment.get_template("report.html.j2").render(context)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    results.write_file(out, page.encode())
    return out


# ---- Reading


def read_results(workdir: str | Path, task: str) -> list[dict]:
    """Results of one task for all evaluated checkpoints, by step."""
    paths = (Path(workdir) / "eval").glob(f"*/{task}.json")
    return sorted((_read_json(path) for path in paths), key=lambda result: result["step"])


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a result table."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict]:
    """Rows of `metrics.jsonl`; a last line still being written is left out, no file is no row."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); evaluate again") from error


# ---- Choosing


def choose_pictures(answers: list[dict[str, str]]) -> tuple[list[dict], list[dict]]:
    """Right answers spread over the taxa, and the wrong ones the model was surest of.

    Args:
      answers: rows of `zero_shot_images.csv`.

    Returns:
      Up to `PICTURES` rows each, no two of the same taxon.
    """
    right: dict[str, dict] = {}
    wrong: dict[str, dict] = {}
    for row in sorted(answers, key=lambda row: -float(row["score_1"])):
        chosen = right if row["correct"] == "1" else wrong
        chosen.setdefault(row["scientificName"], row)
    spread = [right[name] for name in sorted(right)]
    places = np.unique(np.linspace(0, len(spread) - 1, PICTURES).astype(int)) if spread else ()
    return [spread[place] for place in places], list(wrong.values())[:PICTURES]


def picture(source: sources.Source, row: dict[str, str]) -> dict:
    """What the page shows of one picture: a small JPEG as a data URL, its name, its answers.

    Raises:
      UserError: the dataset is not the one that was evaluated.
    """
    index = int(row["index"])
    record = source[index] if index < len(source) else None
    if record is None or record["key"] != row["key"]:
        raise UserError(
            f"picture {row['key']} of the results is not in this dataset; give --data the dataset"
            " that was evaluated"
        )
    image = images.decode(record["image"])
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    answers = [
        {"name": row[f"answer_{place}"], "score": float(row[f"score_{place}"])}
        for place in range(1, 4)
        if row.get(f"answer_{place}")
    ]
    return {
        "url": f"data:image/jpeg;base64,{encoded}",
        "name": row["scientificName"],
        "common": record["vernacularName"],
        "credit": ", ".join(filter(None, (record["source"], record["licence"]))),
        "answers": answers,
    }


def worst_classes(classes: list[dict[str, str]]) -> list[dict[str, str]]:
    """The taxa least often named rightly; of equals those with more images first."""
    order = sorted(classes, key=lambda row: (float(row["top1"]), -int(row["num_images"])))
    return order[:WORST_CLASSES]


def class_maps(folder: Path, classes: list[dict[str, str]]) -> list[dict]:
    """Two maps of the evaluated taxa: by their pictures and by their names."""
    with np.load(folder / "zero_shot_embeddings.npz", allow_pickle=False) as stored:
        vectors = {name: stored[name] for name in ("image", "text")}
    orders = [row["order"] for row in classes]
    titles = {"image": "Taxa by their pictures", "text": "Taxa by their names"}
    return [
        {"title": title, "svg": Markup(figures.class_map(vectors[name], orders, title))}
        for name, title in titles.items()
    ]


def percent(value: float | str | None, digits: int = 1) -> str:
    """0.1234 → "12.3 %", with a space that does not break; a dash for nothing."""
    return "–" if value in (None, "") else f"{100 * float(value):.{digits}f}\N{NO-BREAK SPACE}%"
