"""What somebody has handed to `bioclip2 prepare`, by its content, and the command that reads it."""

import itertools
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from bioclip2_jax import files
from bioclip2_jax.data import buckets, images
from bioclip2_jax.data.tables import FILE_COLUMNS, normal, open_table
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare.columns import RANKED
from bioclip2_jax.prepare.tar_members import End, Stream, is_header, members
from bioclip2_jax.text.captions import TEXT_KINDS

# Kind → what it is, and what to do with PATH.
_ADVICE = {
    "webdataset": (
        "a webdataset of TreeOfLife's kind",
        "call bioclip2 prepare webdataset PATH --out DIR",
    ),
    "img2dataset": ("what img2dataset writes", "call bioclip2 prepare img2dataset PATH --out DIR"),
    "parquet": ("Parquet with pictures", "call bioclip2 prepare parquet PATH --out DIR"),
    "dwca": ("a Darwin Core Archive", "call bioclip2 prepare dwca PATH --out DIR"),
    "tree": ("a folder of pictures", "call bioclip2 prepare tree PATH --out DIR"),
    "folder": ("a table of pictures", "call bioclip2 prepare folder --metadata PATH --out DIR"),
    "dataset": ("a prepared dataset", "train and evaluate on it as it is"),
    "urls": (
        "a list of web addresses",
        "download them with img2dataset (--output_format webdataset),"
        " then call bioclip2 prepare img2dataset FOLDER --out DIR",
    ),
    "catalogue": (
        "a table about pictures that lie elsewhere",
        "name it together with those pictures, as --tables PATH",
    ),
    "img2dataset files": (
        "what img2dataset writes as single files",
        "pack each of its folders (tar --sort=name -cf 00000.tar -C PATH 00000),"
        " then call bioclip2 prepare img2dataset 00000.tar --out DIR",
    ),
    "tar": (
        "a tar of pictures without texts",
        "unpack it, then call bioclip2 prepare tree FOLDER --out DIR",
    ),
    "archive": ("a packed archive", "unpack it first"),
    "hdf5": ("an HDF5 file", "export its pictures to Parquet (columns uuid, image) first"),
    "picture": ("a single picture", "name the folder that it lies in"),
}
_MAGIC = {
    **{b"PAR1": "parquet", b"PK\x03\x04": "archive", b"7z\xbc\xaf\x27\x1c": "archive"},
    **{
        b"Rar!": "archive",
        b"\xfd7zXZ": "archive",
        b"BZh": "archive",
        b"\x28\xb5\x2f\xfd": "archive",
    },
    **{b"\x89HDF": "hdf5", b"\xff\xd8\xff": "picture", b"\x89PNG": "picture"},
}
_TEXTS = {f"{kind}.txt" for kind in (*TEXT_KINDS, "scientific_name", "taxonomic_name", "taxontag")}
_URLS = ("url", "imageurl", "urls", "accessuri", "identifier", "sourceurl")
_MOST_PATHS, _MOST_FILES, _MOST_MEMBERS = 16, 2000, 64


def refuse_others(paths: Sequence[str], *kinds: str) -> None:
    """Says what to do with a path that is certainly of no such kind.

    Args:
      paths: of a command's input, of which the first few are looked at.
      kinds: that the command reads, see `kinds_of`.

    Raises:
      UsageError: the sentence.
    """
    for path in paths[:_MOST_PATHS]:
        found = kinds_of(path)
        # An archive's media lie in a folder of pictures, too.
        if found and (not set(kinds) & set(found) or found[0] == "dwca" not in kinds):
            what, way = _ADVICE[found[0]]
            if found[0] == "folder" and files.place(path).is_dir():
                path = str(table_in(files.place(path)))
            raise UsageError(f"{path}: this is {what}; {way.replace('PATH', path)}")


def kinds_of(path: str | Path) -> list[str]:
    """Keys of the advice above, the likeliest first; none for what is not known, or not there.

    Of a folder the first 2,000 files are looked at; it may hold several kinds.
    """
    path = files.place(path)
    if path.is_dir():
        return _kinds_of_folder(path)
    kind = _kind_of_file(path)
    return [kind] if kind else []


def _kinds_of_folder(folder: Path) -> list[str]:
    found = list(itertools.islice(_files(folder), _MOST_FILES))
    first = {file.suffix.lower(): file for file in reversed(found)}
    names = {file.name for file in found if _depth(file, folder) < 3}
    if {"dataset_info.json", "features.json"} <= names:
        return ["dataset"]
    kinds = ["dwca"] if (folder / "meta.xml").exists() else []
    packed = (".tar", ".tgz", ".gz", ".parquet")
    kinds += [_kind_of_file(first[suffix]) for suffix in packed if suffix in first]
    kinds += ["folder"] if table_in(folder) else []
    picture = next((file for file in found if file.suffix.lower() in images.suffixes()), None)
    if picture:
        beside = (picture.with_suffix(".json"), picture.with_suffix(".txt"))
        kinds.append("img2dataset files" if all(file.exists() for file in beside) else "tree")
    return [kind for kind in kinds if kind]


def table_in(folder: Path) -> Path | None:
    """The first table of pictures in a folder, or in one right below it."""
    if files.is_remote(folder):  # which may hold millions of files
        found = [file for file in itertools.islice(_files(folder), _MOST_FILES) if _is_table(file)]
        tables = [file for depth in (1, 2) for file in found if _depth(file, folder) == depth]
    else:
        tables = [*sorted(folder.glob("*.[ct]sv")), *sorted(folder.glob("*/*.[ct]sv"))]
    return next((table for table in tables[:9] if _kind_of_file(table) == "folder"), None)


def _is_table(file: Path) -> bool:
    return file.suffix in (".csv", ".tsv")


def _depth(file: Path, folder: Path) -> int:
    return len(file.relative_to(folder).parts)


def _kind_of_file(path: Path) -> str:
    try:
        return _kind_by_content(path) if path.is_file() else ""  # a pipe would wait for ever
    except (OSError, ValueError, UserError, zipfile.BadZipFile):
        return ""


def _kind_by_content(path: Path) -> str:
    with buckets.open_bytes(path) as file:
        start = file.read(512)
        if is_header(start) or start[:2] == b"\x1f\x8b":
            return _kind_of_tar(Stream(file))
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")
    if kind == "parquet":
        return _kind_of_parquet(path)
    if start[:2] == b"PK":
        with buckets.open_bytes(path) as file:
            names = zipfile.ZipFile(file).namelist()
        return "dwca" if any(name.split("/")[-1] == "meta.xml" for name in names) else kind
    return kind or ("" if b"\0" in start else _kind_of_text(path, start))


def _kind_of_tar(stream: Stream) -> str:
    kind = "archive"
    try:
        for name, size, fault in itertools.islice(members(stream), _MOST_MEMBERS):
            suffix = name.rpartition("/")[2].partition(".")[2].lower()
            if suffix in _TEXTS and not fault:
                return "webdataset"
            if suffix == "json" and size < 1 << 20 and not fault:
                values = json.loads(stream.read(size))
                kind = "img2dataset" if {"url", "caption"} & set(values) else "webdataset"
            elif suffix == "txt":
                kind = "img2dataset"
            elif kind == "archive" and f".{suffix.rpartition('.')[2]}" in images.suffixes():
                kind = "tar"
    except (End, ValueError, TypeError):
        return kind if kind != "archive" else ""
    return kind


def _kind_of_parquet(path: Path) -> str:
    with buckets.open_bytes(path) as file:
        schema = pq.read_schema(file)
    names = {normal(name) for name in schema.names}
    kinds = "".join(str(kind) for kind in schema.types)
    if "binary" in kinds or names & set(FILE_COLUMNS):
        return "parquet"
    if "shardfilename" in names or (names & RANKED and "uuid" in names):
        return "catalogue"
    return "urls" if names & set(_URLS) else ""


def _kind_of_text(path: Path, start: bytes) -> str:
    if start.lstrip(b'\xef\xbb\xbf "').startswith((b"http://", b"https://")):
        return "urls"
    if (path.parent / "meta.xml").exists():
        return "dwca"
    table = open_table(path)
    _, row = next(table.rows(), (0, {}))
    file, url = table.column(FILE_COLUMNS), table.column(_URLS)
    if file and not row.get(file, "").startswith(("http://", "https://")):
        return "folder"
    return "urls" if file or url else ""


def _files(folder: Path) -> Iterator[Path]:
    if files.is_remote(folder):
        yield from (folder / name for name in files.below(folder))
        return
    for place, below, names in os.walk(folder):
        below.sort()
        yield from (Path(place, name) for name in sorted(names))
