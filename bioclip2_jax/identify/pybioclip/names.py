"""What pybioclip calls ranks, models and columns."""

import enum

from bioclip2_jax.text.taxonomy import RANKS

BIOCLIP_V1_MODEL_STR = "hf-hub:imageomics/bioclip"
BIOCLIP_V2_MODEL_STR = "hf-hub:imageomics/bioclip-2"
BIOCLIP_MODEL_STR = BIOCLIP_V2_MODEL_STR
# Model → the dataset on the Hub with its label files.
LABELS_OF = {
    BIOCLIP_V1_MODEL_STR: "imageomics/TreeOfLife-10M",
    BIOCLIP_V2_MODEL_STR: "imageomics/TreeOfLife-200M",
}
FILE_NAME, CLASSIFICATION, SCORE = "file_name", "classification", "score"

Name = tuple[list[str], str]  # [kingdom ... epithet], common name: a row of the label files


class Rank(enum.Enum):
    """A rank of the tree of life, 0 (kingdom) to 6 (species)."""

    KINGDOM = 0
    PHYLUM = 1
    CLASS = 2
    ORDER = 3
    FAMILY = 4
    GENUS = 5
    SPECIES = 6

    def get_label(self) -> str:
        """The name in lower case, which is that of its column."""
        return self.name.lower()


def cells(name: Name, rank: Rank) -> dict[str, str]:
    """Column → cell of a taxon, down to a rank; of species with epithet and common name."""
    ranks, common = name
    row: dict[str, str] = dict(zip(RANKS[: rank.value + 1], ranks, strict=False))
    if rank is Rank.SPECIES:
        del row["species"]
        row["species_epithet"] = ranks[-1]
        row["species"] = f"{ranks[-2]} {ranks[-1]}"
        row["common_name"] = common
    return row
