"""Reading a recipe: one Python file, `--config.key=value` overrides, no silent typos."""

import difflib
import json
import re
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, config_flags

from bioclip2_jax.data.pipeline import DataSettings
from bioclip2_jax.errors import UsageError, naming
from bioclip2_jax.files import place, read_json_object, write_json
from bioclip2_jax.training import ranges, sharding
from bioclip2_jax.training.step import StepSettings

_PLACES = ("init", "compile_cache", "data.dir", "data.replay_dir")
# What a run keeps of its first start, and what that was before there was the key.
_KEPT = {"data.decode": "pillow", "data.order": 1, "train.ema": 0.0, "model.fp8": "none"}
# What a run that began before there was the key stays at, and others may change.
_KEPT_IF_OLDER = {"train.level_weight": 0.0}


def parse_arguments(argv: Sequence[str]) -> tuple[ConfigDict, Path]:
    """Turns `--config=FILE [--config.a.b=VALUE ...] --workdir=DIR` into a config and a folder.

    Raises:
      UsageError: a flag, key, value or file is wrong; names the nearest key for a typo.
    """
    config, workdir = _parse(argv)
    if not workdir:
        raise UsageError("--workdir is missing: name the folder of this run, --workdir=runs/NAME")
    return config, place(workdir)


def parse_recipe(argv: Sequence[str]) -> ConfigDict:
    """The same without a folder.

    Raises:
      UsageError: see `parse_arguments`.
    """
    config, workdir = _parse(argv)
    if workdir:
        raise UsageError("--workdir is for training; this only needs --config=FILE")
    return config


def _parse(argv: Sequence[str]) -> tuple[ConfigDict, str | None]:
    recipe, rest = _take_recipe(argv)
    config = _run_recipe(recipe)
    _refuse_unknown_keys(rest, config, recipe)
    values = flags.FlagValues()
    program = ["train", *rest]
    config_flags.DEFINE_config_dict(
        "config", config, flag_values=values, lock_config=True, sys_argv=program
    )
    flags.DEFINE_string("workdir", None, "folder of this run", flag_values=values)
    try:
        stray = values(program)[1:]
    except (flags.Error, TypeError, ValueError) as error:
        message = str(error).replace("\n", " ").strip().rstrip(".")
        raise UsageError(f"{message}; see `bioclip2 train --help`") from error
    if stray:
        raise UsageError(f"unexpected argument {stray[0]!r}; options are written --name=value")
    train, changed = values.config.get("train", {}), [word.partition("=")[0] for word in rest]
    # A run that is only cut short, for a try, may end within its warm-up.
    if "--config.train.steps" not in changed or "--config.train.warmup_steps" in changed:
        ranges.check_warmup(train.get("steps", 0), train.get("warmup_steps", 0))
    return values.config, values.workdir


@dataclass(frozen=True)
class Settings:
    """A recipe, checked and dealt out to those who read it.

    Attributes:
      recipe: all of it as nested dicts.
      model: a key of `presets.PRESETS`, or "init".
      mesh, data, step: of the devices, of the batches and of one update.

    The others are the keys of the same name in `configs/common.py`.
    """

    recipe: dict[str, Any]
    init: str
    compile_cache: str
    model: str
    resize_mode: str
    interpolation: str
    steps: int
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    stuck_minutes: float
    profile: tuple[int, ...]
    mesh: sharding.MeshSettings
    data: DataSettings
    step: StepSettings


def compose(config: ConfigDict) -> Settings:
    """Turns a recipe, whose keys have a name each, into settings.

    Raises:
      UsageError: a key is missing or impossible; names it.
    """
    recipe = config.to_dict()
    try:
        values = recipe["data"] | recipe["train"] | recipe["model"] | recipe
        execution = values | {"gather": sharding.gather}
        step = values | {"optimizer": values, "execution": execution}
        parts = {"recipe": recipe, "model": values["name"], "data": values, "step": step}
        settings = msgspec.convert(values | parts, Settings)
        ranges.check(flat(recipe))
        for key in _PLACES:
            with naming(f"config.{key}"):
                place(flat(recipe)[key])
        return settings
    except KeyError as error:
        raise UsageError(f"the recipe has no {error}; see configs/common.py") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"the recipe: {error}; see configs/common.py") from error


def keep_as_begun(config: ConfigDict, workdir: Path) -> list[str]:
    """Sets the keys that a run may not change to what it began with, whatever the recipe says now.

    Returns:
      One line for each key that the recipe has otherwise.

    Raises:
      UsageError: it began with a key that is no more.
      UserError: what an earlier start saved cannot be read.
    """
    path, notes = workdir / "config.json", []
    if path.exists():
        begun, now = flat(read_json_object(path)), flat(config.to_dict())
        if begun.get("train.rank_weights"):
            raise UsageError(
                f"{workdir}: begun with config.train.rank_weights, which this version has no more;"
                " end it with version 0.2, or begin another run with config.train.level_weight"
            )
        older = {key: value for key, value in _KEPT_IF_OLDER.items() if key not in begun}
        for key, before in (_KEPT | older).items():
            value = begun.get(key, before)
            if now.get(key, value) != value:
                config.update_from_flattened_dict({key: value})
                notes.append(f"config.{key} stays {value!r}, as this run began")
    return notes


def save(settings: Settings, workdir: Path) -> list[str]:
    """Writes the recipe to `WORKDIR/config.json`.

    Returns:
      One line for each key that differs from the recipe an earlier start of the run saved.

    Raises:
      UserError: the earlier one cannot be read.
    """
    path, old, recipe = workdir / "config.json", {}, settings.recipe
    if path.exists():
        begun = flat(read_json_object(path))
        old = {key: json.dumps(value) for key, value in begun.items()}
        # A key that the run began without stays away, or the next start would take it for a choice.
        recipe = {key: dict(v) if isinstance(v, dict) else v for key, v in recipe.items()}
        for section, _, key in (each.partition(".") for each in _KEPT_IF_OLDER.keys() - begun):
            recipe[section].pop(key, None)
    new = {key: json.dumps(value) for key, value in flat(recipe).items()}
    write_json(path, recipe, indent=2)
    return [
        f"config.{key} was {old.get(key, 'null')}, is {new.get(key, 'null')}"
        for key in sorted(old.keys() | new.keys())
        if old and old.get(key, "null") != new.get(key, "null")
    ]


def _take_recipe(argv: Sequence[str]) -> tuple[Path, list[str]]:
    """The file named by `--config` and the other arguments."""
    rest = list(argv)  # not by argparse, which takes -c for it, and the last of two
    for position, argument in enumerate(rest):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            words = rest[position : position + (1 if equals else 2)]
            value = value if equals else "".join(words[1:])
            if not Path(value).is_file():
                raise UsageError(f"--config={value}: no such recipe file; see configs/")
            del rest[position : position + len(words)]
            return Path(value), rest
    raise UsageError("--config is missing: name a recipe, for example configs/quickstart.py")


def _run_recipe(recipe: Path) -> ConfigDict:
    # Recipes import each other as `configs.…`, wherever the program is started.
    root = str(recipe.absolute().parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        config = runpy.run_path(str(recipe))["get_config"]()
    except KeyError as error:
        raise UsageError(f"{recipe}: a recipe must define get_config()") from error
    except Exception as error:  # a recipe is Python: whatever it raises is its author's to mend
        message = str(error).replace("\n", " ").strip() or type(error).__name__
        raise UsageError(f"{recipe}: {message}") from error
    if not isinstance(config, ConfigDict):
        raise UsageError(f"{recipe}: get_config() must return an ml_collections.ConfigDict")
    return config


def _refuse_unknown_keys(arguments: Sequence[str], config: ConfigDict, recipe: Path) -> None:
    keys = list(flat(config.to_dict()))
    for argument in arguments:
        match = re.match(r"--?config\.([^=]+)", argument)
        if match and match[1] not in keys:
            near = difflib.get_close_matches(match[1], keys, n=1, cutoff=0.3)
            hint = f"; did you mean config.{near[0]}?" if near else ""
            raise UsageError(f"config.{match[1]} is not a key of {recipe}{hint}")


def flat(tree: dict) -> dict[str, Any]:
    """Nested settings by the names that they have in flags, "train.steps"."""
    return flatten_dict(tree, sep=".")
