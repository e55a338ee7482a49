"""Pictures that lie beside a table and are named in it: read without being led astray."""

import stat
from pathlib import Path

from bioclip2_jax.errors import reason

# Beyond any picture; what claims more is a bomb.
MAX_BYTES = 1 << 30


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
        if status.st_size > MAX_BYTES:
            raise Unreadable(f"its file is too large ({status.st_size} bytes)")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: NUL; RuntimeError: a loop
        what = getattr(error, "strerror", None) or reason(error)
        raise Unreadable(f"cannot be read ({what})") from error


def printable(text: str) -> str:
    """A text with escapes for what would not show, such as line breaks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
