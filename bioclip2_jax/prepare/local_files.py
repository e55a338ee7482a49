"""Pictures that lie beside a table and are named in it: read without being led astray."""

import stat
from pathlib import Path

from bioclip2_jax.errors import reason
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
