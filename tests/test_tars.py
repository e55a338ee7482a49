"""Tars of any origin: cut, damaged and hostile ones too; each picture comes once, or is named."""

import gzip
import io
import re
import tarfile
import tracemalloc

import pytest
from tars import add

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare import tar_members, tars
from bioclip2_jax.prepare.tars import samples, tar_files

TEXTS = frozenset(("txt", "sci.txt"))


def packed(*files, format=tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, data) or (name, data, header)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data, *header in files:
            add(archive, name, data, **(header[0] if header else {}))
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path):
    def read(data: bytes) -> list[tars.Sample]:
        path = tmp_path / "shard.tar"
        path.write_bytes(data)
        return list(samples(str(path), TEXTS))

    return read


def flat(found):
    return [(sample.key, sample.problem or sample.image) for sample in found]


def test_a_sample_is_what_lies_side_by_side_under_one_key(read):
    found = read(
        packed(
            ("./a/1.jpg", b"one"),
            ("./a/1.sci.txt", b"uno"),
            ("./a/1.TXT", b"eins"),
            ("./a/1.other.txt", b"?"),
            ("b.v1/2.PNG", b"two"),
            ("a/3.txt", b"no picture"),
            ("README", b"."),
            ("b.v1/.4.jpg", b"hidden"),
            ("b.v1/._2.jpg", b"a fork"),
        )
    )
    assert flat(found) == [("a/1", b"one"), ("b.v1/2", b"two")]
    assert found[0].texts == {"sci.txt": b"uno", "txt": b"eins"}
    assert found[0].name == "a/1.jpg" and found[1].texts == {}


def test_a_key_that_comes_again_is_a_new_sample(read):
    again = packed(("1.jpg", b"a"), ("2.jpg", b"b"), ("1.jpg", b"c"), ("1.jpg", b"d"))
    assert flat(read(again)) == [("1", b"a"), ("2", b"b"), ("1", b"c"), ("1", b"d")]


def test_of_several_pictures_in_a_sample_one_is_taken(read):
    files = ("1.mask.png", b"m"), ("1.jpg", b"a"), ("1.webp", b"w"), ("1.txt", b"t")
    problem = "one more picture of a sample"
    found = read(packed(*files))
    assert flat(found) == [("1.mask.png", problem), ("1.webp", problem), ("1", b"a")]
    assert found[2].texts == {"txt": b"t"}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_dialect_of_tar(read, format):
    names = ["1.jpg", "d" * 90 + "/" + "e" * 60 + ".jpg"]
    if format != tarfile.USTAR_FORMAT:
        names += ["ö" * 40 + ".jpg", "x" * 300 + ".jpg", "鳥/" * 50 + "1.jpg"]
    found = read(packed(*((name, name.encode()) for name in names), format=format))
    assert flat(found) == [(name.removesuffix(".jpg"), name.encode()) for name in names]


def test_what_is_hostile_is_named_and_the_rest_is_read(read):
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    found = read(
        packed(
            ("1.jpg", b"good"),
            ("/etc/2.jpg", b"x"),
            ("/etc/2.txt", b"of the same sample"),
            ("a/../../3.jpg", b"x"),
            ("4.jpg", b"", link),
            ("5.jpg", b"", link | {"type": tarfile.LNKTYPE}),
            ("6.jpg", b"", {"type": tarfile.CHRTYPE}),
            ("7.jpg", b"", {"type": tarfile.FIFOTYPE}),
            ("8\n.jpg", b"x"),
            ("9\0.jpg", b"x"),
            ("10\udcff.jpg", b"x"),
            ("11.jpg", b"", {"type": b"S"}),
            ("12.jpg", b"", {"type": b"Z"}),
            ("y" * 5000 + ".jpg", b"x"),
            ("folder", b"", {"type": tarfile.DIRTYPE}),
            ("14.jpg", b"good"),
            format=tarfile.GNU_FORMAT,
        )
    )
    leads_out, controls = "a name that leads out of the archive", "a name with control characters"
    assert flat(found) == [
        ("/etc/2.jpg", leads_out),
        ("a/../../3.jpg", leads_out),
        ("4.jpg", "a link"),
        ("5.jpg", "a link"),
        ("6.jpg", "a device or a pipe"),
        ("7.jpg", "a device or a pipe"),
        ("8\\x0a.jpg", controls),
        ("9\\x00.jpg", controls),
        ("10\\xff.jpg", "a name that is not UTF-8"),
        ("11.jpg", "a sparse file"),
        ("12.jpg", "of an unknown kind"),
        ("y" * 4096, "a name that is too long"),
        ("1", b"good"),
        ("14", b"good"),
    ]


def test_files_beyond_any_measure_are_not_read(read, monkeypatch):
    monkeypatch.setattr(tars, "MAX_PICTURE", 100)
    monkeypatch.setattr(tars, "MAX_TEXT", 10)
    found = read(
        packed(
            ("1.jpg", bytes(101)),
            ("1.txt", b"a"),
            ("2.jpg", b"b"),
            ("2.txt", bytes(11)),
            ("3.jpg", b"c"),
        )
    )
    assert flat(found) == [
        ("1", "the file is too large (101 bytes)"),
        ("2", "a text is too large (txt, 11 bytes)"),
        ("3", b"c"),
    ]


@pytest.mark.parametrize("size", [10 * 10**9, 1 << 80])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_claimed_size_takes_no_memory(read, size, pack):
    header = tarfile.TarInfo("2.jpg")
    header.size = size
    data = packed(("1.jpg", b"a")).rstrip(b"\0").ljust(1024, b"\0")
    data = pack(data + header.tobuf(tarfile.GNU_FORMAT) + bytes(700))
    tracemalloc.start()
    found = read(data)
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()
    assert flat(found)[0] == ("1", b"a") and found[1].key == "shard.tar"
    assert found[1].problem.startswith("the archive ends early (2.jpg: ") and len(found) == 2


def test_an_archive_may_be_cut_anywhere(read):
    whole = packed(*((f"{n}.{suffix}", bytes(600)) for n in range(4) for suffix in ("jpg", "txt")))
    end = whole.rstrip(b"\0").rindex(b"3.txt") + 512 + 1024
    for size in {*range(0, end + 1, 512), *range(100, end, 777)}:
        *complete, last = read(whole[:size])
        assert flat(complete) == [(str(n), bytes(600)) for n in range(max(0, (size - 512) // 3072))]
        start = "the archive ends early (" if size >= 512 else "no tar archive ("
        assert last.key == "shard.tar" and last.problem.startswith(start)
    assert len(read(whole[: end + 512])) == 4  # one block of its end will do


def test_a_damaged_header_ends_an_archive(read):
    data = bytearray(packed(("1.jpg", b"a"), ("2.jpg", b"b"), ("3.jpg", b"c")))
    data[2048 + 5] ^= 1  # in the name of the third
    *complete, last = read(bytes(data))
    assert flat(complete) == [("1", b"a")]
    assert last.problem == "the archive ends early (no header at byte 2,048)"


def test_archives_one_behind_another_are_one(read):
    assert [s.key for s in read(packed(("1.jpg", b"a")) + packed(("2.jpg", b"b")))] == ["1", "2"]
    assert [s.key for s in read(packed(("1.jpg", b"a")) + b"something else")] == ["1"]
    assert read(packed()) == []


@pytest.mark.parametrize("data", [b"", b"<html>Not found</html>", b"\xff" * 2000])
def test_what_is_no_archive_is_named(read, data):
    (sample,) = read(data)
    assert sample.key == "shard.tar" and sample.problem.startswith("no tar archive (")


def test_a_packed_archive_is_read_as_far_as_it_goes(read):
    whole = packed(*((f"{n}.jpg", str(n).encode() * 3000) for n in range(50)))
    data = gzip.compress(whole)
    assert len(read(data)) == 50
    *complete, last = read(data[:-60])
    assert 0 < len(complete) < 50 and last.problem.startswith("the archive ends early (")
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF
    assert read(bytes(damaged))[-1].problem.startswith("the archive ends early (")


def test_a_bomb_does_not_go_off(read, monkeypatch):
    monkeypatch.setattr(tar_members, "_SPARE", 1 << 20)
    found = read(gzip.compress(packed(("1.jpg", b"a"), ("2.bin", bytes(40 << 20)))))
    reason = "the archive ends early (2.bin: it unpacks to more than 200 times its size)"
    assert flat(found) == [("shard.tar", reason)]


def test_memory_is_that_of_one_sample(read, tmp_path):
    path = tmp_path / "large.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(20):
            add(archive, f"{number}.jpg", bytes(1 << 20))
    tracemalloc.start()
    assert sum(len(sample.image) for sample in samples(str(path), TEXTS)) == 20 << 20
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_folders_and_patterns_stand_for_many_files(tmp_path):
    names = ["b/shard-00009.tar", "b/shard-00010.tar", "a/val.tar.gz", "b/sizes.json", "c.TAR"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = tar_files([str(tmp_path)])
    assert found == [str(tmp_path / names[i]) for i in (2, 0, 1, 4)]
    assert tar_files([f"{tmp_path}/b/shard-{{00009..00010}}.tar", found[2]]) == found[1:3]
    missing = re.escape(f"{tmp_path}/b/shard-00011.tar: there is no such file")
    with pytest.raises(UsageError, match=missing):
        tar_files([f"{tmp_path}/b/shard-{{00009..00011}}.tar"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no tar lies in this folder"):
        tar_files([str(tmp_path / "empty")])


def test_a_file_that_has_gone_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="gone.tar: cannot be read"):
        list(samples(str(tmp_path / "gone.tar"), TEXTS))
