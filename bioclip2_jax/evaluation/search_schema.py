"""The result of a search as a dataclass; see `schema`, which reads and writes it."""

from dataclasses import dataclass, field

from bioclip2_jax.evaluation import schema
from bioclip2_jax.measures.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Figures of `measures.ranking`, averaged over what was asked with.

    Attributes:
      num_queries: asked: texts, or pictures, to which something is relevant.
      figures, intervals: name → mean, and 95 % bootstrap interval over the queries.
    """

    num_queries: int
    figures: dict[str, float]
    intervals: dict[str, Interval]


@dataclass(frozen=True, kw_only=True)
class SearchedAgainstChance(Searched):
    """Also what rankings by lot would have, in the mean."""

    chance: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RetrievalResult(schema.Result):
    """`retrieval.json`.

    Attributes:
      text_to_image, image_to_text: the two directions.
      by_group: column of the table → its value → the queries of that value, text to image.
      num_images, num_texts, num_pairs: pictures to find, distinct texts, and pairs that are
        relevant.
      mean_candidates: pictures ranked for a query, in the mean.
      num_without: texts without any relevant picture, which are left out of all means.
      num_doubled: rows of the table that repeat another.
      num_bad, bad: pictures that could not be read.
      queries_sha256: tells apart what was asked, and among what.
    """

    text_to_image: SearchedAgainstChance
    image_to_text: SearchedAgainstChance
    by_group: dict[str, dict[str, Searched]] = field(default_factory=dict)
    num_images: int
    num_texts: int
    num_pairs: int
    mean_candidates: float
    num_without: int = 0
    num_doubled: int = 0
    num_bad: int = 0
    bad: list[schema.BadPicture] = field(default_factory=list)
    queries_sha256: str
