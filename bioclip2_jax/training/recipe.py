"""Reading a recipe: one Python file, `--config.key=value` overrides, no silent typos."""

import difflib
import json
import os
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from bioclip2_jax.errors import UsageError


def parse_arguments(argv: Sequence[str]) -> tuple[ConfigDict, Path]:
    """Turns `--config=FILE [--config.a.b=VALUE ...] --workdir=DIR` into a config and a folder.

    Raises:
      UsageError: a flag, key, value or file is wrong; names the nearest key for a typo.
    """
    config, workdir = _parse(argv)
    if not workdir:
        raise UsageError("--workdir is missing: name the folder of this run, --workdir=runs/NAME")
    return config, Path(workdir)


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
    return values.config, values.workdir


def save(config: ConfigDict, workdir: Path) -> list[str]:
    """Writes the resolved config to `WORKDIR/config.json`.

    Returns:
      One line for each key that differs from the config an earlier start of the run saved.
    """
    path = workdir / "config.json"
    new = _flatten(config.to_dict())
    changes = []
    if path.exists():
        old = _flatten(json.loads(path.read_text(encoding="utf-8")))
        changes = [
            f"config.{key} was {json.dumps(old.get(key))}, is {json.dumps(new.get(key))}"
            for key in sorted(old.keys() | new.keys())
            if json.dumps(old.get(key)) != json.dumps(new.get(key))
        ]
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return changes


def load(workdir: str | Path) -> dict:
    """The resolved config of a run as nested dicts.

    Raises:
      UsageError: the folder is not the workdir of a training run.
    """
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise UsageError(f"{workdir}: no config.json here; is this the --workdir of a training?")
    return json.loads(path.read_text(encoding="utf-8"))


def _take_recipe(argv: Sequence[str]) -> tuple[Path, list[str]]:
    """The file named by `--config` and the other arguments."""
    rest = list(argv)
    for position, argument in enumerate(rest):
        name, equals, value = argument.partition("=")
        if name not in ("--config", "-config"):
            continue
        if not equals:
            value = "".join(rest[position + 1 : position + 2])
            del rest[position + 1 : position + 2]
        del rest[position]
        if not Path(value).is_file():
            raise UsageError(f"--config={value}: no such recipe file; see configs/")
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
    keys = list(_flatten(config.to_dict()))
    for argument in arguments:
        match = re.match(r"--?config\.([^=]+)", argument)
        if match and match[1] not in keys:
            near = difflib.get_close_matches(match[1], keys, n=1, cutoff=0.3)
            hint = f"; did you mean config.{near[0]}?" if near else ""
            raise UsageError(f"config.{match[1]} is not a key of {recipe}{hint}")


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
