"""Finds and reads the results that a report is about."""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from bioclip2_jax import files
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import experiments, findings, schema
from bioclip2_jax.evaluation.tasks import TASKS
from bioclip2_jax.report import published

# Name of the file → what it holds.
ANALYSES = {
    "between": findings.Between,
    "within": findings.Within,
    "theory": experiments.Theory,
    "scaling": experiments.Scaling,
}
KINDS: dict[str, type] = {name: task.result for name, task in TASKS.items()} | ANALYSES
# Folders of a run that hold many files and no result.
_NO_RESULTS = ("checkpoints", "features", "tensorboard", "compile_cache")


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """One JSON file of `bioclip2 evaluate` or `bioclip2 analyze`.

    Attributes:
      path: the file.
      kind: its name without suffix, of `KINDS`.
      model: name to show; "" where the result is of no model.
      source: model or features as the file names them.
      step: of the checkpoint, None for others.
      settings: what was evaluated on.
      values: what the file holds.
    """

    path: Path
    kind: str
    model: str
    source: str
    step: int | None
    settings: Mapping[str, Any]
    values: Any

    @property
    def asked(self) -> tuple[str, ...]:
        """Equal for results that answer the same question of different models or steps."""
        said = (str(value) for name, value in self.settings.items() if name != "support")
        return (self.kind, *said)

    @property
    def subject(self) -> str:
        """Model and step, for the page."""
        return self.model if self.step is None else f"{self.model}, step {self.step:,}"

    @property
    def order(self) -> tuple[str, str, Path]:
        """Of results on the page."""
        return self.subject, self.set_name, self.path

    @property
    def set_name(self) -> str:
        """What the pictures are called: the table that tells of them, or the dataset and split."""
        if isinstance(self.values, schema.BeyondResult):
            return TASKS[self.kind].title
        table = "queries" if self.kind == "retrieval" else "annotations"
        if self.settings.get(table):
            return published.set_name(self.settings[table])
        data, split = self.settings.get("data"), self.settings.get("split")
        name = published.set_name(data) if data else "kept features"
        return f"{name}, {split}" if split else name


def gather(folders: Iterable[str | Path]) -> list[ResultFile]:
    """All results in these folders and below, by path.

    Args:
      folders: of results, of a training run, or parents of such folders.

    Raises:
      UsageError: there is no such folder.
      UserError: a folder holds no result, or a file is damaged.
    """
    paths: dict[Path, None] = {}
    for folder in map(files.place, folders):
        if not folder.is_dir():
            raise UsageError(f"--results {folder}: no such folder")
        below = {whole(path): None for path in _result_files(folder)}
        if not below:
            raise UserError(
                f"{folder}: no results in it or below; run `bioclip2 evaluate` or"
                " `bioclip2 analyze` first, and give the folder that they wrote"
            )
        paths |= below
    results = [_read(path) for path in sorted(paths, key=_natural)]
    names = _short_names({result.model for result in results})
    return [replace(result, model=names[result.model]) for result in results]


def newest(results: Iterable[ResultFile]) -> list[ResultFile]:
    """Of several steps of a model that were asked the same, the last one."""
    last: dict[tuple, ResultFile] = {}
    for result in results:
        key = (result.model, result.asked, result.path if result.step is None else None)
        if key not in last or (result.step or 0) >= (last[key].step or 0):
            last[key] = result
    return list(last.values())


def _result_files(folder: Path) -> Iterable[Path]:
    names = files.below(folder, leave_out=_NO_RESULTS)
    paths = (folder / name for name in names)
    return [path for path in paths if path.suffix == ".json" and path.stem in KINDS]


def whole(path: Path) -> Path:
    """The same file by the one name that it always has."""
    return path if files.is_remote(path) else path.resolve()


def _natural(path: Path) -> list:
    """Sorts step 900 before step 1000."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.parts]


def _read(path: Path) -> ResultFile:
    """A result, its model by its whole name."""
    values = schema.read(path, KINDS[path.stem])
    step, model = getattr(values, "step", None), getattr(values, "model", None)
    source = model or getattr(values, "features", "")
    if not model and isinstance(values, schema.Result):  # the first version did not name it
        model = str(path.parent if step is None else path.parent.parent.parent)
    return ResultFile(
        path=path,
        kind=path.stem,
        model=_origin(model or ""),
        source=source,
        step=step,
        settings=msgspec.to_builtins(values.settings),
        values=values,
    )


def _origin(model: str) -> str:
    """A workdir, a file, or a name on the Hub; "" without a model."""
    path = files.place(model)
    if path.parent.name == "checkpoints" and len(path.parts) > 2:
        path = path.parent.parent
        model = str(path)
    if files.is_remote(path):
        return model
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
    rows = files.read_csv(path)
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; evaluate again")
    return rows


def read_jsonl(path: Path) -> list[dict]:
    """Rows of `metrics.jsonl`; a last line still being written is left out, no file is no row."""
    rows = []
    for line in path.read_bytes().decode().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows
