"""Capture and restore every global random stream a training run may draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from blosam.processes import world_size


def capture_rng() -> dict[str, Any]:
    """State of Python's, NumPy's, PyTorch's and CUDA's global generators, in types that weights-only loading allows."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = [torch.cuda.get_rng_state(device) for device in _devices()]
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Set the generators back to what :func:`capture_rng` found; CUDA's are left alone if their number differs."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state.get("cuda", ())) == len(_devices()):
        for device, saved in zip(_devices(), state["cuda"], strict=True):
            torch.cuda.set_rng_state(saved, device)


def _devices() -> list[int]:
    """The GPUs this process may draw from: all, or its own if there are more processes, which own the others."""
    return list(range(torch.cuda.device_count())) if world_size() == 1 else [torch.cuda.current_device()]


@contextmanager
def preserved_rng(start: dict[str, Any] | None = None) -> Iterator[None]:
    """Run the body, beginning at ``start`` if given, and leave every global generator as it was before."""
    before = capture_rng()
    try:
        if start is not None:
            restore_rng(start)
        yield
    finally:
        restore_rng(before)
