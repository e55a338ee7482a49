"""Eight forced CPU devices and one cache of programs for every test, and shared datasets."""

import os
import shutil
import tempfile
from importlib.metadata import version

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests spend their time on compiling, and the less on that the less is optimised.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
if version("jaxlib").startswith("0.10."):  # later ones know only the emitters that take longer
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Also for the workers of pytest-xdist and whatever tests start, which inherit it.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_OWN_CACHE = _CACHE not in os.environ
if _OWN_CACHE:
    os.environ[_CACHE] = tempfile.mkdtemp(prefix="bioclip2-tests-")
# Features of long lists of names are kept, and not among the user's.
os.environ["BIOCLIP2_CACHE"] = os.path.join(tempfile.gettempdir(), "bioclip2-tests-names")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Several processes share the processors; threads that wait for work would only take them away.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import buckets
from PIL import Image

from bioclip2_jax.data.records import make_record
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.text.taxonomy import Taxon

ROOT = Path(__file__).parent.parent
# By the time that they take, in all about two thirds.
_LONGEST = (
    "processes chaos benchmarks step kernels train watchdog protocols convert_forms models"
    " feeding update_options plan earlier build end_to_end preflight predict_outputs study"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first: what is left for the end can be shared out evenly."""
    rank = {f"test_{name}": number for number, name in enumerate(_LONGEST.split())}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_unconfigure() -> None:
    """Removes the cache, in the process that made it."""
    if _OWN_CACHE:
        shutil.rmtree(os.environ[_CACHE], ignore_errors=True)


_TAXA = {
    Taxon(
        "Animalia", "Chordata", "Aves", "Piciformes", "Picidae", "Picus", "viridis"
    ): "Woodpecker",
    Taxon("Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "pica"): "Magpie",
    Taxon("Animalia", "Chordata", "", "Cypriniformes", "Cyprinidae", "Tinca", "tinca"): "Tench",
    Taxon("Plantae", "Tracheophyta", "Liliopsida", "Poales", "Poaceae", "Poa", "annua"): "",
    Taxon("Fungi", "Basidiomycota", "Agaricomycetes", "Boletales", "Boletaceae"): "Bolete",
}


@pytest.fixture(scope="session")
def shared_photos() -> Path:
    """Real photographs beside the checkout; they may not be shipped with it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the photographs (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def emulated_bucket() -> Iterator[str]:
    """A bucket on this machine, also for the processes that tests start."""
    with buckets.emulator() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield f"gs://{buckets.BUCKET}"


@pytest.fixture
def bucket(emulated_bucket, request) -> str:
    """An empty folder in it."""
    return f"{emulated_bucket}/{request.node.name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A prepared dataset: five taxa, one colour each, 64 train, 20 val and 10 test pictures."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (len(_TAXA), 3))

    def examples(split: str, count: int):
        for number in range(count):
            which = number % len(_TAXA)
            taxon, common = list(_TAXA.items())[which]
            pixels = np.clip(colours[which] + rng.normal(0, 20, (40, 48, 3)), 0, 255)
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
            yield make_record(
                key=f"{split}-{number}",
                image=buffer.getvalue(),
                taxon=taxon,
                vernacular_name=common,
                source="test",
                licence="CC0-1.0",
                dataset_name="one" if number % 2 else "two",
                labels={"sex": ("female", "male")[number // 5 % 2]},
            )

    sizes = {"train": 64, "val": 20, "test": 10}
    folder = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(
        {split: examples(split, count) for split, count in sizes.items()},
        folder,
        name="tiny",
        description="Coloured squares.",
    )
    return folder
