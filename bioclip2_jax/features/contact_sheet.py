"""Pictures of a store as one HTML file that needs no other, and no network."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from bioclip2_jax import files
from bioclip2_jax.data import buckets, dataset, folders, images
from bioclip2_jax.errors import UserError
from bioclip2_jax.features.library import Entry
from bioclip2_jax.features.parts import About

SIDE = 220  # pixels of a thumbnail, at most

Read = Callable[[Entry], bytes | None]


@dataclass(frozen=True)
class Tile:
    """A picture of the sheet: `name`, further `lines` below it, and `url`, "" if it is missing."""

    name: str
    lines: Sequence[str]
    url: str


@dataclass(frozen=True)
class Section:
    """Pictures below a `title`; `url` is what they were looked for with, "" if no picture."""

    title: str
    tiles: Sequence[Tile]
    url: str = ""


def reader(about: About) -> Read:
    """What reads the pictures of a store where it says they lie: in a folder, or a dataset.

    It gives None where they are gone, or where they lie in archives, which are not looked through.
    """
    if folder := about.pictures.get("folder"):
        root = files.place(folder)
        return lambda entry: _in_folder(root, entry.key)
    if place := about.pictures.get("dataset"):
        splits: dict[str, dataset.Source] = {}
        return lambda entry: _in_dataset(place, splits, entry)
    return lambda entry: None


def tile(entry: Entry, read: Read, lines: Sequence[str] = ()) -> Tile:
    """The tile of a picture of the store; `lines` go above what is known of it."""
    names = [entry.texts[name] for name in ("scientificName", "vernacularName", "file")]
    return Tile(entry.key, [*lines, *filter(None, names)], url_of(read(entry)))


def url_of(picture: bytes | None) -> str:
    """A thumbnail as `data:` URL; "" of none, or of one that cannot be read."""
    try:
        image = images.read(picture, reduction=_reduction).image if picture else None
    except images.BadImage:
        image = None
    if image is None:
        return ""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def page(title: str, sections: Sequence[Section], note: str = "") -> str:
    """The HTML; all texts are escaped.

    Args:
      title: of the page.
      sections: in their order.
      note: below the title, such as what is left out.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("contact_sheet.html.j2")
    return template.render(title=title, sections=sections, note=note, side=SIDE)


def _reduction(size: tuple[int, int]) -> int:
    return next((by for by in (8, 4, 2) if min(size) >= by * SIDE), 1)


def _in_folder(root: Path, key: str) -> bytes | None:
    path = folders.inside(root, key)
    try:
        return buckets.read_bytes(path) if path else None
    except OSError:
        return None


def _in_dataset(place: str, splits: dict[str, dataset.Source], entry: Entry) -> bytes | None:
    name = entry.texts["split"]
    try:
        if name not in splits:
            splits[name] = dataset.open_split(place, name)
        source = splits[name]
        record = source[entry.index] if entry.index < len(source) else None
    except (OSError, UserError):
        return None
    return record["image"] if record and record["key"] == entry.key else None
