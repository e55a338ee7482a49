"""What every source of pictures looks like to the engine that makes datasets of them.

A source lists its parts, each read by one task; a part gives its pictures one by one, always the
same ones in the same order. What is wrong with a picture never ends a part: it is set aside.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bioclip2_jax.data.records import Record

# In the folder of the parts: a line for whoever called, and in joined/ how many keys tables know.
REMARK_FILE, COUNTS_FILE = "remark.txt", "joined.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one task reads.

    Attributes:
      file: that is read.
      rows: the first and the row behind the last of it; None for all.
      joined: a file that `Source.parts` wrote with more about these pictures; "" for none.
    """

    file: str
    rows: tuple[int, int] | None = None
    joined: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as its source has it, unchecked.

    Attributes:
      file: where it lies, for messages: a path, or "shard.tar/member.jpg".
      split: of the dataset; "" leaves it to a hash of the key.
      record: from `make_record`. Keys that come again get "#2", "#3", … A source's own captions
        are the labels "caption_KIND" for the kinds of `TEXT_KINDS`; "caption" is one for all.
    """

    file: str
    split: str
    record: Record


@dataclass(frozen=True)
class Rejected:
    """A picture that was set aside.

    Attributes:
      reason: what is counted, and more in brackets behind it: "cannot be read (Permission denied)".
    """

    key: str
    file: str
    split: str
    reason: str


class Source(Protocol):
    """Where pictures come from; can be sent to other processes."""

    def parts(self, folder: Path) -> Sequence[Part]:
        """Lists what is to be read, in an order that never changes; called once a conversion.

        Args:
          folder: an empty one that stays until the end, for files of the parts' own.

        Raises:
          UsageError: what was named is not there, or is not of this kind.
          UserError: it cannot be used.
        """
        ...

    def read(self, part: Part) -> Iterator[Picture | Rejected]:
        """Gives every picture of a part once.

        Raises:
          UserError: nothing of it can be read.
        """
        ...
