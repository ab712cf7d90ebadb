"""Small data sets on disk and in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import Dataset
from PIL import Image


@pytest.fixture
def make_folder(tmp_path) -> Callable[..., Path]:
    """Function (names, patients=None) that writes ``images/``, ``masks/`` and perhaps ``index.csv``."""

    def make(names: list[str], patients: list[str] | None = None) -> Path:
        folder = tmp_path / "data"
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(0)
        for name in names:
            picture = generator.integers(0, 255, (20, 24)).astype(np.uint8)
            mask = np.zeros((20, 24), np.uint8)
            mask[3:9, 5:20] = 255
            Image.fromarray(picture).save(folder / "images" / f"{name}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
        if patients is not None:
            rows = [f"{name},{patient}" for name, patient in zip(names, patients, strict=True)]
            (folder / "index.csv").write_text("\n".join(["name,patient", *rows]) + "\n")
        return folder

    return make


class Recorder(torch.nn.Module):
    """Stands in for a network: its features are the means of 4 x 4 blocks, and it counts what it encodes."""

    trainable = "decoder"
    out_channels = 2
    logits_size = 16

    def __init__(self, out_channels: int = 2) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.out_channels = out_channels
        self.encoded = 0
        self.modes: set[bool] = set()
        self.gradients: set[bool] = set()

    def frozen_features(self, image: torch.Tensor) -> torch.Tensor:
        """B x 3 x S x S to B x 3 x S/4 x S/4."""
        self.encoded += len(image)
        self.modes.add(self.training)
        self.gradients.add(torch.is_grad_enabled())
        return torch.nn.functional.avg_pool2d(image, 4) + self.anchor


@pytest.fixture
def recorder() -> type[Recorder]:
    """The stand-in network class."""
    return Recorder


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """Function (count, size=64) for items in memory: a bright rectangle, which is also the label."""

    def make(count: int, size: int = 64) -> Dataset:
        items = []
        for number in range(count):
            label = torch.zeros(1, size, size, dtype=torch.uint8)
            top = 4 + 3 * number % (size // 3)
            label[:, top : top + size // 3, size // 4 : size // 2] = 1
            items.append({"image": (0.2 + 0.6 * label.float()).repeat(3, 1, 1), "label": label})
        return Dataset(items)

    return make
