"""Pictures that lie beside a table and are named in it: read without being led astray."""

import stat
from pathlib import Path

from bioclip2_jax.data import buckets
from bioclip2_jax.errors import reason
from bioclip2_jax.files import is_remote
from bioclip2_jax.prepare.tar_members import printable
from bioclip2_jax.prepare.tars import MAX_PICTURE


class Unreadable(Exception):
    """A picture cannot be had; the message is the reason."""


def read_below(folder: Path, name: str) -> bytes:
    """Reads the file `name` below `folder`.

    Raises:
      Unreadable: the name leads out of the folder, also by a link, or to no ordinary file of a
        picture's size; or it is not there.
    """
    if is_remote(folder):
        return _read_object(folder, name)
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise Unreadable(f"its file lies outside its folder ({printable(name)})")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            raise Unreadable(f"its file is not an ordinary one ({printable(name)})")
        if status.st_size > MAX_PICTURE:
            raise Unreadable(f"its file is too large ({status.st_size} bytes)")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: NUL; RuntimeError: a loop
        what = getattr(error, "strerror", None) or reason(error)
        raise Unreadable(f"cannot be read ({what})") from error


def _read_object(folder: Path, name: str) -> bytes:
    """The same below a folder of a bucket, where there are no links."""
    if name.startswith("/") or ".." in name.split("/") or "://" in name:
        raise Unreadable(f"its file lies outside its folder ({printable(name)})")
    try:
        size = buckets.size(folder / name)
        if size > MAX_PICTURE:
            raise Unreadable(f"its file is too large ({size} bytes)")
        return buckets.read_bytes(folder / name)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or reason(error)})") from error
