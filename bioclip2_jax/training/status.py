"""How a training run stands, by the files in its folder."""

import json
from pathlib import Path

from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.training import lock
from bioclip2_jax.weights import checkpoint

_SHOWN = ("loss", "accuracy", "learning_rate", "samples_per_second", "data_wait_fraction")


def describe(workdir: Path) -> list[str]:
    """Lines of text: where a run stands, who trains, its checkpoints, newest metrics and goodput.

    Raises:
      UserError: there is no run.
    """
    try:
        recipe = files.read_json_object(workdir / "config.json")
    except UserError as error:
        raise UserError(f"{workdir}: no training run ({error})") from error
    row, saved = _newest_row(workdir), checkpoint.steps(workdir)
    holder = lock.holder_of(workdir)
    if (workdir / "done.json").exists():
        state = "done"
    elif holder and not holder.is_dead():
        state = f"running: {holder}"
    else:
        state = "not running; the same command goes on with it"
    step = max([row.get("step", 0), *saved])
    shown = ", ".join(map(str, saved)) or "none yet"
    lines = [
        f"{workdir}: step {step:,} of {recipe['train']['steps']:,}, {state}",
        f"  checkpoints  {shown}",
    ]
    if row:
        values = [f"{name} {row[name]:.4g}" for name in _SHOWN if name in row]
        lines.append(f"  at step {row['step']:<4} {', '.join(values)}")
    if "goodput" in row:
        lines.append(f"  goodput      {row['goodput']:.1%} of the time since the first start")
    return lines


def _newest_row(workdir: Path) -> dict:
    """The last whole line of `metrics.jsonl`; empty where there is none."""
    path = workdir / "metrics.jsonl"
    for line in reversed(files.read_text(path).splitlines() if path.exists() else []):
        try:
            row = json.loads(line)
        except ValueError:
            continue  # being written
        if isinstance(row, dict) and "step" in row:
            return row
    return {}
