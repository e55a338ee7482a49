"""Reads the headers of tar archives one after the other, whatever was written into them.

Not by `tarfile`, whose headers take ten times as long: a TreeOfLife tar has 110,000. Nothing is
written to disk and no link followed; what no honest archive holds comes with its fault.
"""

import functools
import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple, NoReturn

_BLOCK = 512
_CHUNK = 1 << 20
_ZEROS = bytes(_BLOCK)
_MAX_HEADER, _MAX_NAME = 1 << 20, 4096
# A packed archive of nothing but headers and short texts shrinks to a fiftieth.
_MAX_INFLATION, _SPARE = 200, 1 << 26
_FAULTS = {b"1": "a link", b"2": "a link", b"S": "a sparse file"}
_FAULTS |= dict.fromkeys((b"3", b"4", b"6"), "a device or a pipe")
_FAULTS |= dict.fromkeys((b"0", b"\0", b"7"), "")
_WITHOUT_DATA = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))  # whatever size they claim
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
# Name, size, checksum, kind, magic, and the folder that only the newer format (not GNU's) has.
_HEADER = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")


class Member(NamedTuple):
    """A file of an archive; with a fault its name is printable and its data of no use."""

    name: str
    size: int
    fault: str


class End(Exception):
    """Nothing more can be read; the message is the reason."""


class Stream:
    """The bytes of an archive in order, unpacked if it is packed by gzip.

    Attributes:
      position: number of bytes read.
      members: number of sound headers read.
      member: name of the last one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._end = file, file.seek(0, 2)
        file.seek(0)
        self._packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if self._packed:
            self._end = self._end * _MAX_INFLATION + _SPARE
            self._file = gzip.GzipFile(fileobj=file)
        self._read = self._unpack if self._packed else file.read
        self.position, self.members, self.member = 0, 0, b""

    def block(self) -> bytes:
        """512 bytes, fewer at the end of the file."""
        data = self._read(_BLOCK)
        self.position += len(data)
        return data

    def read(self, size: int) -> bytes:
        """Exactly so many bytes.

        Raises:
          End: there are not as many.
        """
        if self.position + size > self._end:
            self._refuse(size)
        if not self._packed or size <= _CHUNK:
            data = self._read(size)
        else:  # a claimed size alone must not take memory
            pieces = (self._read(min(_CHUNK, size - done)) for done in range(0, size, _CHUNK))
            data = b"".join(pieces)
        self.position += len(data)
        if len(data) < size:
            raise End(f"{size - len(data):,} of {size:,} bytes are missing")
        return data

    def skip_to(self, position: int) -> None:
        """Passes over what nobody asked for.

        Raises:
          End: the file ends before.
        """
        size = position - self.position
        if not size:
            return
        if position > self._end:
            self._refuse(size)
        if self._packed:
            while self.position < position:
                self.read(min(_CHUNK, position - self.position))
        else:
            self._file.seek(size, 1)
            self.position = position

    def _refuse(self, size: int) -> NoReturn:
        if self._packed:
            raise End(f"it unpacks to more than {_MAX_INFLATION} times its size")
        raise End(f"{self.position + size - self._end:,} of {size:,} bytes are missing")

    def _unpack(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise End(f"gzip: {error}") from error


def printable(name: str | bytes) -> str:
    """A name on one line, whatever its bytes: those that cannot be printed with backslashes."""
    raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    text = raw[:_MAX_NAME].decode("utf-8", "backslashreplace")
    return _CONTROLS.sub(lambda letter: f"\\x{ord(letter[0]):02x}", text)


def is_header(block: bytes) -> bool:
    """Whether a block can begin a tar."""
    return len(block) == _BLOCK and block != _ZEROS and _parts(block) is not None


def members(stream: Stream) -> Iterator[Member]:
    """File after file; what the caller leaves unread of its data is passed over.

    Raises:
      End: the archive is cut, or damaged so that nothing behind can be read.
    """
    told: dict[bytes, bytes] = {}  # by headers before the member's own: its true name and size
    closed = False
    while True:
        header = stream.block()
        stream.member = b""
        if header == _ZEROS:  # two of them end an archive, but another one may follow
            closed = True
            continue
        parts = _parts(header) if len(header) == _BLOCK else None
        if not parts:
            if closed:  # whatever lies behind the end
                return
            if len(header) < _BLOCK:
                raise End("a header is cut" if header else "its end mark is missing")
            raise End(f"no header at byte {stream.position - _BLOCK:,}")
        closed = False
        stream.members += 1
        name, size, kind = parts
        end = stream.position + size + -size % _BLOCK
        if kind in b"xXgLK":
            data = stream.read(size) if size <= _MAX_HEADER else None
            if data is None:
                told[b"too long"] = b""
            elif kind == b"L":
                told[b"path"] = data.rstrip(b"\0")
            elif kind in b"xX":
                told |= _pax(data)
            stream.skip_to(end)
            continue
        fault = _FAULTS.get(kind, "of an unknown kind")
        if told:
            name = told.get(b"path") or name
            if told.get(b"size", b"").isdigit() and len(told[b"size"]) < 20:
                size = int(told[b"size"])
                end = stream.position + size + -size % _BLOCK
            if any(key.startswith(b"GNU.sparse") for key in told):
                fault = "a sparse file"
            if b"too long" in told:
                fault = "a header is too large"
            told = {}
        stream.member = name
        # Old archives mark folders by a slash alone.
        if kind != b"5" and not (kind == b"\0" and name.endswith(b"/")):
            yield _checked(name, size, fault)
        stream.skip_to(stream.position if kind in _WITHOUT_DATA else end)


def _checked(name: bytes, size: int, fault: str) -> Member:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return Member(name=printable(name), size=size, fault="a name that is not UTF-8")
    is_plain = text.isascii() and text.isprintable() and len(text) < 256
    if is_plain and not fault and ".." not in text and text[:1] not in "./":  # most of them
        return Member(text, size, fault)
    text = text.removeprefix("./")
    if not fault and _CONTROLS.search(text):
        fault = "a name with control characters"
    elif not fault and (text.startswith("/") or ".." in text.split("/")):
        fault = "a name that leads out of the archive"
    elif not fault and len(name) > _MAX_NAME:
        fault = "a name that is too long"
    return Member(name=printable(text) if fault else text, size=size, fault=fault)


@functools.lru_cache(1 << 13)  # archives repeat them
def _number(digits: bytes) -> int:
    """Octal, or from the first bit on binary (GNU's, of 8 GB and more); -1 for neither."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    digits = digits.partition(b"\0")[0]
    try:
        return int(digits, 8) if digits.strip() else 0
    except ValueError:
        return -1


@functools.lru_cache(1 << 13)
def _sum_told(checksum: bytes) -> int:
    return _number(checksum) - 256 + sum(checksum)


def _parts(header: bytes) -> tuple[bytes, int, bytes] | None:
    """Name, size and kind of a member; None for what is no header."""
    name, digits, checksum, kind, magic, folder = _HEADER.unpack(header)
    # The sum of all bytes, with blanks where it stands itself; some old programs take signed ones.
    told = _sum_told(checksum)
    # Half of Adler's checksum is that sum, modulo 65521, and twenty times as fast.
    if (zlib.adler32(header) % 65536 - 1 - told) % 65521:
        rest = header[:148] + header[156:]
        if told - sum(header) + 256 * sum(byte > 127 for byte in rest):
            return None
    size, name = _number(digits), name.rstrip(b"\0")
    if magic == b"ustar\0" and folder[0]:
        name = folder.rstrip(b"\0") + b"/" + name
    return (name, size, kind) if size >= 0 else None


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records "LENGTH KEY=VALUE\\n"; those behind a damaged one are left."""
    records = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) < int(length[:9]) <= len(data):
            break
        key, _, value = data[len(length) + 1 : int(length[:9]) - 1].partition(b"=")
        records[key] = value
        data = data[int(length[:9]) :]
    return records
