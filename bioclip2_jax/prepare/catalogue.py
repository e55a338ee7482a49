"""What the records of a dataset have in common: keys, taxa, licences, lengths of captions."""

import collections
from pathlib import Path

from bioclip2_jax import files
from bioclip2_jax.data.dataset import CAPTIONS_FILE, TAXA_FILE
from bioclip2_jax.data.records import Record, caption_of, taxon_of
from bioclip2_jax.errors import UserError
from bioclip2_jax.prepare.shuffle import digest
from bioclip2_jax.text.captions import TEXT_KINDS
from bioclip2_jax.text.taxonomy import RANKS, Taxon
from bioclip2_jax.text.tokenizer import tokenize

_NAME_COLUMNS = ("scientificName", "vernacularName")
_MAX_LICENCES = 12
_CAPTIONS_AT_A_TIME = 1 << 16


class Catalogue:
    """Takes every record once, then tells about all of them.

    Memory is that of the taxa, and 8 bytes and their place in a set for each key.
    """

    def __init__(self):
        self._captions: set[tuple[str, str]] = set()  # kind and text, not yet counted
        self._longest: dict[str, int] = dict.fromkeys(TEXT_KINDS, 0)
        self._last_names: tuple = ()
        self._keys: set[int] = set()
        self._licences: set[str] = set()
        self._counts = collections.defaultdict(collections.Counter)
        self._names = collections.defaultdict(collections.Counter)

    def add(self, split: str, record: Record) -> None:
        """Takes a record in.

        Raises:
          UserError: an earlier one has its key.
        """
        key = int.from_bytes(digest(record["key"])[:8], "big")
        if key in self._keys:
            raise UserError(f"the key {record['key']!r} stands for two pictures; make keys unique")
        self._keys.add(key)
        if len(self._licences) <= _MAX_LICENCES:
            self._licences.add(record["licence"])
        taxon = taxon_of(record)
        names = (taxon, *(record[column] for column in _NAME_COLUMNS))
        if names != self._last_names or record["labels"].get("caption"):
            self._last_names = names
            self._captions |= {(kind, caption_of(record, kind)) for kind in TEXT_KINDS}
            if len(self._captions) > _CAPTIONS_AT_A_TIME:
                self._count_tokens()
        self._counts[taxon][split] += 1
        for column in _NAME_COLUMNS:
            self._names[taxon, column][record[column]] += bool(record[column])

    def licence(self) -> str:
        """For the metadata, one a line if they are few; each record carries its own."""
        known = sorted(self._licences - {""})
        if not known or len(self._licences) > _MAX_LICENCES:
            return "Each record names its own in the field licence."
        return "\n".join(known)

    def write(self, folder: Path, splits: list[str]) -> None:
        """Writes the list of taxa, sorted, each with its commonest names, and caption lengths."""
        columns = (*RANKS, *_NAME_COLUMNS, *splits)
        rows = (
            (
                *taxon.ranks,
                *(self._commonest(taxon, column) for column in _NAME_COLUMNS),
                *(counts[split] for split in splits),
            )
            for taxon, counts in sorted(self._counts.items())
        )
        taxa = (dict(zip(columns, row, strict=True)) for row in rows)
        files.write_csv(folder / TAXA_FILE, taxa, columns)
        self._count_tokens()
        files.write_json(folder / CAPTIONS_FILE, {"longest_tokens": self._longest}, indent=None)

    def _commonest(self, taxon: Taxon, column: str) -> str:
        names = self._names[taxon, column]
        return max(names, key=lambda name: (names[name], name))

    def _count_tokens(self) -> None:
        texts = list({text for _, text in self._captions})
        lengths = dict(zip(texts, tokenize(texts).argmax(axis=1) + 1, strict=True)) if texts else {}
        for kind, text in self._captions:
            self._longest[kind] = max(self._longest[kind], int(lengths[text]))
        self._captions.clear()
