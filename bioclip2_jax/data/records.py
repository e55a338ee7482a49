"""What one record of a dataset holds, on disk and in memory.

In memory a record is a dict: `image` (bytes, encoded as they came), the text fields of
`TEXT_FIELDS`, and `labels` (name → text; every further column, such as sex, lifeStage, habitat or
a measured trait). Empty text means unknown. The label `caption` is the caption of a record that is
not named by its taxonomy; the labels `caption_sci`, … are captions of the source that differ from
those that its taxonomy gives.
"""

from collections.abc import Mapping
from typing import Any

from bioclip2_jax.text import captions
from bioclip2_jax.text.taxonomy import RANKS, Taxon

TEXT_FIELDS = (
    "key",
    *RANKS,
    "scientificName",
    "vernacularName",
    "source",
    "licence",
    "datasetName",
)

Record = dict[str, Any]


def make_record(
    *,
    key: str,
    image: bytes,
    taxon: Taxon,
    scientific_name: str = "",
    vernacular_name: str = "",
    source: str = "",
    licence: str = "",
    dataset_name: str = "",
    labels: Mapping[str, str] | None = None,
) -> Record:
    """Assembles a record; a missing scientific name is taken from the lineage."""
    texts = (
        key,
        *taxon.ranks,
        scientific_name or taxon.scientific_name,
        vernacular_name,
        source,
        licence,
        dataset_name,
    )
    fields = dict(zip(TEXT_FIELDS, texts, strict=True))
    return fields | {"image": image, "labels": dict(labels or {})}


def taxon_of(record: Mapping[str, Any]) -> Taxon:
    """The lineage of a record."""
    return Taxon(*(record[rank] for rank in RANKS))


def caption_of(record: Mapping[str, Any], kind: str, given: bool = True) -> str:
    """The training caption of a record: its one caption (replay), else its taxonomy's.

    Args:
      record: from a dataset.
      kind: one of `captions.TEXT_KINDS`.
      given: take the source's own text of this kind where it has one that differs from ours.
    """
    labels = record["labels"]
    own = labels.get("caption") or (given and labels.get(f"caption_{kind}"))
    if own:
        return own
    taxon = taxon_of(record)
    return captions.caption(kind, taxon, record["scientificName"], record["vernacularName"])


def level_caption_of(record: Mapping[str, Any], rank: str) -> str:
    """The same at a level: its one caption, else its taxonomy's down to `rank`."""
    own = record["labels"].get("caption")
    return own or captions.level_caption(rank, taxon_of(record), record["scientificName"])
