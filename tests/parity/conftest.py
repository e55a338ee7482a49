"""The comparisons with PyTorch need torch and open_clip; without them they are skipped."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _declare_vision_operators(torch) -> None:
    """Lets torchvision import beside a CPU build of torch.

    Its Python code refers to operators that only a matching binary registers. None is called by
    the models compared here, so declaring their signatures is enough.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
        " SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor",
        "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
        " SymInt pooled_width) -> (Tensor, Tensor)",
        "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
        " SymInt pooled_width, int sampling_ratio) -> (Tensor, Tensor)",
        "ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
        " SymInt pooled_width) -> (Tensor, Tensor)",
        "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias,"
        " SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h,"
        " SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor",
    ):
        try:
            library.define(schema)
        except RuntimeError:  # a working torchvision has it already
            return
    globals()["_kept_alive"] = library


@pytest.fixture(scope="session")
def open_clip():
    torch = pytest.importorskip("torch", reason="the comparison needs torch")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        import sys

        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        _declare_vision_operators(torch)
    return pytest.importorskip("open_clip", reason="the comparison needs open_clip_torch")
