"""Small tars as the field has them, made from rows: TreeOfLife's webdataset and img2dataset's."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
TEXTS = (
    *("scientific_name", "common_name", "taxonomic_name", "sci", "com", "taxon"),
    *("sci_com", "taxon_com", "taxonTag", "taxonTag_com"),
)


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **header) -> None:
    """One file; `header` replaces what `tarfile` would say of it."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in header.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))


def treeoflife_texts(row: Mapping[str, str]) -> dict[str, str]:
    """The ten texts of TreeOfLife-toolbox: `tol_hybrid_to_wds`.

    Args:
      row: the seven ranks, any of them empty, and `common`.
    """
    known = {rank: row[rank] for rank in RANKS if row.get(rank)}
    scientific = " ".join(known.get(rank, "") for rank in ("genus", "species")).strip()
    if "species" not in known:
        scientific = list(known.values())[-1] if known else "Unknown"
    common = row.get("common") or scientific
    if "species" in known:
        known["species"] = known["species"].split()[-1]
    lineage = " ".join(known.values())
    tagged = " ".join(f"{rank} {name}" for rank, name in known.items()) or "unknown taxonomy"
    and_common = f" with common name {common}."
    return {
        "scientific_name": scientific,
        "common_name": common,
        "taxonomic_name": lineage,
        "sci": f"a photo of {scientific}.",
        "com": f"a photo of {common}.",
        "taxon": f"a photo of {lineage or scientific}.",
        "sci_com": f"a photo of {scientific}{and_common}",
        "taxon_com": f"a photo of {lineage or scientific}{and_common}",
        "taxonTag": f"a photo of {tagged}.",
        "taxonTag_com": f"a photo of {tagged}{and_common}",
    }


def write_treeoflife(
    path: Path, rows: Iterable[Mapping[str, str]], without: Iterable[str] = ()
) -> None:
    """A TreeOfLife tar.

    Args:
      path: of the tar.
      rows: see `treeoflife_texts`; and `uuid`, and `image` (bytes).
      without: texts that are left out.
    """
    with path.open("wb") as file:
        for row in rows:
            file.write(_member(f"{row['uuid']}.jpg", row["image"]))
            for name, text in treeoflife_texts(row).items():
                if name not in without:
                    file.write(_member(f"{row['uuid']}.{name}.txt", text.encode()))
        file.write(bytes(-file.tell() % 10_240 or 10_240))


def _member(name: str, data: bytes) -> bytes:
    """As `add` writes it, in half the time."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def write_img2dataset(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """A tar of img2dataset.

    Args:
      path: of the tar.
      rows: `key`, `image` (None for a failed download), `caption` (None for none); more for JSON.
    """
    with tarfile.open(path, "w") as archive:
        for row in rows:
            image, key, caption = row["image"], row["key"], row["caption"]
            about = {name: value for name, value in row.items() if name != "image"}
            about = {"status": "success" if image else "failed_to_download"} | about
            if image:
                add(archive, f"{key}.jpg", image)
            if caption is not None:
                add(archive, f"{key}.txt", str(caption).encode())
            add(archive, f"{key}.json", json.dumps(about).encode())
