"""Finds and reads the results that a report is about."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.report import published

_NUMBER = (int, float)
_MAYBE = (int, float, type(None))  # none where nothing could be asked
_SPECIES = {"settings": dict, "ranks": dict, "intervals": dict, "num_images": int}
_ZERO_SHOT = _SPECIES | dict.fromkeys(("top1", "macro_top1", "top3", "top5", "chance"), _NUMBER)
_FEW_SHOT = _SPECIES | dict.fromkeys(("top1", "macro_top1", "std", "chance"), _MAYBE)
_BEYOND = {"settings": dict, "value": _NUMBER, "std": _NUMBER, "runs": list, "metric": str}
_BEYOND |= {"protocol": str, "num_images": int}
# File → what it must hold to be a result.
KINDS: dict[str, dict] = {
    "zero_shot": _ZERO_SHOT | {"num_classes": int},
    "few_shot_1": _FEW_SHOT | {"k": int, "folds": list},
    "few_shot_5": _FEW_SHOT | {"k": int, "folds": list},
    **{task: _BEYOND for task in ("newt", "fishnet", "awa2", "herbarium19", "plantdoc")},
    "between": {"continuous": list, "discrete": list},
    "within": {"rho": dict, "fisher": dict, "fisher_removed": dict, "species": list},
    "theory": {"settings": dict},
    "scaling": {"runs": list},
}
ANALYSES = ("between", "within", "theory", "scaling")
# Folders of a run that hold many files and no result.
_NO_RESULTS = ("checkpoints", "features", "tensorboard", "compile_cache")


@dataclass(frozen=True)
class Result:
    """One JSON file of `bioclip2 evaluate` or `bioclip2 analyze`.

    Attributes:
      path: the file.
      kind: its name without suffix, of `KINDS`.
      model: name to show; "" where the result is of no model.
      step: of the checkpoint, None for others.
      values: what the file holds.
    """

    path: Path
    kind: str
    model: str
    step: int | None
    values: dict

    @property
    def settings(self) -> dict:
        """What was evaluated on."""
        return self.values.get("settings") or {}

    @property
    def asked(self) -> tuple:
        """Equal for results that answer the same question of different models or steps."""
        names = ("data", "annotations", "class_column", "where", "split", "labels", "text_kind")
        names += ("templates", "protocol")
        return (self.kind, *(str(self.settings.get(name)) for name in names))

    @property
    def subject(self) -> str:
        """Model and step, for the page."""
        return self.model if self.step is None else f"{self.model}, step {self.step:,}"

    @property
    def set_name(self) -> str:
        """What the pictures are called: the annotation table, or the dataset and its split."""
        if self.kind in published.TASK_TITLES:
            return published.TASK_TITLES[self.kind]
        if self.settings.get("annotations"):
            return published.set_name(self.settings["annotations"])
        data, split = self.settings.get("data"), self.settings.get("split")
        name = published.set_name(data) if data else "kept features"
        return f"{name}, {split}" if split else name


def gather(folders: Iterable[str | Path]) -> list[Result]:
    """All results in these folders and below, by path.

    Args:
      folders: of results, of a training run, or parents of such folders.

    Raises:
      UsageError: there is no such folder.
      UserError: a folder holds no result, or a file is damaged.
    """
    paths: dict[Path, None] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UsageError(f"--results {folder}: no such folder")
        found = list(_result_files(folder))
        if not found:
            raise UserError(
                f"{folder}: no results in it or below; run `bioclip2 evaluate` or"
                " `bioclip2 analyze` first, and give the folder that they wrote"
            )
        paths |= {path.resolve(): None for path in found}
    read = [(path, _read(path)) for path in sorted(paths, key=_natural)]
    names = _short_names({_origin(path, values) for path, values in read})
    return [
        Result(path, path.stem, names[_origin(path, values)], values.get("step"), values)
        for path, values in read
    ]


def newest(results: Iterable[Result]) -> list[Result]:
    """Of several steps of a model that were asked the same, the last one."""
    last: dict[tuple, Result] = {}
    for result in results:
        key = (result.model, result.asked, result.path if result.step is None else None)
        if key not in last or (result.step or 0) >= (last[key].step or 0):
            last[key] = result
    return list(last.values())


def _result_files(folder: Path) -> Iterable[Path]:
    for place, below, files in os.walk(folder):
        below[:] = sorted(n for n in below if n not in _NO_RESULTS and not n.startswith("."))
        yield from (Path(place, f"{kind}.json") for kind in KINDS if f"{kind}.json" in files)


def _natural(path: Path) -> list:
    """Sorts step 900 before step 1000."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.parts]


def read_json(path: Path) -> dict:
    """A JSON object.

    Raises:
      UserError: unreadable, or something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); make it again, or take it out of the folder"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: no JSON object; make it again, or take it out of the folder")
    return values


def _read(path: Path) -> dict:
    values = read_json(path)
    for key, kind in KINDS[path.stem].items():
        if not isinstance(values.get(key), kind) or key not in values:
            raise not_a_result(path, f"no proper {key!r}")
    return values


def not_a_result(path: Path, why: str) -> UserError:
    """The error about a file that cannot be shown."""
    return UserError(
        f"{path}: not a result of this version of bioclip2 ({why}); make it again, or take it out"
        " of the folder"
    )


def _origin(path: Path, values: dict) -> str:
    """Where the model came from: its workdir, file or name on the Hub; "" without a model."""
    model = values.get("model") or ""
    parts = Path(model).parts
    if len(parts) > 2 and parts[-2] == "checkpoints":
        model = str(Path(*parts[:-2]))
    if not model and path.stem not in ANALYSES:  # results of an older version
        model = str(path.parent.parent.parent if "step" in values else path.parent)
    return os.path.abspath(model) if model and os.path.exists(model) else model


def _short_names(origins: Iterable[str]) -> dict[str, str]:
    """The last part of every path, with as many parts before it as tell them apart."""
    origins = set(origins)
    names = {}
    for origin in origins:
        parts = [part for part in origin.replace("\\", "/").split("/") if part]
        others = [o.replace("\\", "/").split("/") for o in origins - {origin}]
        count = 1
        while count < len(parts) and any(o[-count:] == parts[-count:] for o in others):
            count += 1
        names[origin] = "/".join(parts[-count:]).removeprefix("hf-hub:")
    return names


# ---- Tables beside the results


def read_csv(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a result table; none where there is no such file.

    Raises:
      UserError: unreadable, or without one of `columns`.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows, header = list(reader), reader.fieldnames or ()
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); evaluate again") from error
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; evaluate again")
    return rows


def read_jsonl(path: Path) -> list[dict]:
    """Rows of `metrics.jsonl`; a last line still being written is left out, no file is no row."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
