"""Standard error holds our lines alone, also where libtpu is installed and there is no TPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bioclip2_jax.workers import platforms

# JAX asks for the library when it is imported, which is silent, and again to load it, which is not.
STAND_IN = """import sys
asked = []
def get_library_path():
    asked.append(1)
    if len(asked) > 1:
        print("WARNING: could not determine TPU accelerator type", file=sys.stderr)
    return "/nowhere/libtpu.so"
"""


@pytest.fixture
def libtpu(tmp_path, monkeypatch):
    """An environment as that of somebody who installed the extra `tpu` on a laptop."""
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu" / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("JAX_PLATFORMS", *platforms._SAYS_TPU):
        monkeypatch.setenv(name, "")  # so that it is put right at the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(platforms.importlib.metadata, "entry_points", lambda group: ())
    monkeypatch.delitem(sys.modules, "jax")  # whose devices are those of all tests
    monkeypatch.delitem(sys.modules, "libtpu", raising=False)
    return tmp_path


@pytest.mark.parametrize("settled", [True, False])
def test_a_library_without_a_tpu_is_not_loaded(libtpu, settled):
    code = "import sys; from bioclip2_jax.workers import platforms\n"
    code += "platforms.settle()\n" * settled + "import jax; print(jax.devices())"
    path = os.pathsep.join([str(libtpu), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert "Cpu" in done.stdout, done.stderr
    assert ("could not determine TPU" in done.stderr) == (not settled)
    assert not settled or not done.stderr


@pytest.mark.parametrize("device", ["accel0", "vfio/0"])
def test_a_tpu_is_left_to_jax(libtpu, monkeypatch, device):
    (libtpu / "dev" / device).parent.mkdir(parents=True)
    (libtpu / "dev" / device).touch()
    path = Path
    monkeypatch.setattr(platforms, "Path", lambda name: path(f"{libtpu}{name}"))
    assert platforms.has_tpu()
    platforms.settle()
    assert "JAX_PLATFORMS" not in os.environ


def test_what_somebody_has_chosen_stays(libtpu, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "v5e-8")
    platforms.settle()
    assert "JAX_PLATFORMS" not in os.environ
    monkeypatch.delenv("TPU_NAME")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    platforms.settle()
    assert os.environ["JAX_PLATFORMS"] == "cuda,cpu"


def test_a_plugin_of_another_accelerator_stays(libtpu, monkeypatch):
    monkeypatch.setattr(platforms.importlib.metadata, "entry_points", lambda group: ("cuda",))
    platforms.settle()
    assert "JAX_PLATFORMS" not in os.environ
    monkeypatch.setattr(platforms.importlib.metadata, "entry_points", lambda group: ())
    platforms.settle()
    assert os.environ["JAX_PLATFORMS"] == "cpu"
