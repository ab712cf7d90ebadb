"""A few small images and a small SAM with random weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from blosam.networks import build_sam


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Three smooth random images, 3 x 3 x 64 x 64 in [0, 1]."""
    coarse = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    return functional.interpolate(coarse, size=(64, 64), mode="bilinear")


@pytest.fixture(scope="session")
def tiny_sam() -> torch.nn.Module:
    """A 64-pixel SAM with the small encoder and random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return build_sam("tiny", 64).eval()
