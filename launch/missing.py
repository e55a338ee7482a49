"""Prints what an environment lacks of this checkout and of some of its extras; nothing if complete.

    PYTHON_OF_THE_ENVIRONMENT launch/missing.py [EXTRA,EXTRA...]

Reads what is installed, without a network. It ends with an error where the environment has too
little even for this.
"""

import json
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def missing(requirement: Requirement, of_extra: str = "") -> Iterator[str]:
    """The requirement, if it applies here and is not met; else what its own extras lack."""
    if requirement.marker and not requirement.marker.evaluate({"extra": of_extra}):
        return
    wanted = str(requirement).split(";")[0]
    try:
        package = distribution(requirement.name)
    except PackageNotFoundError:
        yield wanted
        return
    if not requirement.specifier.contains(package.version, prereleases=True):
        yield f"{wanted} (here is {package.version})"
    for extra in requirement.extras:
        for inner in map(Requirement, package.requires or ()):
            if "extra" in str(inner.marker):
                yield from missing(inner, extra)


def main(extras: list[str]) -> None:
    """Prints one requirement a line."""
    try:
        origin = json.loads(distribution("bioclip2-jax").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    if origin.get("url") != ROOT.as_uri() or not origin.get("dir_info", {}).get("editable"):
        print("this checkout itself")
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    for line in filter(None, lines):
        for lacking in missing(Requirement(line)):
            print(lacking)


if __name__ == "__main__":
    main([extra for extra in "".join(sys.argv[1:]).split(",") if extra])
