"""open_clip's train step at one setting; the half of `benchmarks/train_step.py` that runs torch.

Its model, its loss and torch's AdamW, with BioCLIP 2's second visual projection beside them.
Prints one JSON object.
"""

import contextlib
import json
import math
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np

with contextlib.suppress(ImportError):
    import vision_operators  # noqa: F401  (torchvision's wheel beside a CPU build of torch)

import open_clip
import torch
from safetensors.torch import load_file

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Towers(torch.nn.Module):
    """Features of both streams; images pass the trunk together, captions too."""

    def __init__(self, clip: torch.nn.Module, replay: torch.Tensor):
        super().__init__()
        self.projection = torch.nn.Parameter(clip.visual.proj.detach().clone())
        self.replay_projection = torch.nn.Parameter(replay.clone())
        clip.visual.proj = None
        self.clip = clip

    def forward(self, images: torch.Tensor, tokens: torch.Tensor, size: int) -> tuple:
        pooled = self.clip.visual(images)
        image = [pooled[:size] @ self.projection, pooled[size:] @ self.replay_projection]
        normalize = torch.nn.functional.normalize
        text = self.clip.encode_text(tokens, normalize=True)
        return [normalize(part, dim=-1) for part in image], text, self.clip.logit_scale.exp()


def load(folder: Path, model_cfg: dict, checkpointing: bool = False) -> tuple[Towers, str]:
    """The model with the weights in a folder, and where it is: "cuda" or "cpu"."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = load_file(folder / "weights.safetensors")
    replay = weights.pop("visual.continual_proj")
    clip = open_clip.model.CLIP(**model_cfg)
    clip.load_state_dict(weights)
    clip.set_grad_checkpointing(checkpointing)
    return Towers(clip, replay).to(device).train(), device


def inputs(images: np.ndarray, tokens: np.ndarray, device: str) -> tuple:
    """Normalised pictures [pairs, 3, size, size] float32 and tokens [pairs, 77] int64."""
    pixels = torch.from_numpy(images).to(device) / 255
    pixels = (pixels - torch.tensor(_MEAN, device=device)) / torch.tensor(_STD, device=device)
    return pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(tokens).long().to(device)


def loss(towers: torch.nn.Module, pixels: torch.Tensor, tokens: torch.Tensor, size: int):
    """Of both streams, the first `size` pairs and the rest."""
    image, text, scale = towers(pixels, tokens, size)
    criterion = open_clip.ClipLoss()
    found = criterion(image[0], text[:size], scale)
    return found + criterion(image[1], text[size:], scale) if len(pixels) > size else found


def main(job: dict) -> dict:
    """Takes `steps` steps several times and reports the median."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    folder, setting = Path(job["folder"]), job["setting"]
    towers, device = load(folder, job["model_cfg"], setting["checkpointing"])
    size, total = job["batch"], job["batch"] + job["replay"]
    found = np.load(folder / "batch.npz")
    pixels, tokens = inputs(found["images"][:total], found["tokens"][:total], device)

    undecayed = [p for p in towers.parameters() if p.ndim < 2]
    decayed = [p for p in towers.parameters() if p.ndim >= 2]
    groups = [{"params": undecayed, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(
        groups, lr=job["learning_rate"], betas=(0.9, 0.98), eps=1e-6, fused=device == "cuda"
    )
    forward = torch.compile(towers) if setting["compile"] else towers
    half = job["dtype"] == "bfloat16"

    def step() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            value = loss(forward, pixels, tokens, size)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            towers.clip.logit_scale.clamp_(0, math.log(100))
        return value

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    before = time.perf_counter()
    first = step().item()
    compiled = time.perf_counter() - before
    for _ in range(2):
        step()
    times = []
    for _ in range(job["rounds"]):
        wait()
        before = time.perf_counter()
        for _ in range(job["steps"]):
            last = step()
        wait()
        times.append((time.perf_counter() - before) / job["steps"])
    attention = []
    if device == "cuda":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
            step()
            wait()
        names = {event.key for event in trace.key_averages()}
        words = ("flash", "fmha", "sdpa", "attention")
        attention = sorted(n[:80] for n in names if any(word in n.lower() for word in words))
        peak, name = torch.cuda.max_memory_allocated(), torch.cuda.get_device_name()
    else:
        peak, name = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "cpu"
    return {
        "loss": first,
        "last_loss": last.item(),
        "step_seconds": statistics.median(times),
        "peak_gib": peak / 2**30,
        "compile_seconds": compiled,
        "text_length": tokens.shape[1],
        "device": name,
        "attention_kernels": attention,
        "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
