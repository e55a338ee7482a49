"""What an installed package needs beyond its Python files."""

import tomllib
from importlib import resources
from pathlib import Path

import bioclip2_jax

ROOT = Path(__file__).parent.parent


def test_package_data_is_declared_and_there():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["bioclip2_jax"]
    package = resources.files("bioclip2_jax")
    for pattern in patterns:
        assert list(Path(str(package)).glob(pattern)), pattern
    kept = {path for pattern in patterns for path in Path(str(package)).glob(pattern)}
    others = {
        path
        for path in Path(str(package)).rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert others <= kept


def test_every_extra_of_the_project_exists():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = settings["project"]["optional-dependencies"]
    assert set(extras) >= {"tpu", "cuda12", "cuda13", "torch", "ray", "dev"}
    assert settings["project"]["scripts"] == {"bioclip2": "bioclip2_jax.cli:main"}


def test_neither_torch_nor_tensorflow_is_required():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {line.split("=")[0].split(">")[0].split("<")[0].strip().lower() for line in lines}
    assert not names & {"torch", "tensorflow", "torchvision", "open_clip_torch"}


def test_public_names_resolve():
    assert callable(bioclip2_jax.load) and callable(bioclip2_jax.tokenize)
    assert bioclip2_jax.tokenize(["a", "b"]).shape == (2, 77)
