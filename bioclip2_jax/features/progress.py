"""What of a source a feature store holds already, told by its parts alone."""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bioclip2_jax.errors import UsageError
from bioclip2_jax.features import parts
from bioclip2_jax.features.sources import Source, Unit


@dataclass
class Progress:
    """What is there.

    Attributes:
      keys: of the pictures of a folder → bytes of the file.
      stretches: name of any other unit → its stretches.
      bad: key → reason, of the parts of this task.
      num_rows, num_parts: how many belong to this task, of whichever numbers of tasks there were.
    """

    keys: dict[str, int | None] = field(default_factory=dict)
    stretches: dict[str, list[parts.Stretch]] = field(default_factory=lambda: defaultdict(list))
    bad: dict[str, str] = field(default_factory=dict)
    num_rows: int = 0
    num_parts: int = 0

    def add(self, part: parts.About, keys: list[str], sizes: list[int | None]) -> None:
        """Counts a part of this task."""
        self.note(part, keys, sizes)
        self.num_rows += part.num_rows
        self.num_parts += 1
        self.bad |= dict(part.bad)

    def note(self, part: parts.About, keys: list[str], sizes: list[int | None]) -> None:
        """Leaves out what a part of any task holds."""
        for stretch in part.stretches:
            self.stretches[stretch.unit].append(stretch)
        if not part.stretches:
            self.keys |= zip(keys, sizes, strict=True)

    def holds(self, unit: Unit, position: int) -> bool:
        """Whether this picture of a unit, bad or not, is there."""
        return any(s.first <= position < s.stop for s in self.stretches.get(unit.name, ()))

    def holds_all(self, unit: Unit) -> bool:
        """Whether all pictures of a unit are there."""
        if unit.name in self.keys:
            return True
        covered, ended = 0, False
        for stretch in sorted(self.stretches.get(unit.name, ()), key=lambda s: s.first):
            if stretch.first <= covered:
                covered, ended = max(covered, stretch.stop), ended or stretch.ended
        return ended

    def check_unchanged(self, source: Source, out: Path) -> None:
        """Refuses a source of which something is another than when it was embedded.

        Raises:
          UsageError: names the first of them.
        """
        changed = []
        for unit in source.units:
            sizes = {stretch.size for stretch in self.stretches.get(unit.name, ())}
            sizes |= {self.keys[unit.name]} if unit.name in self.keys else set()
            if sizes - {unit.size, None}:
                changed.append(unit.name)
        if changed:
            raise UsageError(
                f"{changed[0]}: another one now than when {out} was made"
                f" ({len(changed):,} changed in size); name another --out, or delete that folder"
            )


def is_share_of(unit: Unit, task: tuple[int, int]) -> bool:
    """Whether a unit is a task's: told by its name, so that it stays so when others are added."""
    digest = hashlib.blake2b(unit.name.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) % task[1] == task[0]


def survey(out: Path, about: parts.About, source: Source, say: Callable[[str], None]) -> Progress:
    """Looks at all parts. Those of this task are read whole; damaged ones are deleted.

    Raises:
      UsageError: one holds features of another kind, or something has changed in the source.
    """
    progress = Progress()
    for path, task, _ in parts.parts_of(out):
        # Task 0 looks after what was made with another number of tasks.
        own = task == about.task or (about.task[0] == 0 and task[1] != about.task[1])
        found = parts.read_keys(path, whole=own)
        if found is None:
            say(f"{path}: damaged; what it held is embedded again")
            path.unlink(missing_ok=True)
            continue
        check_same(path, found[0], about)
        if own:
            progress.add(*found)
        else:
            progress.note(*found)
    progress.check_unchanged(source, out)
    return progress


def check_same(place: Path, before: parts.About, about: parts.About) -> None:
    """Refuses features that do not go together.

    Raises:
      UsageError: says in what they differ.
    """
    old, new = _kind(before), _kind(about)
    for name, value in new.items():
        if old[name] != value:
            raise UsageError(
                f"{place} holds features of another kind ({name} was {old[name]!r}, is now"
                f" {value!r}); name another --out, or delete that folder"
            )


def _kind(about: parts.About) -> dict[str, Any]:
    """What features must share to lie in one store; a model is known by its checksum alone."""
    names = ("preprocess", "dim", "dtype", "precision", "pictures", "labels", "columns")
    return {"model": about.model.sha256} | {name: getattr(about, name) for name in names}
