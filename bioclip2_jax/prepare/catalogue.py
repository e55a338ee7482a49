"""What the records of a dataset have in common: taxa, licences, lengths of captions."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from bioclip2_jax import files
from bioclip2_jax.data.dataset import CAPTIONS_FILE, TAXA_FILE
from bioclip2_jax.data.records import Record
from bioclip2_jax.text import captions
from bioclip2_jax.text.captions import TEXT_KINDS
from bioclip2_jax.text.taxonomy import RANKS, Taxon
from bioclip2_jax.text.tokenizer import tokenize

_NAME_COLUMNS = ("scientificName", "vernacularName")
_COUNTED = ("licence", "source", "datasetName")
_MOST = 1000  # licences, sources and datasets are counted singly, the first ones of a shard
OTHERS = "others"
# Labels that are captions → the kinds that they stand for.
_OWN = {f"caption_{kind}": (kind,) for kind in TEXT_KINDS} | {"caption": TEXT_KINDS}


# Seven ranks, number of records, scientific names and common names → records each.
_Row = tuple[tuple[str, ...], int, dict[str, int], dict[str, int]]


@dataclass(kw_only=True)
class Totals:
    """Of a shard; as a file one line of JSON for what is not of a taxon, then a line a taxon.

    Attributes:
      longest: text kind → tokens of its longest caption.
      counts: field → its value → records.
      taxa: sorted; from a file they can be read once.
    """

    longest: dict[str, int]
    counts: dict[str, dict[str, int]]
    taxa: Iterable[_Row]

    def write(self, path: Path) -> None:
        """Writes the file."""
        lines = [{"longest": self.longest, "counts": self.counts}, *self.taxa]
        files.write_bytes(path, b"\n".join(map(msgspec.json.encode, lines)))

    @classmethod
    def read(cls, path: Path) -> "Totals":
        """Reads the file, its taxa as they are asked for."""
        lines = path.open("rb")
        row = msgspec.json.Decoder(_Row)
        return cls(**msgspec.json.decode(next(lines)), taxa=map(row.decode, lines))


class Catalogue:
    """Takes every record of a shard once, then tells about all of them."""

    def __init__(self):
        self._names = Counter[tuple[str, ...]]()  # ranks, scientific and common name
        self._longest: dict[str, int] = dict.fromkeys(TEXT_KINDS, 0)
        self._counts = {field: Counter[str]() for field in _COUNTED}

    def add(self, record: Record) -> None:
        """Takes a record in."""
        self._names[tuple([record[column] for column in (*RANKS, *_NAME_COLUMNS)])] += 1
        for label, text in record["labels"].items():
            if label in _OWN:
                length = _lengths([text])[0]
                for kind in _OWN[label]:
                    self._longest[kind] = max(self._longest[kind], length)
        for field, counts in self._counts.items():
            value = _host(record[field]) if field == "source" else record[field]
            counts[value if value in counts or len(counts) < _MOST else OTHERS] += 1

    def totals(self) -> Totals:
        """Of all records so far."""
        records, names = Counter[Taxon](), defaultdict[tuple[Taxon, int], Counter[str]](Counter)
        for (*ranks, scientific, common), count in self._names.items():
            taxon = Taxon(*ranks)
            records[taxon] += count
            for column, name in enumerate((scientific, common)):
                names[taxon, column][name] += count if name else 0
        taxa = [
            (taxon.ranks, count, dict(names[taxon, 0]), dict(names[taxon, 1]))
            for taxon, count in sorted(records.items())
        ]
        counts = {field: dict(sorted(counts.items())) for field, counts in self._counts.items()}
        return Totals(longest=self._longest_captions(), counts=counts, taxa=taxa)

    def _longest_captions(self) -> dict[str, int]:
        longest = dict(self._longest)
        texts = [
            captions.all_captions(Taxon(*ranks), scientific, common)
            for *ranks, scientific, common in self._names
        ]
        for kind in TEXT_KINDS:
            own = list({each[kind] for each in texts})
            longest[kind] = max(longest[kind], *_lengths(own))
        return longest


def _lengths(texts: Sequence[str]) -> list[int]:
    """Tokens of each text, both ends counted."""
    return (tokenize(texts).argmax(axis=1) + 1).tolist()


def _host(source: str) -> str:
    """Of an address the host; anything else as it is."""
    try:
        return urlsplit(source).netloc or source
    except ValueError:
        return source


class Whole:
    """The totals of all shards together. Memory is that of the taxa.

    Attributes:
      records: split → how many.
      taxa: taxon → records in all splits.
      counts: field → its value → records.
    """

    def __init__(self, shards: Iterable[tuple[str, Totals]]):
        """`shards`: the split and the totals of each."""
        self.records, self.taxa = Counter[str](), Counter[Taxon]()
        self.counts = {field: Counter[str]() for field in _COUNTED}
        self._in_split = defaultdict[Taxon, Counter[str]](Counter)
        self._names = defaultdict[tuple[Taxon, str], Counter[str]](Counter)
        self._longest: dict[str, int] = dict.fromkeys(TEXT_KINDS, 0)
        for split, totals in shards:
            for ranks, count, *names in totals.taxa:
                taxon = Taxon(*map(sys.intern, ranks))
                self.records[split] += count
                self.taxa[taxon] += count
                self._in_split[taxon][split] += count
                for column, counts in zip(_NAME_COLUMNS, names, strict=True):
                    self._names[taxon, column].update(counts)
            for kind, length in totals.longest.items():
                self._longest[kind] = max(self._longest[kind], length)
            for field, counts in totals.counts.items():
                self.counts[field].update(counts)

    def licence(self) -> str:
        """For the metadata, one a line if they are few; each record carries its own."""
        known = sorted(set(self.counts["licence"]) - {""})
        if not known or len(known) > 12:
            return "Each record names its own in the field licence."
        return "\n".join(known)

    def by_rank(self) -> dict[str, int]:
        """The deepest known rank → records; "" where nothing is known."""
        counts = Counter[str]()
        for taxon, count in self.taxa.items():
            counts[taxon.deepest_rank or ""] += count
        return {rank: counts[rank] for rank in (*RANKS, "") if counts[rank]}

    def write(self, folder: Path, splits: Sequence[str]) -> None:
        """Writes the list of taxa, sorted, each with its commonest names, and caption lengths."""
        columns = (*RANKS, *_NAME_COLUMNS, *splits)
        rows = (
            (
                *taxon.ranks,
                *(self._commonest(taxon, column) for column in _NAME_COLUMNS),
                *(self._in_split[taxon][split] for split in splits),
            )
            for taxon in sorted(self.taxa)
        )
        taxa = (dict(zip(columns, row, strict=True)) for row in rows)
        files.write_csv(folder / TAXA_FILE, taxa, columns)
        files.write_json(folder / CAPTIONS_FILE, {"longest_tokens": self._longest}, indent=None)

    def _commonest(self, taxon: Taxon, column: str) -> str:
        names = self._names[taxon, column]
        return max(names, key=lambda name: (names[name], name))
