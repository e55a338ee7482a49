"""One call of `predict` from its options to its output: begun, gone on with, and written down."""

import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import IO, Any, Literal

import jax
import numpy as np

import bioclip2_jax
from bioclip2_jax import files
from bioclip2_jax.data.counts import counts_of
from bioclip2_jax.errors import UsageError, reason
from bioclip2_jax.features.embed import checksum
from bioclip2_jax.features.encode import spread
from bioclip2_jax.features.store import Store
from bioclip2_jax.identify import formats, inputs, name_lists, outputs
from bioclip2_jax.identify.boxes import Boxes, Cut, write_back
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.identify.predict import Namer, Prediction, predict, predict_kept
from bioclip2_jax.weights import load as loading

PRIOR_STRENGTH = 0.25


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks for; see the options of `bioclip2 predict`."""

    pictures: tuple[str, ...]
    list_file: str | None
    split: str | None
    model: str
    labels: str | None
    taxa: str | None
    names: str | None = None
    within: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    rank: str | None
    decode: str
    prior: str | None
    prior_strength: float | None
    k: int
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


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
      count: pictures.
      failed: of them, which could not be read.
      others: files beside them that are no pictures.
    """

    count: int
    failed: int
    others: list[str]


Found = inputs.Inputs | Boxes | Store
Watch = Callable[[int, int, Iterable[list[Prediction]]], Iterable[list[Prediction]]]


def run(
    request: Request, *, watch: Watch, say: Callable[[str], None] = lambda note: None
) -> Outcome:
    """Names all pictures of a request.

    Args:
      request: by the options.
      watch: (position, count, batches) → the batches again, as they are shown to whoever waits.
      say: receives what should be known of the list of names.

    Raises:
      UsageError: options that do not fit, or an output that cannot be written or gone on with.
      UserError: tables, pictures' places or the model cannot be read.
    """
    labels = label_list(request)
    for note in labels.notes:
        say(note)
    counts = counts_of(request.prior, labels.taxa) if request.prior else None
    formats.refuse(request.format, request.output, bom=request.bom)
    listed = inputs.read_list(request.list_file) if request.list_file else []
    with ExitStack() as stack:
        if request.boxes:
            found = _boxes(request)
        else:
            found = stack.enter_context(inputs.opened(request.pictures, listed, request.split))
        count = _count(found)
        settings = _settings(request, found, labels, counts)
        grows = formats.grows(request.format) and not _goes_back(request)
        output = stack.enter_context(
            outputs.opened(request.output, settings, count=count, grows=grows)
        )
        log = _Log(request, count, output)
        model = loading.load(request.model)
        needs_sum = request.log or request.columns == "dwc" or isinstance(found, Store)
        needs_sum = needs_sum or isinstance(output, outputs.Resumed)
        sha256 = checksum(model) if needs_sum else ""
        if isinstance(found, Store) and found.about.model.sha256 != sha256:
            raise UsageError(
                f"{request.pictures[0]}: features of another model ({found.about.model.path});"
                " name that one as --model"
            )
        by = f"bioclip2_jax {bioclip2_jax.__version__}, model {sha256[:12]}"
        date, has_boxes = output.calls[0]["start"][:10], isinstance(found, Boxes)
        sheet = formats.Sheet.of(labels, request.columns, by=by, date=date, boxes=has_boxes)
        devices = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
        form = request.format if grows else "jsonl"
        output.begin(
            {"model": sha256, "devices": devices}, formats.head(sheet, form, bom=request.bom)
        )
        log.write(model=sha256, step=model.step, devices=devices)
        position, failed = output.position, output.failed
        batches = _batches(request, found, labels, counts, model, position)
        for batch in watch(position, count, batches):
            position += len(batch)
            failed += sum(bool(picture.error) for picture in batch)
            rows = formats.lines(sheet, batch, form)
            output.add(rows, position=position, failed=failed)
        convert = functools.partial(formats.convert, sheet=sheet, format_=request.format)
        if _goes_back(request) and isinstance(found, Boxes):
            convert = functools.partial(_write_back, boxes=found, sheet=sheet)
        output.finish(None if grows else convert)
        log.write(failed=failed, end=outputs.now(), complete=True)
        others = [] if isinstance(found, Store) else found.others
    return Outcome(count=count, failed=failed, others=others)


def label_list(request: Request) -> LabelSet:
    """The names to choose from.

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
    elif request.prior or request.decode != "flat":
        option = "--prior" if request.prior else "--decode"
        raise UsageError(f"{option} needs the lineages of --taxa; free --labels have none")
    elif request.columns == "dwc":
        raise UsageError("--columns dwc needs the lineages of --taxa; free --labels have none")
    else:
        labels = name_lists.read_labels(request.labels)
    if request.prior_strength is not None and not request.prior:
        raise UsageError("--prior-strength goes with --prior")
    return labels


def _boxes(request: Request) -> Boxes:
    if request.list_file or request.split or len(request.pictures) > 1:
        raise UsageError("--boxes takes one folder, from which the names in its file count")
    cut = Cut(request.box_threshold, request.box_padding, request.box_square)
    found = Boxes(request.boxes or "", *request.pictures or ("",), cut)
    if not found.count:
        raise UsageError(f"--boxes {request.boxes}: no box of {cut.threshold} or more in it")
    return found


def _goes_back(request: Request) -> bool:
    """Whether the output is the detector's file with names at its boxes."""
    is_json = request.output.lower().endswith(".json")
    return bool(request.boxes) and is_json and request.format == "csv"


def _write_back(rows: IO[bytes], target: IO[bytes], *, boxes: Boxes, sheet: formats.Sheet) -> None:
    named = (json.loads(line) for line in rows)
    write_back(boxes.document, named, sheet.columns, target)


def _count(found: Found) -> int:
    return len(found.keys) + len(found.about.bad) if isinstance(found, Store) else found.count


def _settings(
    request: Request, found: Found, labels: LabelSet, counts: np.ndarray | None
) -> dict[str, str]:
    """All that an output depends on, but for the model."""
    if isinstance(found, Store):
        about = json.dumps(asdict(found.about), sort_keys=True, default=str)
        listing = f"features with checksum {_sum(about, *found.keys)}"
    else:
        listing = found.listing()
    names = (*labels.names, *labels.columns, *map("|".join, labels.rows))
    names += (labels.vectors.tells(),) if labels.vectors else ()
    settings = {"pictures": listing, "names": f"{len(labels.rows):,} with checksum {_sum(*names)}"}
    for name in ("decode", "k", "batch_size", "truncated", "format", "columns", "bom"):
        settings[f"--{name.replace('_', '-')}"] = str(getattr(request, name))
    prior = "none"
    if counts is not None:
        prior = f"checksum {_sum(*map(repr, counts.tolist()))}, strength {_strength(request)}"
    return settings | {"--prior": prior, "version": bioclip2_jax.__version__}


def _sum(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:12]


def _strength(request: Request) -> float:
    return PRIOR_STRENGTH if request.prior_strength is None else request.prior_strength


def _batches(
    request: Request,
    found: Found,
    labels: LabelSet,
    counts: np.ndarray | None,
    model: loading.Model,
    start: int,
) -> Iterator[list[Prediction]]:
    if start == _count(found):
        return
    model = spread(model)
    size, strength = request.batch_size, _strength(request)
    namer = Namer(
        model,
        labels,
        k=request.k,
        batch_size=size,
        decode=request.decode,
        counts=counts,
        strength=strength,
    )
    if isinstance(found, Store):
        yield from predict_kept(found, namer, size, start=start)
        return
    use_truncated = request.truncated == "use"
    yield from predict(model, found, namer, size, start=start, use_truncated=use_truncated)


class _Log:
    """The file that tells of a run: written when it begins, and again at its end."""

    def __init__(self, request: Request, count: int, output: outputs.Stream | outputs.Resumed):
        self._path = request.log
        self._about: dict[str, Any] = {
            "bioclip2_jax_version": bioclip2_jax.__version__,
            "command_line": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
            "start": output.calls[0]["start"],
            "end": None,
            "complete": False,
            "calls": output.calls,
            "model": {"path": request.model},
            "settings": asdict(request),
            "count": count,
        }
        self.write()

    def write(self, *, model: str = "", step: int | None = None, **more: Any) -> None:
        if not self._path:
            return
        if model:
            self._about["model"] |= {"sha256": model, "step": step}
        self._about |= more
        text = json.dumps(self._about, indent=1, ensure_ascii=False)
        try:
            files.write_bytes(self._path, text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError as error:
            why = error.strerror or reason(error)
            raise UsageError(f"--log {self._path}: cannot be written ({why})") from error
