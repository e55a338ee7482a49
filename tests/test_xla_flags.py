"""Flags reach a compiler that knows them, and the caller's own come last."""

import os
import subprocess
import sys

_CHECK = """
import os, jax
from bioclip2_jax.training.xla_flags import GPU_FLAGS, PATIENT, set_flags
set_flags()
assert all(f"--{name}=" in os.environ["XLA_FLAGS"] for name in GPU_FLAGS | PATIENT)
print(jax.device_count(), os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"])
"""


def start(**environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **environment}
    return subprocess.run(
        [sys.executable, "-c", _CHECK], env=environment, capture_output=True, text=True
    )


def test_every_flag_is_known_to_the_installed_compiler():
    done = start()  # XLA ends the process at a flag that it does not know
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "0.92"]


def test_what_the_caller_sets_wins():
    done = start(
        XLA_FLAGS="--xla_force_host_platform_device_count=3",
        XLA_PYTHON_CLIENT_MEM_FRACTION="0.5",
    )
    assert done.stdout.split() == ["3", "0.5"], done.stderr


def test_an_unknown_flag_would_be_noticed():
    assert start(XLA_FLAGS="--xla_gpu_no_such_flag=1").returncode != 0
