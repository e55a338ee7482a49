"""Reading a recipe: one Python file, `--config.key=value` overrides, no silent typos."""

import difflib
import json
import os
import re
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
    recipe = _recipe_path(argv)
    # Recipes import each other as `configs.…`, also when the program starts elsewhere.
    sys.path.insert(0, str(recipe.absolute().parent.parent))
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    flags.DEFINE_string("workdir", None, "folder of this run", flag_values=values)
    try:
        rest = values(["train", *argv])[1:]
        config = values.config
    except (AttributeError, KeyError) as error:
        raise _unknown_key(argv, recipe, error) from error
    except (flags.Error, TypeError, ValueError, OSError) as error:
        raise UsageError(f"{_first_sentence(error)}; see --help") from error
    except Exception as error:  # a recipe is Python: whatever it raises is the user's to mend
        raise UsageError(f"{recipe}: {_first_sentence(error)}") from error
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; options are written --name=value")
    if not values.workdir:
        raise UsageError("--workdir is missing: name the folder of this run, --workdir=runs/NAME")
    return config, Path(values.workdir)


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


def _recipe_path(argv: Sequence[str]) -> Path:
    for position, argument in enumerate(argv):
        match = re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL)
        if match:
            path = Path(match[1] if match[1] is not None else "".join(argv[position + 1 :][:1]))
            if not path.is_file():
                raise UsageError(f"--config={path}: no such recipe file; see configs/")
            return path
    raise UsageError("--config is missing: name a recipe, for example configs/quickstart.py")


def _unknown_key(argv: Sequence[str], recipe: Path, error: Exception) -> UsageError:
    """Explains an AttributeError of ConfigDict: which key, and the nearest one there is."""
    try:
        keys = list(_flatten(_defaults(recipe)))
    except Exception:
        return UsageError(f"{recipe}: {_first_sentence(error)}")
    for argument in argv:
        match = re.match(r"--?config\.([\w.]+)", argument)
        if match and match[1] not in keys:
            near = difflib.get_close_matches(match[1], keys, n=1, cutoff=0.3)
            hint = f"; did you mean config.{near[0]}?" if near else ""
            return UsageError(f"config.{match[1]} is not a key of {recipe}{hint}")
    return UsageError(f"{recipe}: {_first_sentence(error)}")


def _defaults(recipe: Path) -> dict:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(["train", f"--config={recipe}"])
    return values.config.to_dict()


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # ml_collections puts a whole traceback into the message; its last line is the cause.
    return (lines[-1] if lines and "rror" in lines[-1] else "".join(lines[:1])) or repr(error)
