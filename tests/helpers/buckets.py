"""A stand-in for Google Cloud Storage on loopback: real clients, no network, kept in memory."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from bioclip2_jax import files

BUCKET = "bucket"
# It lets five callers wait; the sixth would try again after seconds.
_PROGRAM = """
import socketserver
from gcp_storage_emulator.__main__ import main
socketserver.TCPServer.request_queue_size = 128
main()
"""


@contextlib.contextmanager
def emulator() -> Iterator[dict[str, str]]:
    """Runs it; gives the environment by which gcsfs, TensorStore and ArrayRecord find it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = ["--host=127.0.0.1", f"--port={port}", "--in-memory", f"--default-bucket={BUCKET}"]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "start", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"{address}/storage/v1/b/{BUCKET}", process)
        yield {
            "STORAGE_EMULATOR_HOST": address,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "FSSPEC_GS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else it asks Google first
        }
    finally:
        process.kill()
        process.wait()


def upload(folder: Path, target: str) -> str:
    """Copies a local folder into a bucket; returns where it is there."""
    for name in files.below(folder):
        (files.place(target) / name).write_bytes((folder / name).read_bytes())
    return target


def _wait_for(address: str, process: subprocess.Popen) -> None:
    deadline = time.time() + 30
    while True:
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            assert time.time() < deadline and process.poll() is None
            time.sleep(0.05)
