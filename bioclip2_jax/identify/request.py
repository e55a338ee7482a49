"""What somebody asks of `predict`, and which of it does not fit."""

from dataclasses import dataclass
from typing import Literal

from bioclip2_jax.errors import UsageError
from bioclip2_jax.identify import formats, name_lists
from bioclip2_jax.identify.name_lists import LabelSet

PRIOR_STRENGTH = 0.25
NUM_ANSWERS = 5


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks for; see the options of `bioclip2 predict`."""

    pictures: tuple[str, ...]
    list_file: str | None
    split: str | None
    model: str
    precision: str = "float32"
    labels: str | None
    taxa: str | None
    names: str | None = None
    head: str | None = None
    within: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    rank: str | None
    decode: str
    prior: str | None
    prior_strength: float | None
    k: int | None
    batch_size: int
    truncated: Literal["refuse", "use"]
    output: str
    format: str
    columns: str
    bom: bool
    log: str | None
    boxes: str | None
    box_threshold: float
    box_padding: float
    box_square: bool
    coordinates: bool = False
    obscure: str | None = None
    deployments: str | None = None
    media: str | None = None
    package: str | None = None
    timezone: str | None = None
    occurrences: str | None = None
    place: str | None = None
    place_strength: float | None = None
    sure: float | None = None
    calibration: str | None = None

    @property
    def num_answers(self) -> int:
        """Of a picture, at most."""
        return NUM_ANSWERS if self.k is None else self.k

    @property
    def strength(self) -> float:
        """Of the prior."""
        return PRIOR_STRENGTH if self.prior_strength is None else self.prior_strength

    @property
    def is_package(self) -> bool:
        """Whether the output is a Camtrap DP package."""
        return self.format == formats.CAMTRAP

    @property
    def goes_back(self) -> bool:
        """Whether the output is the detector's file with names at its boxes."""
        is_json = self.output.lower().endswith(".json")
        return bool(self.boxes) and is_json and self.format == "csv"

    @property
    def has_places(self) -> bool:
        """Whether rows have the coordinates of pictures."""
        return self.coordinates and self.columns == "dwc"

    def refuse(self) -> None:
        """Refuses options that do not fit, as far as they tell it themselves.

        Raises:
          UsageError: says which.
        """
        if self.format in ("parquet", formats.CAMTRAP) and self.output == "-":
            what = "FOLDER" if self.is_package else "FILE; it is no text"
            raise UsageError(f"--format {self.format} needs --output {what}")
        if self.bom and self.format != "csv":
            raise UsageError("--bom is for --format csv; other formats need no mark")
        if self.is_package and self.columns != "pybioclip":
            raise UsageError("--columns is for other formats; Camtrap DP has columns of its own")
        for name in ("deployments", "media", "package", "timezone"):
            if getattr(self, name) and not self.is_package:
                raise UsageError(f"--{name} goes with --format {formats.CAMTRAP}")
        if self.coordinates and not self.has_places and not self.goes_back:
            raise UsageError(
                "--coordinates goes with --columns dwc, or with an --output FILE.json of --boxes;"
                " Camtrap DP has those of --deployments"
            )
        if self.obscure and not (self.coordinates or self.is_package or self.occurrences):
            raise UsageError(
                f"--obscure goes with --coordinates or --format {formats.CAMTRAP}; no other output"
                " has any"
            )
        for name in ("place", "place_strength"):
            if getattr(self, name) is not None and not self.occurrences:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} goes with --occurrences TABLE: what was recorded where")
        if self.sure is not None or self.calibration:
            self._refuse_unsure()
        if self.head:
            self._refuse_beside_head()
        if self.obscure and self.labels:
            raise UsageError("--obscure needs the lineages of --taxa; free --labels have none")

    def _refuse_unsure(self) -> None:
        """What no calibration says anything about."""
        if not self.calibration:
            raise UsageError(
                f"--sure {self.sure:g} needs --calibration FILE: scores are not probabilities, and"
                " only pictures whose names are known tell which of them to believe; `bioclip2"
                " calibrate` makes the file from such"
            )
        if self.sure is None:
            raise UsageError("--calibration goes with --sure P, the share of answers to be right")
        if self.head:
            raise UsageError(
                "--sure does not go with --head, which answers `unknown` below a threshold of its"
                " own (`fit --false-unknown`)"
            )
        if self.labels:
            raise UsageError("--sure needs the lineages of --taxa; free --labels have none")
        if self.decode != "flat":
            raise UsageError("--sure goes down the tree in its own way, without --decode")
        if self.occurrences:
            raise UsageError(
                "--sure does not go with --occurrences: a calibration is of scores without places"
            )
        if self.k is not None:
            raise UsageError("--sure gives one answer a picture; leave --k out")

    def _refuse_beside_head(self) -> None:
        """What needs names, which a head has not."""
        others = ("labels", "taxa", "names", "within", "without", "rank", "prior", "occurrences")
        beside = [name for name in others if getattr(self, name)]
        beside += ["decode"] if self.decode != "flat" else []
        beside += ["prior-strength"] if self.prior_strength is not None else []
        beside += ["obscure"] if self.obscure else []
        if beside:
            raise UsageError(f"--{beside[0]} does not go with --head, which has classes of its own")
        if self.columns == "dwc" or self.is_package:
            option = f"--format {formats.CAMTRAP}" if self.is_package else "--columns dwc"
            raise UsageError(
                f"{option} needs the lineages of --taxa; the classes of --head have none"
            )


def label_list(request: Request) -> LabelSet:
    """The names to choose from, where no head is asked for.

    Raises:
      UsageError: options that do not fit.
      UserError: a list cannot be read.
    """
    if request.labels is None and (request.taxa or request.names):
        labels = name_lists.choose(
            taxa=request.taxa,
            names=request.names,
            rank=request.rank or "species",
            within=request.within,
            without=request.without,
        )
    elif request.labels is None or request.taxa or request.names:
        raise UsageError("give either --labels FILE or --taxa CSV, or --names DIR")
    elif request.within or request.without:
        option = "--within" if request.within else "--without"
        raise UsageError(f"{option} needs the lineages of --taxa; free --labels have none")
    elif request.rank:
        raise UsageError("--rank needs the lineages of --taxa; free --labels have no ranks")
    elif request.prior or request.occurrences or request.decode != "flat":
        option = "--prior" if request.prior else "--decode"
        option = "--occurrences" if request.occurrences else option
        raise UsageError(f"{option} needs the lineages of --taxa; free --labels have none")
    elif request.columns == "dwc":
        raise UsageError("--columns dwc needs the lineages of --taxa; free --labels have none")
    else:
        labels = name_lists.read_labels(request.labels)
    if request.prior_strength is not None and not request.prior:
        raise UsageError("--prior-strength goes with --prior")
    return labels
