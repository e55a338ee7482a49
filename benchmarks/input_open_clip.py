"""open_clip's training loader; the half of `benchmarks/input_pipeline.py` that runs torch."""

import contextlib
import functools
import inspect
import json
import signal
import sys
import types
from pathlib import Path

with contextlib.suppress(ImportError):
    import vision_operators  # noqa: F401  (torchvision's wheel beside a CPU build of torch)

import open_clip
import torch
from open_clip_train import data

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(job: dict) -> None:
    """Runs it, and says when it is warm and when `count` more images are there."""
    torch.set_num_threads(1)
    if "eof_value" in inspect.signature(data.tar_file_expander).parameters:
        # webdataset marks a tar's end since 1.0, which open_clip's grouping does not understand.
        data.tar_file_expander = functools.partial(data.tar_file_expander, eof_value=None)
    settings = types.SimpleNamespace(
        train_data="::".join(str(path) for path in sorted(Path(job["tars"]).glob("*.tar"))),
        train_num_samples=10**7,
        train_data_upsampling_factors=None,
        dataset_resampled=True,
        val_data=None,
        val_num_samples=None,
        batch_size=job["batch"],
        workers=job["workers"],
        distributed=False,
        world_size=1,
        rank=0,
        seed=0,
    )
    transform = open_clip.image_transform(job["view"], is_train=True, mean=_MEAN, std=_STD)
    tokenizer = open_clip.get_tokenizer("ViT-L-14")
    loader = data.get_wds_dataset(settings, transform, is_train=True, tokenizer=tokenizer)
    batches = iter(loader.dataloader)
    for part in (job["warm"], job["count"]):
        for _ in range(part // job["batch"]):
            pixels, _ = next(batches)
            assert pixels.shape == (job["batch"], 3, job["view"], job["view"])
        print("now", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
