"""Proof that a checkpoint is what was written: `SHA256SUMS` beside its files.

The list is made just before Orbax declares the checkpoint complete, by renaming its temporary
folder, or in a bucket by writing `commit_success.txt`; so a complete one has a list.
`cd CHECKPOINT && sha256sum -c SHA256SUMS` checks the same by hand.
"""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bioclip2_jax import files
from bioclip2_jax.errors import reason

NAME = "SHA256SUMS"
# Said in Orbax's own metadata of a checkpoint, so that a lost list is noticed.
MARK: dict[str, Any] = {"sealed_by": NAME}
_ORBAX_METADATA = "_CHECKPOINT_METADATA"
COMMITTED = "commit_success.txt"
# Orbax writes these when it completes the checkpoint: the list gets them afterwards, by `complete`.
_LATE = (_ORBAX_METADATA, COMMITTED)
_THREADS = 8  # hashing lets go of the interpreter lock


def write(folder: Path) -> None:
    """Lists all files of a checkpoint that is about to be completed.

    Raises:
      OSError: a file cannot be read, or the list not be written.
    """
    _write_lines(folder, _digests(folder, [name for name in _files(folder) if name not in _LATE]))


def complete(folder: Path) -> None:
    """Adds the files that Orbax wrote at the end. A crash before leaves them unchecked.

    Raises:
      OSError: as `write`.
    """
    listed = _read_lines(folder)
    _write_lines(folder, listed | _digests(folder, [n for n in _LATE if (folder / n).exists()]))


def damage(folder: Path, below: str = "") -> str | None:
    """What is wrong with the files of a checkpoint, or None.

    A checkpoint of a version that wrote no list passes.

    Args:
      folder: of one step.
      below: looks only at the files of this item; empty: at all.
    """
    try:
        if not (folder / NAME).exists():
            if not (folder / _ORBAX_METADATA).exists():
                return f"{_ORBAX_METADATA} is missing"
            metadata = (folder / _ORBAX_METADATA).read_bytes()
            return f"{NAME} is missing" if NAME.encode() in metadata else None
        listed = {n: digest for n, digest in _read_lines(folder).items() if n.startswith(below)}
        present = {name for name in _files(folder) if name.startswith(below)}
        missing = sorted(listed.keys() - present)
        if missing:
            return f"{missing[0]} is missing"
        # A list that was cut off names too little.
        extra = sorted(present - listed.keys() - set(_LATE))
        if extra:
            return f"{NAME} does not name {extra[0]}"
        actual = _digests(folder, listed)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or reason(error)}"
    except ValueError:
        return f"{NAME} is unreadable"
    wrong = [name for name in listed if actual[name] != listed[name]]
    return f"{wrong[0]} is not what was written" if wrong else None


def _files(folder: Path) -> list[str]:
    """All files, relative; hidden ones, such as those of NFS, are not ours."""
    return sorted(name for name in files.below(folder) if name.rpartition("/")[2] != NAME)


def _digests(folder: Path, names: Collection[str]) -> dict[str, str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(files.sha256, (folder / name for name in names))
        return dict(zip(names, digests, strict=True))


def _read_lines(folder: Path) -> dict[str, str]:
    text = (folder / NAME).read_bytes().decode()
    if not text.endswith("\n"):
        raise ValueError("cut off")
    lines = text.splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _write_lines(folder: Path, digests: dict[str, str]) -> None:
    lines = (f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    files.write_text(folder / NAME, "".join(lines))
