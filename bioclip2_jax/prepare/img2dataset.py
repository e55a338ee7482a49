"""Tars of img2dataset, such as LAION's: pictures of the web with a caption each, for replay."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bioclip2_jax.data.records import Record
from bioclip2_jax.prepare import recognise
from bioclip2_jax.prepare.columns import describe
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.prepare.tars import Sample, pictures, tar_files
from bioclip2_jax.text.taxonomy import clean

_TEXTS = frozenset(("txt",))


@dataclass(frozen=True, kw_only=True)
class Img2dataset:
    """Tars as img2dataset writes them with `--output_format webdataset`.

    Attributes:
      paths: tars, folders of them, or patterns with "{00000..00010}".
    """

    paths: tuple[str, ...]

    def parts(self, folder: Path) -> Sequence[Part]:
        """One part a tar; the tables and statistics beside them are passed over."""
        recognise.refuse_others(self.paths, "img2dataset")
        return [Part(file=file) for file in tar_files(self.paths)]

    def read(self, part: Part) -> Iterator[Picture | Rejected]:
        """Streams a tar. Downloads that failed have no picture and are passed over."""
        return pictures(part, self.paths, _TEXTS, _record)


def _record(sample: Sample, texts: dict[str, str], values: dict[str, str]) -> Record:
    told = describe(values)
    fields = told.fields | {
        "source": values.get("url", "") or told.fields["source"],
        "dataset_name": told.fields["dataset_name"] or "img2dataset",
    }
    # A caption of nothing but "null" is none; what the picture's file was like is no label.
    captions = (texts.get("txt", ""), values.get("caption", ""))
    caption = next(filter(clean, captions), "")
    labels = {"caption": caption} if caption else {}
    return replace(told, fields=fields, labels=labels).record(sample.key, sample.image)
