"""Pictures out of Darwin Core Archives."""

import os
import struct
import zipfile
from pathlib import Path

import pytest
from columns import META, archive, lineage, parts_of, read_all, split_up, zipped

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare.dwca import DwcaSource

CASES = Path(__file__).parent / "data/cases/formats/dwca"
CORE = ["gbifID", "kingdom", "genus", "specificEpithet", "scientificName", "license"]
BEAR = ["1", "Animalia", "Ursus", "arctos", "Ursus arctos L.", "CC-BY"]
GENERA = ("Ursus", "Canis", "Felis", "Lynx", "Panthera", "Vulpes", "Martes")
MEDIA = ["gbifID", "type", "format", "identifier", "license"]


def photo(key: str, address: str, licence: str = "CC0") -> list[str]:
    return [key, "StillImage", "image/jpeg", address, licence]


def read(path: Path, work: Path, **options):
    return split_up(read_all(DwcaSource(archive=path, **options), work))


def test_the_case_file_as_folder_and_as_zip(tmp_path):
    pictures, rejected = read(CASES, tmp_path / "work")
    assert not rejected
    (record,) = (picture.record for picture in pictures)
    assert record["image"] == (CASES / "media/1.jpg").read_bytes()
    assert (record["key"], record["genus"], record["species"]) == ("1", "Ursus", "arctos")
    assert (record["licence"], record["source"], pictures[0].split) == ("CC0", "http://x/1.jpg", "")
    packed = tmp_path / "deep.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for path in CASES.rglob("*.*"):
            file.write(path, f"dwca-1.0/{path.relative_to(CASES)}")
    (again,), rejected = read(packed, tmp_path / "zip")
    assert not rejected and again.record == record


def test_ten_thousand_rows_come_once_with_their_occurrence(tmp_path):
    many = 10_000
    occurrences = [[str(i), "Animalia", GENERA[i % 7], "", "", "CC-BY"] for i in range(many)]
    media = [
        photo(str(i * 7919 % many), f"http://x/{i * 7919 % many}.jpg", "") for i in range(many)
    ]
    folder = archive(
        tmp_path / "in",
        [CORE, *occurrences],
        [MEDIA, *media],
        pictures={f"{i}.jpg": b"%d" % i for i in range(0, many, 10)},
    )
    source = DwcaSource(archive=folder)
    parts = parts_of(source, tmp_path / "work")
    assert len(parts) == 2
    items = [item for part in parts for item in source.read(part)]
    pictures, rejected = split_up(items)
    assert (len(pictures), len(rejected)) == (1000, 9000)
    assert {p.record["key"] for p in pictures} == {str(i) for i in range(0, many, 10)}
    for picture in pictures:
        number = int(picture.record["image"])
        assert picture.record["key"] == str(number)
        assert picture.record["genus"] == GENERA[number % 7]
        assert picture.record["licence"] == "CC-BY"
    assert {item.reason.partition(" (")[0] for item in rejected} == {
        "the picture is not on this machine; download it, for example with img2dataset"
    }
    assert items == read_all(source, tmp_path / "again")


def test_names_of_files_and_their_folders(tmp_path):
    addresses = {
        "https://x/photos/7/original.jpg": "7/original.jpg",
        "https://x/photos/8/original.jpg": "photos/8/original.jpg",
        "https://x/photos/9/original.jpg": None,  # original.jpg could be anybody's
        "https://x/a%20b.jpg?size=large": "a b.jpg",
        "sub\\c.jpg": "sub/c.jpg",
        "media/d.jpg": "d.jpg",
        "https://[bad": None,
    }
    folder = archive(
        tmp_path / "in",
        [CORE, BEAR],
        [MEDIA, *(photo("1", address) for address in addresses)],
        pictures={
            name: name.encode() for name in [*filter(None, addresses.values()), "original.jpg"]
        },
    )
    pictures, rejected = read(folder, tmp_path / "work")
    expected = [name.encode() for name in addresses.values() if name]
    assert [picture.record["image"] for picture in pictures] == expected
    assert len(rejected) == 2
    assert {picture.record["key"] for picture in pictures} == {"1"}
    packed, _ = read(zipped(folder), tmp_path / "zip")
    assert [picture.record["image"] for picture in packed] == expected


def test_pictures_may_lie_elsewhere(tmp_path):
    folder = archive(tmp_path / "in", [CORE, BEAR], [MEDIA, photo("1", "http://x/1.jpg")])
    elsewhere = tmp_path / "pictures"
    elsewhere.mkdir()
    (elsewhere / "1.jpg").write_bytes(b"one")
    for path, work in ((folder, "a"), (zipped(folder), "b")):
        (picture,), _ = read(path, tmp_path / work, media=elsewhere)
        assert picture.record["image"] == b"one"
    with pytest.raises(UsageError, match="--media"):
        read(folder, tmp_path / "c", media=tmp_path / "none")


def test_other_media_are_passed_over(tmp_path):
    media = [
        ["1", "Sound", "audio/mpeg", "a.jpg", ""],
        ["1", "MovingImage", "", "a.jpg", ""],
        ["1", "", "video/mp4", "a.jpg", ""],
        ["1", "", "", "a.jpg", ""],
    ]
    folder = archive(tmp_path / "in", [CORE, BEAR], [MEDIA, *media], pictures={"a.jpg": b"a"})
    pictures, rejected = read(folder, tmp_path / "work")
    assert len(pictures) == 1 and not rejected
    assert pictures[0].file.endswith("multimedia.txt, line 5")


def test_faulty_rows_are_set_aside_with_their_line(tmp_path):
    folder = archive(
        tmp_path / "in",
        [CORE, BEAR, ["2", "Animalia"], ["3", "", "", "", "", ""]],
        [
            MEDIA,
            photo("1", "a.jpg"),
            ["1", "StillImage"],
            [*photo("1", "a.jpg"), "more"],
            photo("2", "a.jpg"),
            photo("3", "a.jpg"),
            photo("4", "a.jpg"),
            photo("1", ""),
            photo("1", "M\u00fcller.jpg"),
        ],
        pictures={"a.jpg": b"a"},
    )
    table = folder / "multimedia.txt"
    table.write_bytes(table.read_bytes().replace("\u00fc".encode(), b"\xfc"))
    pictures, rejected = read(folder, tmp_path / "work")
    assert [picture.record["image"] for picture in pictures] == [b"a"]
    lines = {item.file.rpartition("line ")[2]: (item.key, item.reason) for item in rejected}
    assert lines == {
        "3": ("1", "a malformed row (2 cells instead of 5)"),
        "4": ("1", "a malformed row (6 cells instead of 5)"),
        "5": ("2", "a malformed row (2 cells instead of 6) (occurrence.txt, line 3)"),
        "6": ("3", "neither caption nor taxon"),
        "7": ("4", "neither caption nor taxon (occurrence.txt has no row 4)"),
        "8": ("1", "no picture is named"),
        "9": ("1", "a text is not valid UTF-8"),
    }


def test_files_outside_and_no_files_are_refused(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    names = ["../../secret.jpg", str(secret), f"file://{secret}", "link.jpg", "pipe.jpg", "a\0.jpg"]
    folder = archive(
        tmp_path / "in",
        [CORE, BEAR],
        [MEDIA, *(photo("1", name) for name in names), photo("1", "x" * 5000)],
        pictures={"ok.jpg": b"ok"},
    )
    (folder / "media/link.jpg").symlink_to(secret)
    os.mkfifo(folder / "media/pipe.jpg")
    pictures, rejected = read(folder, tmp_path / "work")
    assert not pictures and len(rejected) == len(names) + 1
    assert all(item.reason.isprintable() and item.file.isprintable() for item in rejected)
    pictures, rejected = read(zipped_with_links(folder, secret), tmp_path / "zip")
    assert not pictures and len(rejected) == len(names) + 1


def zipped_with_links(folder: Path, secret: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as packed:
        for name in ("meta.xml", "occurrence.txt", "multimedia.txt"):
            packed.write(folder / name, name)
        link = zipfile.ZipInfo("media/link.jpg")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, str(secret))
        packed.writestr("../../secret.jpg", b"out of here")
    return path


def test_bombs_in_zips_are_refused(tmp_path):
    folder = archive(
        tmp_path / "in",
        [CORE, BEAR],
        [MEDIA, photo("1", "big.jpg"), photo("1", "bad.jpg")],
        pictures={"big.jpg": b"big", "bad.jpg": b"bad" * 100},
    )
    path = zipped(folder)

    def claims(name: str, size: int):
        data = bytearray(path.read_bytes())
        entry = data.rindex(name.encode()) - 46
        assert data[entry : entry + 4] == b"PK\1\2"
        data[entry + 24 : entry + 28] = struct.pack("<I", size)
        path.write_bytes(data)

    claims("media/big.jpg", 4_000_000_000)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as packed:
        offset = packed.getinfo("media/bad.jpg").header_offset + 30 + len("media/bad.jpg")
    path.write_bytes(data[:offset] + b"\xff\xff\xff" + data[offset + 3 :])
    pictures, rejected = read(path, tmp_path / "work")
    assert not pictures
    assert [item.reason.partition(" (")[0] for item in rejected] == [
        "its file is too large",
        "cannot be read",
    ]
    claims("occurrence.txt", 4_000_000_000)
    with pytest.raises(UserError, match="occurrence.txt claims to unpack to 4000000000 bytes"):
        read(path, tmp_path / "work2")


def meta(core: str, *, files: str = "occurrence.txt", inner: str = '<id index="0"/>') -> str:
    return (
        f'<archive xmlns="http://rs.tdwg.org/dwc/text/"><core {core}><files><location>{files}'
        f"</location></files>{inner}</core></archive>"
    )


OCCURRENCE = 'rowType="http://rs.tdwg.org/dwc/terms/Occurrence"'


def test_quoted_cells_without_a_header_and_with_defaults(tmp_path):
    term = "http://rs.tdwg.org/dwc/terms/"
    fields = "".join(
        f'<field index="{i}" term="{term}{name}"/>'
        for i, name in enumerate(("occurrenceID", "scientificName", "associatedMedia", "locality"))
    )
    fields += f'<field default="Fungi" term="{term}kingdom"/><id index="0"/>'
    core = f'{OCCURRENCE} fieldsTerminatedBy="," fieldsEnclosedBy="&quot;" encoding="latin1"'
    folder = archive(tmp_path / "in", [], [], meta=meta(core, inner=fields))
    (folder / "occurrence.txt").write_bytes(
        '1,"Amanita muscaria (L.) Lam., 1783","a.jpg | b.jpg","K\u00f6ln,\nam ""Rhein"""\n'
        '2,"Boletus edulis",,\n'.encode("latin1")
    )
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(name.encode())
    pictures, rejected = read(folder, tmp_path / "work")
    assert not rejected
    assert [picture.record["image"] for picture in pictures] == [b"a.jpg", b"b.jpg"]
    record = pictures[0].record
    assert lineage(record) == ("Fungi", *[""] * 4, "Amanita", "muscaria")
    assert record["labels"]["locality"] == 'K\u00f6ln,\nam "Rhein"'


def test_a_checklist_of_taxa_with_pictures(tmp_path):
    text = META.replace("terms/Occurrence", "terms/Taxon").replace("occurrence.txt", "taxon.txt")
    text = text.replace("rs.gbif.org/terms/1.0/Multimedia", "rs.tdwg.org/ac/terms/Multimedia")
    folder = archive(
        tmp_path / "in",
        [],
        [["taxonID", "identifier", "accessURI"], ["t1", "urn:7", "http://x/a.jpg"]],
        pictures={"a.jpg": b"a"},
        meta=text,
    )
    (folder / "taxon.txt").write_text("taxonID\tscientificName\ttaxonRank\nt1\tUrsidae\tfamily\n")
    (picture,), rejected = read(folder, tmp_path / "work")
    assert not rejected
    assert (picture.record["key"], picture.record["family"]) == ("t1", "Ursidae")


LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c SYSTEM "file:///etc/passwd">]>' + META.replace("media.txt", "media&b;&c;.txt")
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LAUGHS, "document types or entities"),
        (META[:100], "meta.xml: cannot be read"),
        (meta('rowType="http://rs.tdwg.org/dwc/terms/Event"'), "neither Occurrence nor Taxon"),
        (meta(OCCURRENCE, files="../secret.txt"), "outside the archive"),
        (meta(OCCURRENCE, files="none.txt"), "none.txt cannot be read .*No such file"),
        (meta(OCCURRENCE + ' encoding="UTF-16"'), "not understood"),
        (meta(OCCURRENCE + ' encoding="klingon"'), "not understood"),
        (meta(OCCURRENCE + ' linesTerminatedBy="|"'), "not understood"),
        (meta(OCCURRENCE + ' fieldsTerminatedBy="\\t"'), "neither meta.xml nor a header"),
        (meta(OCCURRENCE + ' fieldsTerminatedBy="\\t" ignoreHeaderLines="1"'), "no pictures"),
    ],
)
def test_archives_that_cannot_be_used_are_refused(tmp_path, text, sentence):
    folder = archive(tmp_path / "in", [CORE, BEAR], [MEDIA], meta=text)
    with pytest.raises(UserError, match=sentence):
        read(folder, tmp_path / "work")


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as packed:
        packed.writestr("a.txt", "a")
    for name in ("", "a.zip", "b.zip", "none"):
        with pytest.raises(UsageError, match="Darwin Core"):
            read(tmp_path / name, tmp_path / "work")


def test_a_quote_that_is_never_closed_ends_no_reading(tmp_path):
    core = f'{OCCURRENCE} fieldsTerminatedBy="," ignoreHeaderLines="1"'
    folder = archive(tmp_path / "in", [], [], meta=meta(core))
    rows = "".join(f"{i},Ursus,a.jpg\n" for i in range(10_000))
    text = 'id,genus,associatedMedia\n0,Ursus,a.jpg\n1,Ursus,"a.jpg\n'
    (folder / "occurrence.txt").write_text(text + rows)
    (folder / "a.jpg").write_bytes(b"a")
    pictures, rejected = read(folder, tmp_path / "work")
    assert len(pictures) == 10_001
    assert [(item.key, item.reason) for item in rejected] == [
        ("occurrence.txt:3", "a malformed row (a quote in it is not closed)")
    ]
