"""Imports point downwards: a room may use those on the floors below it, never above or beside."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bioclip2_jax"
# From the roof down. What is not named here has no floor yet, and a test says so.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("analysis", "report"),
    ("report.figures",),
    ("evaluation", "identify", "train"),
    ("features",),
    ("training", "prepare"),
    ("measures", "weights"),
    ("data",),
    ("text", "losses", "models"),
    ("workers",),
    ("files",),
    ("errors",),
    ("",),  # the package itself: its version, and the time of its start
)
# What else may be used, and why.
EXCEPTIONS = {
    ("", "weights"): "load is imported when it is first asked for",
    ("", "text"): "tokenize likewise",
}


def modules() -> dict[str, Path]:
    """Dotted name below the package → file."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    return names


MODULES = modules()


def room_of(module: str) -> str:
    """The longest room that holds a module."""
    rooms = [room for floor in FLOORS for room in floor]
    return max((r for r in rooms if module == r or module.startswith(r + ".") or not r), key=len)


def floor_of(room: str) -> int:
    """0 is the roof."""
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = (name.removeprefix("bioclip2_jax").lstrip(".") for name in names if _is_own(name))
    # `from room.module import thing` and `from room import module` look alike.
    return {name if name in MODULES else name.rpartition(".")[0] for name in own}


def _is_own(name: str) -> bool:
    return name == "bioclip2_jax" or name.startswith("bioclip2_jax.")


def climbs(module: str) -> list[str]:
    """What a module imports from above or beside it."""
    room = room_of(module)
    return [
        other
        for other in sorted(imports(MODULES[module]))
        if (there := room_of(other)) != room
        and floor_of(there) <= floor_of(room)
        and (room, there) not in EXCEPTIONS
        and (module, other) not in EXCEPTIONS
    ]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_climbs(module: str):
    assert climbs(module) == []


def test_every_module_has_a_floor():
    homeless = [name for name in MODULES if name and room_of(name) == ""]
    assert homeless == []


def test_the_top_of_the_package_stays_small():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 21, sorted(entries)


def test_no_module_is_long():
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()
    }
    assert {name: length for name, length in lengths.items() if length > 420} == {}


def test_an_import_that_climbs_is_found(monkeypatch, tmp_path):
    culprit = tmp_path / "layers.py"
    culprit.write_text("def f():\n    from bioclip2_jax.training import step\n", encoding="utf-8")
    monkeypatch.setitem(MODULES, "models.layers", culprit)
    assert climbs("models.layers") == ["training.step"]
    culprit.write_text("import bioclip2_jax.cli\n", encoding="utf-8")
    assert climbs("models.layers") == ["cli"]
