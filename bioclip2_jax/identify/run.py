"""One call of `predict` from its options to its output: begun, gone on with, and written down."""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

import jax
import numpy as np

import bioclip2_jax
from bioclip2_jax import files
from bioclip2_jax.data.counts import counts_of
from bioclip2_jax.errors import UsageError, reason
from bioclip2_jax.features.embed import checksum
from bioclip2_jax.features.encode import spread
from bioclip2_jax.features.store import Store
from bioclip2_jax.identify import (
    formats,
    heads,
    inputs,
    name_lists,
    obscure,
    occurrences,
    outputs,
    sure,
)
from bioclip2_jax.identify import places as places_
from bioclip2_jax.identify.boxes import Boxes, Cut, write_back
from bioclip2_jax.identify.camtrap import asked
from bioclip2_jax.identify.camtrap import package as camtrap
from bioclip2_jax.identify.captured import Captured
from bioclip2_jax.identify.ladder import Ladder
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.identify.name_tree import NameTree
from bioclip2_jax.identify.obscure import Obscured, Rule
from bioclip2_jax.identify.places import Places
from bioclip2_jax.identify.predict import Namer, Names, Prediction, predict, predict_kept
from bioclip2_jax.identify.request import Request, label_list
from bioclip2_jax.weights import load as loading


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
      count: pictures.
      failed: of them, which could not be read.
      others: files beside them that are no pictures.
      told: of a package that was made.
      asked: pictures that were to be weighted by place.
      unplaced: of them, those of which no place is known.
    """

    count: int
    failed: int
    others: list[str]
    told: camtrap.Told | None = None
    asked: int = 0
    unplaced: int = 0


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
    head = heads.read(request.head) if request.head else None
    labels = head.labels if head else label_list(request)
    request.refuse()
    counts = counts_of(request.prior, labels.taxa) if request.prior else None
    ladder, calibration = None, None
    if request.calibration:
        calibration, ladder = sure.read(request.calibration), Ladder(labels)
        prior = name_lists.tells_prior(counts, request.strength)
        calibration.check(labels, prior, request.calibration)
        labels = ladder.labels
    obscured = obscure.read(request.obscure, labels) if request.obscure else None
    for note in (*labels.notes, *(obscured.notes if obscured else ())):
        say(note)
    listed = inputs.read_list(request.list_file) if request.list_file else []
    with ExitStack() as stack:
        if request.boxes:
            found = _boxes(request)
        else:
            found = stack.enter_context(inputs.opened(request.pictures, listed, request.split))
        package = _package(request, found, labels, obscured) if request.is_package else None
        for note in package.deployments.notes if package else ():
            say(note)
        count = _count(found)
        settings = _settings(request, found, labels, counts, obscured)
        settings |= {"--head": head.tells()} if head else {}
        if calibration:
            settings |= {"--sure": str(request.sure), "--calibration": calibration.tells()}
        places = None
        if request.occurrences:
            places, settings["--occurrences"] = _places(request, found, labels, package, say)
        # Which the last picture may tell.
        hides = obscured is not None and (request.has_places or places is not None)
        grows = formats.grows(request.format) and not request.goes_back and not hides
        path = request.output.rstrip("/") if package else request.output
        output = stack.enter_context(
            outputs.opened(path, settings, count=count, grows=grows, folder=bool(package))
        )
        log = _Log(request, count, output)
        model = loading.load(request.model, request.precision)
        needs_sum = request.log or request.columns == "dwc" or isinstance(found, Store)
        needs_sum = (
            needs_sum or head or calibration or package or isinstance(output, outputs.Resumed)
        )
        sha256 = checksum(model) if needs_sum else ""
        if isinstance(found, Store) and found.about.model.sha256 != sha256:
            raise UsageError(
                f"{request.pictures[0]}: features of another model ({found.about.model.path});"
                " name that one as --model"
            )
        if head:
            head.check(model, sha256, str(request.head))
        if calibration:
            calibration.check_model(model, sha256, str(request.calibration))
        sheet = _sheet(request, labels, obscured, sha256, output.calls[0]["start"])
        devices = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
        form = request.format if grows else "jsonl"
        output.begin(
            {"model": sha256, "devices": devices}, formats.head(sheet, form, bom=request.bom)
        )
        log.write(model=sha256, step=model.step, devices=devices)
        position, failed = output.position, output.failed

        def namer_of(model: loading.Model) -> Names:
            if head:
                return heads.HeadNamer(head, request.num_answers)
            if calibration and ladder and request.sure:
                return sure.SureNamer(
                    model,
                    ladder,
                    calibration,
                    request.sure,
                    batch_size=request.batch_size,
                    counts=counts,
                    strength=request.strength,
                )
            return _namer(request, labels, counts, places, model)

        batches = _batches(request, found, namer_of, model, position, places)
        for batch in watch(position, count, batches):
            position += len(batch)
            failed += sum(bool(picture.error) for picture in batch)
            rows = camtrap.lines(batch) if package else formats.lines(sheet, batch, form)
            output.add(rows, position=position, failed=failed)
        if package:
            name = os.path.basename(os.path.abspath(request.model))
            by = f"{name} ({sha256[:12]}), bioclip2_jax {bioclip2_jax.__version__}"
            package = replace(package, model=by, created=output.calls[0]["start"])
            output.finish(None, fill=package.write)
        else:
            output.finish(None if grows else _convert(request, found, sheet))
        log.write(failed=failed, end=outputs.now(), complete=True)
        others = [] if isinstance(found, Store) else found.others
    told = package.told if package else None
    asked, unplaced = (places.asked, places.unknown) if places else (0, 0)
    return Outcome(count, failed, others, told, asked=asked, unplaced=unplaced)


def _places(
    request: Request,
    found: Found,
    labels: LabelSet,
    package: camtrap.Package | None,
    say: Callable[[str], None],
) -> tuple[Places, str]:
    """What lives where, and what tells it from other records and places."""
    names = NameTree(labels.taxa)
    records = occurrences.read(str(request.occurrences), names)
    for note in records.notes:
        say(note)
    where, told = places_.by_camera, "by EXIF"
    if request.place is not None:
        where, told = places_.read_where(request.place, records, request.pictures)
    elif records.kind == occurrences.OF_REGIONS:
        raise UsageError(
            f"{records.path} has regions and no coordinates; say by --place which one pictures are"
            f" of: {places_.few(records.regions)}"
        )
    elif package:
        where, told = package.place_of, "by --deployments"
    elif isinstance(found, Store) and records.kind:
        raise UsageError(
            f"{request.pictures[0]}: a feature store keeps no coordinates; say by --place where"
            " pictures were taken"
        )
    strength = places_.STRENGTH if request.place_strength is None else request.place_strength
    made = Places(records, names, where, strength)
    return made, f"checksum {made.tells()}, place {told}, strength {strength}"


def _package(
    request: Request, found: Found, labels: LabelSet, obscured: Obscured | None
) -> camtrap.Package:
    if isinstance(found, Store):
        raise UsageError(
            f"{request.pictures[0]}: a feature store keeps no times of capture, which --format"
            f" {formats.CAMTRAP} needs; name the pictures themselves"
        )
    return asked.read(
        deployments_table=request.deployments,
        media_table=request.media,
        about_file=request.package,
        timezone=request.timezone,
        output=request.output,
        arguments=request.pictures,
        pictures=found,
        labels=labels,
        obscured=obscured,
    )


def _sheet(
    request: Request, labels: LabelSet, obscured: Obscured | None, sha256: str, start: str
) -> formats.Sheet:
    return formats.Sheet.of(
        labels,
        request.columns,
        by=f"bioclip2_jax {bioclip2_jax.__version__}, model {sha256[:12]}",
        date=start[:10],
        boxes=bool(request.boxes),
        coordinates=request.has_places,
        obscured=obscured,
        weighted=bool(request.occurrences),
    )


def _boxes(request: Request) -> Boxes:
    if request.list_file or request.split or len(request.pictures) > 1:
        raise UsageError("--boxes takes one folder, from which the names in its file count")
    cut = Cut(request.box_threshold, request.box_padding, request.box_square)
    folder = request.pictures[0] if request.pictures else ""
    found = Boxes(request.boxes or "", folder, cut, blanks=request.is_package)
    if not found.count:
        raise UsageError(f"--boxes {request.boxes}: no box of {cut.threshold} or more in it")
    return found


def _convert(request: Request, found: Found, sheet: formats.Sheet) -> outputs.Convert:
    if not request.goes_back or not isinstance(found, Boxes):
        return functools.partial(
            formats.convert, sheet=sheet, format_=request.format, bom=request.bom
        )

    def write(rows: IO[bytes], target: IO[bytes]) -> None:
        rules = formats.folder_rules(rows) if request.obscure else {}
        named = formats.named_rows(rows, sheet)

        def place_of(name: str) -> Rule | None:
            return rules.get(formats.folder_of(name))

        kept = place_of if request.coordinates else None
        write_back(found.document, named, sheet.columns, target, place_of=kept)

    return write


def _count(found: Found) -> int:
    return len(found.keys) + len(found.about.bad) if isinstance(found, Store) else found.count


def _settings(
    request: Request,
    found: Found,
    labels: LabelSet,
    counts: np.ndarray | None,
    obscured: Obscured | None,
) -> dict[str, str]:
    """All that the rows depend on, but for the model; not what a package adds to them."""
    if isinstance(found, Store):
        about = json.dumps(asdict(found.about), sort_keys=True, default=str)
        listing = f"features with checksum {name_lists.checksum(about, *found.keys)}"
    else:
        listing = found.listing()
    settings = {"pictures": listing, "names": labels.tells()}
    settings["--k"] = str(request.num_answers)
    options = ("decode", "batch_size", "precision", "truncated", "format", "columns", "bom")
    for name in (*options, "coordinates"):
        settings[f"--{name.replace('_', '-')}"] = str(getattr(request, name))
    prior = name_lists.tells_prior(counts, request.strength)
    if obscured and not request.is_package:
        lines = sorted(f"{cells} {rule}" for cells, rule in obscured.rules.items())
        settings["--obscure"] = f"{len(lines):,} rules with checksum {name_lists.checksum(*lines)}"
    return settings | {"--prior": prior, "version": bioclip2_jax.__version__}


def _namer(
    request: Request,
    labels: LabelSet,
    counts: np.ndarray | None,
    local: Places | None,
    model: loading.Model,
) -> Namer:
    return Namer(
        model,
        labels,
        k=request.num_answers,
        batch_size=request.batch_size,
        decode=request.decode,
        counts=counts,
        strength=request.strength,
        local=local,
    )


def _batches(
    request: Request,
    found: Found,
    namer_of: Callable[[loading.Model], Names],
    model: loading.Model,
    start: int,
    local: Places | None,
) -> Iterator[list[Prediction]]:
    if start == _count(found):
        return
    model = spread(model)
    size, namer = request.batch_size, namer_of(model)
    if isinstance(found, Store):
        yield from predict_kept(found, namer, size, start=start, local=local)
        return
    use_truncated = request.truncated == "use"
    reads_exif = request.is_package or request.has_places or (local and request.place is None)
    pictures = Captured(found) if reads_exif else found
    how = {"start": start, "use_truncated": use_truncated, "local": local}
    yield from predict(model, pictures, namer, size, **how)


class _Log:
    """The file that tells of a run: written when it begins, and again at its end."""

    def __init__(self, request: Request, count: int, output: outputs.Stream | outputs.Resumed):
        self._path = request.log

        def hidden(text: str) -> str:
            place = request.place if request.obscure else None  # which a rule may forbid to tell
            return text.replace(place, "…") if place else text

        self._about: dict[str, Any] = {
            "bioclip2_jax_version": bioclip2_jax.__version__,
            "command_line": [os.path.basename(sys.argv[0]), *map(hidden, sys.argv[1:])],
            "start": output.calls[0]["start"],
            "end": None,
            "complete": False,
            "calls": output.calls,
            "model": {"path": request.model},
            "settings": asdict(request) | {"place": request.place and hidden(request.place)},
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
