"""Features of many pictures, kept: one pass over the images, then every task reads the features.

A store grows: pictures that it has not are added. Killed and started again, it goes on after the
last part that was written, which is never longer ago than a minute or a batch.
"""

import contextlib
import fcntl
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

import bioclip2_jax
from bioclip2_jax import files
from bioclip2_jax.data import folders
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features import parts
from bioclip2_jax.features.encode import embed_stream
from bioclip2_jax.features.pictures import Pictures
from bioclip2_jax.features.progress import Progress, check_same, is_share_of, survey
from bioclip2_jax.features.sources import Item, Source, Unit, of_pictures
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.load import Model

PART_ROWS = 50_000
FLUSH_SECONDS = 45.0  # a part is written then; the batch that is under way comes on top


def checksum(model: Model) -> str:
    """SHA-256 over the names and float32 values of all parameters, whatever file they came from."""
    digest = hashlib.sha256()
    for name, leaf in sorted(layout.flatten(model.params).items()):
        digest.update(f"{name} {np.shape(leaf)}\n".encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).data)
    return digest.hexdigest()


def embed(
    model: Model,
    model_name: str,
    source: Source | Pictures,
    out: str | Path,
    *,
    dtype: str = "float32",
    columns: parts.Columns = "bioclip2",
    batch_size: int = 128,
    task: tuple[int, int] = parts.ONE,
    part_rows: int = PART_ROWS,
    say: Callable[[str], None] = print,
) -> parts.About:
    """Makes a feature store, goes on with one, or adds what is new to one.

    Args:
      model: from `load`.
      model_name: where it came from.
      source: from `open_source` or `open_pictures`. Of a folder, what could not be read is tried
        again.
      out: folder of the store.
      dtype: of the kept features, "float16" or "float32".
      columns: how they are called, see `parts.NAMES`.
      batch_size: pictures encoded at a time.
      task: (I, N), which of N calls this is, on any machines; each embeds units of its own.
      part_rows: pictures a file, about; fewer where a minute gives fewer.
      say: receives a line a file, one a picture that could not be read, and one about files that
        are no pictures.

    Returns:
      What is said of this task's share of the store.

    Raises:
      UsageError: `out` holds other features, or pictures changed since.
      UserError: not one picture can be read, the features are not finite, or another process is at
        work on the same share.
    """
    out = files.place(out)
    source = of_pictures(source) if isinstance(source, Pictures) else source
    if columns == "explorer" and dtype != "float32":
        raise UsageError(f"--dtype {dtype}: the Embedding Explorer reads float32; leave it out")
    about = parts.About(
        model=parts.Maker(path=model_name, step=model.step, sha256=checksum(model)),
        preprocess=model.preprocess,
        dim=model.config.embed_dim,
        dtype=dtype,
        pictures=source.name,
        labels=source.labels,
        version=bioclip2_jax.__version__,
        columns=columns,
        task=task,
        listing=source.listing,
        precision=model.precision,
    )
    about = msgspec.json.decode(msgspec.json.encode(about), type=parts.About)  # as it comes back
    files.make_folder(out)
    with _alone(out, task):
        if earlier := _earlier(out, about):
            return earlier
        _check_descriptions(out, about)
        progress = survey(out, about, source, say)
        parts.write_about(out, about)
        if source.others:
            say(folders.remark(source.others))
        share = [unit for unit in source.units if is_share_of(unit, task)]
        todo = [unit for unit in share if not progress.holds_all(unit)]
        if len(todo) < len(share):
            say(f"{out}: has {len(share) - len(todo):,} of {len(share):,} {source.noun}")
        writer = _Writer(out, about, progress, source.is_folder, say)
        try:
            for found in _features(model, source, todo, progress, batch_size):
                writer.add(*found)
                if writer.is_due(part_rows):
                    writer.flush()
        finally:  # also of a call that is told to stop
            writer.flush()
        listed = {unit.name for unit in source.units}
        bad = {
            key: why
            for key, why in progress.bad.items()
            if not source.is_folder or (key in listed and key not in progress.keys)
        }
        if bad and not progress.num_rows and task == parts.ONE:
            raise UserError(f"{out}: not one of {len(bad):,} pictures could be read")
        about = replace(
            about,
            complete=True,
            num_parts=progress.num_parts,
            num_rows=progress.num_rows,
            bad=list(bad.items()),
        )
        parts.write_about(out, about)
        return about


@contextlib.contextmanager
def _alone(out: Path, task: tuple[int, int]) -> Iterator[None]:
    """Keeps other calls on this machine from the same share."""
    if files.is_remote(out):
        yield
        return
    path = out / ".embedding-{:05d}-of-{:05d}.lock".format(*task)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{out}: another process embeds into it; wait for it") from error
        for name in (parts.part_path(out, 0, task).name[:-13], parts.about_path(out, task).name):
            for partial in out.glob(f".{name}*"):  # of `files.writing`, in a call that was killed
                partial.unlink()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _earlier(out: Path, about: parts.About) -> parts.About | None:
    """A store that an earlier version made of the same; it is read, but not added to."""
    if not (out / parts.EARLIER).is_file() or (out / parts.ABOUT).is_file():
        return None
    before = parts.read_about(out)
    pictures = dict(before.pictures)
    listing = pictures.pop("listing_sha256", about.listing)
    pictures.pop("count", None)
    check_same(out, replace(before, pictures=pictures), about)
    if not before.complete or listing != about.listing:
        raise UsageError(
            f"{out}: made by an earlier version, whose stores do not grow; name another --out"
        )
    return before


def _check_descriptions(out: Path, about: parts.About) -> None:
    for path in (parts.about_path(out), parts.about_path(out, about.task)):
        if path.is_file():
            check_same(out, parts.read_description(path), about)


def _features(
    model: Model, source: Source, todo: list[Unit], progress: Progress, batch_size: int
) -> Iterator[tuple["_Pulled", np.ndarray | str]]:
    """Every picture to do with its feature [dim], or with what is wrong with it."""
    pulled: deque[_Pulled] = deque()

    def reads() -> Iterator[Callable[[], bytes]]:
        for unit in todo:
            for position, (item, is_last) in enumerate(_with_ends(source.items(unit))):
                if not progress.holds(unit, position):
                    pulled.append(_Pulled(unit, position, item, is_last))
                    yield pulled[-1].load

    for batch in embed_stream(model, reads(), batch_size, normalize=False):
        found = dict(zip(batch.indices, batch.features, strict=True)) | dict(batch.bad)
        for index in sorted(found):
            yield pulled.popleft(), found[index]


def _with_ends(items: Iterator[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last one."""
    held: list[Item] = []
    for item in items:
        yield from ((before, False) for before in held)
        held = [item]
    yield from ((item, True) for item in held)


@dataclass(eq=False)
class _Pulled:
    """A picture on its way; `row` and `size` are there once it is read."""

    unit: Unit
    position: int
    item: Item
    is_last: bool
    row: parts.Row | None = None
    size: int = 0

    def load(self) -> bytes:
        """Reads it."""
        image, self.row = self.item.load()
        self.size = len(image)
        return image


@dataclass(eq=False)
class _Writer:
    """Gathers features into parts."""

    out: Path
    about: parts.About
    progress: Progress
    is_folder: bool
    say: Callable[[str], None]
    _rows: list[parts.Row] = field(default_factory=list)
    _sizes: list[int | None] = field(default_factory=list)
    _features: list[np.ndarray] = field(default_factory=list)
    _bad: dict[str, str] = field(default_factory=dict)
    _stretches: list[parts.Stretch] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def add(self, picture: _Pulled, found: np.ndarray | str) -> None:
        """Takes a feature [dim], or why there is none."""
        if isinstance(found, str) or picture.row is None:
            key = picture.row.key if picture.row else picture.item.key
            self._bad[key] = str(found)
            self.say(f"{key}: {found}")
        else:
            self._rows.append(picture.row)
            self._sizes.append(picture.size)
            self._features.append(found)
        if not self.is_folder:
            self._stretch(picture)

    def _stretch(self, picture: _Pulled) -> None:
        unit, first = picture.unit, picture.position
        last = self._stretches[-1] if self._stretches else None
        if last and last.unit == unit.name and last.stop == first:
            first = self._stretches.pop().first
        stretch = parts.Stretch(*unit, first, picture.position + 1, picture.is_last)
        self._stretches.append(stretch)

    def is_due(self, part_rows: int) -> bool:
        """Whether a part is to be written."""
        return len(self._rows) >= part_rows or time.monotonic() - self._since > FLUSH_SECONDS

    def flush(self) -> None:
        """Writes what is there as a part of its own, if it says anything new."""
        self._since = time.monotonic()
        is_known = self._bad.items() <= self.progress.bad.items()
        if is_known and not (self._rows or self._stretches):
            return
        numbers = [n for _, task, n in parts.parts_of(self.out) if task == self.about.task]
        path = parts.part_path(self.out, max(numbers, default=-1) + 1, self.about.task)
        empty = np.zeros((0, self.about.dim), np.float32)
        part = replace(
            self.about,
            bad=list(self._bad.items()),
            stretches=self._stretches,
            num_rows=len(self._rows),
        )
        features = np.stack(self._features) if self._rows else empty
        parts.write_part(path, self._rows, features, part, self._sizes)
        self.progress.add(part, [row.key for row in self._rows], self._sizes)
        self.say(f"{path}: {len(self._rows):,} pictures, {self.progress.num_rows:,} in all")
        self._rows, self._sizes, self._features = [], [], []
        self._bad, self._stretches = {}, []
