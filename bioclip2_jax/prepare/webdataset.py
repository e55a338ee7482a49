"""TreeOfLife's tars: a picture with up to ten texts, all made of three names.

S is the scientific name, C the common one and T the lineage. Their captions are kept to the letter
as the picture's own; its names are from the first of these that says any: a catalogue's row, a
JSON beside the picture, the text that names its ranks, T.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bioclip2_jax.data.records import Record, make_record
from bioclip2_jax.files import place
from bioclip2_jax.prepare import recognise
from bioclip2_jax.prepare.columns import describe
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.prepare.tars import Sample, keys, pictures, tar_files
from bioclip2_jax.text import joined
from bioclip2_jax.text.captions import TEXT_KINDS
from bioclip2_jax.text.taxonomy import Taxon, clean

_CAPTIONS = {f"{kind}.txt": f"caption_{kind}" for kind in TEXT_KINDS}
_S, _C, _T, _G = "scientific_name.txt", "common_name.txt", "taxonomic_name.txt", "taxontag.txt"
_TEXTS = frozenset((*_CAPTIONS, _S, _C, _T, _G))
_NOTHING, _UNKNOWN = describe({}), Taxon()
_MAX_NAME = 1000  # letters; captions may be longer


@dataclass(frozen=True, kw_only=True)
class Webdataset:
    """Tars of TreeOfLife and whatever else has its texts.

    Attributes:
      paths: tars, folders of them, or patterns with "{00000..00010}".
      tables: a catalogue and the like, by keys; see `joins.join`.
    """

    paths: tuple[str, ...]
    tables: tuple[str, ...] = ()

    def parts(self, folder: Path) -> Sequence[Part]:
        """One part a tar."""
        recognise.refuse_others(self.paths, "webdataset")
        parts = [Part(file=file) for file in tar_files(self.paths)]
        if not self.tables:
            return parts
        from bioclip2_jax.prepare import joins  # and with it DuckDB, which takes a while

        found = ((number, list(keys(part.file))) for number, part in enumerate(parts))
        return joins.join(parts, found, tables=[*map(place, self.tables)], folder=folder / "joined")

    def read(self, part: Part) -> Iterator[Picture | Rejected]:
        """Streams a tar; what the tables say of its 10,000 pictures is held at once."""
        rows: dict[str, dict[str, str]] = {}
        if part.joined:
            from bioclip2_jax.prepare import joins

            rows = joins.load(part.joined)

        def record(sample: Sample, texts: dict[str, str], values: dict[str, str]) -> Record:
            return _record(sample, texts, rows.get(sample.key, {}), values)

        return pictures(part, self.paths, _TEXTS, record)


def _record(
    sample: Sample, texts: dict[str, str], row: dict[str, str], values: dict[str, str]
) -> Record:
    told = describe(row, values) if row or values else _NOTHING

    def text(name: str, caption: str) -> str:
        return clean((texts.get(name) or _name_in(texts.get(caption, "")))[:_MAX_NAME])

    scientific_name, common_name = text(_S, "sci.txt"), text(_C, "com.txt")
    lineage, taxon, fields = text(_T, "taxon.txt"), told.taxon, dict(told.fields)
    if taxon == _UNKNOWN:
        tag = _name_in(texts.get(_G, ""))[:_MAX_NAME]
        taxon = joined.tagged(tag, scientific_name) or _placed(lineage, scientific_name)
        fields["scientific_name"] = fields["scientific_name"] or scientific_name
    # Where there is no common name the scientific one stands for it, or the lineage.
    stand_ins = (scientific_name, taxon.scientific_name, lineage)
    if common_name.casefold() not in (name.casefold() for name in stand_ins):
        fields["vernacular_name"] = fields["vernacular_name"] or common_name
    own = {label: texts[name] for name, label in _CAPTIONS.items() if texts.get(name)}
    labels = told.labels | own
    return make_record(key=sample.key, image=sample.image, taxon=taxon, labels=labels, **fields)


@functools.lru_cache(4096)
def _placed(lineage: str, scientific_name: str) -> Taxon:
    if lineage:
        return joined.placed(lineage, scientific_name)
    return Taxon.from_row({"scientificName": scientific_name})


def _name_in(caption: str) -> str:
    """The name of "a photo of NAME."."""
    return caption.removeprefix("a photo of ").removesuffix(".")
