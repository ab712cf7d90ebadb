"""Lets segment_anything be imported beside a CPU-only PyTorch.

PyPI's torchvision is built against CUDA PyTorch; on a CPU-only PyTorch its compiled operators do not load and
importing it fails with "operator torchvision::nms does not exist", because it registers fake kernels for two
operators nobody declared. Declaring the two schemas is enough: none of them is ever called here.
"""

from __future__ import annotations

import importlib.util

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library | None = None


def declare_torchvision_ops() -> None:
    """Declare torchvision's ``nms`` and ``qnms`` when its compiled operators cannot load; otherwise do nothing."""
    global _library
    if _library is not None or importlib.util.find_spec("torchvision") is None:
        return
    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if not missing or _torchvision_imports():
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        if not hasattr(torch.ops.torchvision, name):
            _library.define(_SCHEMAS[name])


def _torchvision_imports() -> bool:
    """Whether importing torchvision works as it is (its own operators are then loaded and declared)."""
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, OSError, ImportError):
        return False
    return True
