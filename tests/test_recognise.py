"""Whatever is handed to the wrong command is answered with the right one."""

import gzip
import io
import json
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tars import add, write_img2dataset, write_treeoflife

from bioclip2_jax.errors import UsageError
from bioclip2_jax.prepare.img2dataset import Img2dataset
from bioclip2_jax.prepare.recognise import kinds_of, refuse_others
from bioclip2_jax.prepare.tree import Tree
from bioclip2_jax.prepare.webdataset import Webdataset


def tar_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            add(archive, name, b"x")
    return buffer.getvalue()


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def inputs(tmp_path):
    """One of everything: name → path."""

    def put(name: str, data: bytes | str = b"") -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    def parquet(name: str, **columns) -> None:
        put(name)
        pq.write_table(pa.table(columns), tmp_path / name)

    write_treeoflife(tmp_path / "tol.tar", [{"uuid": "u", "image": b"p", "genus": "Ursus"}])
    write_img2dataset(tmp_path / "laion.tar", [{"key": "0", "image": b"p", "caption": "a dog"}])
    put("tars/a/shard-0.tar", (tmp_path / "tol.tar").read_bytes())
    put("packed.tar.gz", gzip.compress((tmp_path / "tol.tar").read_bytes()))
    put("about.tar", tar_of("1.jpg"))
    with tarfile.open(tmp_path / "about.tar", "w") as archive:
        add(archive, "1.jpg", b"p")
        add(archive, "1.json", json.dumps({"genus": "Ursus"}).encode())
    put("photos.tar", tar_of("Ursus_arctos/1.jpg", "README"))
    put("laion/00000.tar", (tmp_path / "laion.tar").read_bytes())
    parquet("laion/00000.parquet", url=["http://x"], caption=["a"])
    put("files/00000/1.jpg")
    put("files/00000/1.txt")
    put("files/00000/1.json")
    parquet("hf/train-00000-of-00001.parquet", image=[{"bytes": b"p", "path": "p"}], label=[1])
    parquet("bgr.parquet", uuid=["u"], image=[b"p"])
    parquet("catalog.parquet", uuid=["u"], kingdom=["Animalia"], source_url=["http://x"])
    parquet("urls.parquet", url=["http://x"], caption=["a"])
    put("urls.txt", "https://example.org/1.jpg\nhttps://example.org/2.jpg\n")
    put("urls.csv", "url,caption\nhttps://example.org/1.jpg,a\n")
    put("web.csv", "image,species\nhttps://example.org/1.jpg,Ursus arctos\n")
    put("dwca/meta.xml", "<archive/>")
    put("dwca/occurrence.txt", "id\tassociatedMedia\n1\t1.jpg\n")
    with zipfile.ZipFile(tmp_path / "dwca.zip", "w") as archive:
        archive.writestr("meta.xml", "<archive/>")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("1.jpg", "x")
    put("table/metadata.csv", "filename,species\n1.jpg,Ursus arctos\n")
    put("table/1.jpg")
    put("tree/train/Ursus_arctos/1.jpg")
    put("made/photos/1.0.0/dataset_info.json", "{}")
    put("made/photos/1.0.0/features.json", "{}")
    put("images.h5", b"\x89HDF\r\n\x1a\n")
    put("photo.png", picture())
    put("notes.md", "# Notes\n")
    put("cut.tar", b"\xff" * 600)
    put("empty.tar")
    (tmp_path / "empty").mkdir()
    return tmp_path


KINDS = {
    "tol.tar": "webdataset",
    "tars": "webdataset",
    "packed.tar.gz": "webdataset",
    "about.tar": "webdataset",
    "laion.tar": "img2dataset",
    "laion": "img2dataset",
    "files": "img2dataset files",
    "photos.tar": "tar",
    "hf": "parquet",
    "bgr.parquet": "parquet",
    "catalog.parquet": "catalogue",
    "urls.parquet": "urls",
    "urls.txt": "urls",
    "urls.csv": "urls",
    "web.csv": "urls",
    "dwca": "dwca",
    "dwca/occurrence.txt": "dwca",
    "dwca.zip": "dwca",
    "photos.zip": "archive",
    "table": "folder",
    "table/metadata.csv": "folder",
    "tree": "tree",
    "made/photos/1.0.0": "dataset",
    "made/photos": "dataset",
    "images.h5": "hdf5",
    "photo.png": "picture",
    "notes.md": "",
    "cut.tar": "",
    "empty.tar": "",
    "empty": "",
    "nothing": "",
}


def test_everything_is_known_by_its_content(inputs):
    assert {name: next(iter(kinds_of(inputs / name)), "") for name in KINDS} == KINDS


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("laion", "PATH: this is what img2dataset writes; call bioclip2 prepare img2dataset PATH"),
        ("dwca.zip", "PATH: this is a Darwin Core Archive; call bioclip2 prepare dwca PATH"),
        (
            "table",
            "PATH/metadata.csv: this is a table of pictures;"
            " call bioclip2 prepare folder --metadata PATH/metadata.csv",
        ),
    ],
)
def test_the_answer_is_the_right_command(inputs, name, sentence):
    path = str(inputs / name)
    with pytest.raises(UsageError) as error:
        Webdataset(paths=(path,)).parts(inputs)
    assert str(error.value) == sentence.replace("PATH", path) + " --out DIR"


def test_each_source_refuses_what_is_not_its_own(inputs):
    sources = {"webdataset": Webdataset, "img2dataset": Img2dataset, "tree": Tree}
    for name, kind in KINDS.items():
        for own, source in sources.items():
            if kind and kind != own and (own, name) != ("tree", "table"):
                with pytest.raises(UsageError, match="this is .*; "):
                    source(paths=(str(inputs / name),)).parts(inputs / "empty")


def test_a_folder_may_hold_several_kinds(inputs):
    refuse_others([str(inputs / "table"), str(inputs / "nothing")], "tree")
    assert kinds_of(inputs / "laion") == ["img2dataset", "urls"]
