"""Datasets of many small shards, faster than by a conversion."""

import io
from collections.abc import Sequence
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from bioclip2_jax.data.records import make_record
from bioclip2_jax.prepare import settle, shards
from bioclip2_jax.text.taxonomy import Taxon


def sharded_data(folder: Path, lengths: Sequence[int]) -> Path:
    """A dataset of one split, "train", with so many records in each shard; keys count them."""
    folder.mkdir(parents=True)
    own = [
        settle.Shard(split="train", number=n, start=(0, 0), stop=settle.END, records=length)
        for n, length in enumerate(lengths)
    ]
    number = 0
    for shard in own:
        path = folder / shards.file_name("many", shard, len(own))
        writer = ArrayRecordWriter(str(path), shards.OPTIONS)
        for _ in range(shard.records):
            picture = io.BytesIO()
            Image.new("RGB", (32, 32), (number % 256, number // 256, 0)).save(picture, "PNG")
            record = make_record(key=str(number), image=picture.getvalue(), taxon=Taxon("Animalia"))
            writer.write(shards.serialised(record, ()))
            number += 1
        writer.close()
    shards.write_metadata(folder, own, [], description="", licence="")
    return folder
