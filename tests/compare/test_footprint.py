"""Memory of a training and time of an image: against allocations and a slow network made here."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from blosam.compare import footprint
from blosam.compare.footprint import PeakMemory, inference_time
from blosam.compare.measure import segmenting_transforms
from blosam.data.phantoms.write import write_dataset


def touched(mib: int) -> np.ndarray:
    """So many MiB, all of them really in memory."""
    return np.ones(mib * 2**20, np.uint8)


def test_peak_is_of_the_block_alone_and_includes_what_is_freed_in_it():
    earlier = touched(200)
    del earlier
    with PeakMemory("cpu") as small:
        block = touched(20)
        del block
    with PeakMemory("cpu") as large:
        block = touched(150)
        del block
    # The system counts pages in small lots, hence not to the MiB.
    assert small.record()["kind"] == "resident set of the process"
    assert 18 <= small.record()["peak_mib"] - small.record()["before_mib"] < 60
    assert 148 <= large.record()["peak_mib"] - large.record()["before_mib"] < 190


def test_where_the_mark_cannot_be_set_back_the_peak_says_that_it_is_of_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr(footprint, "_RESET", tmp_path)  # a folder cannot be written to
    with PeakMemory("cpu") as memory:
        block = touched(1)
        del block
    record = memory.record()
    assert record["kind"].endswith("since it was started")
    assert record["peak_mib"] >= record["before_mib"] > 1


class Slow(nn.Module):
    """Takes 20 ms, the first image 300, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image):
        time.sleep(0.02 if self.shapes else 0.3)
        self.shapes.append(tuple(image.shape))
        return torch.cat([image[:, :1], 1 - image[:, :1]], dim=1)


def test_the_first_image_warms_up_and_the_median_counts(tmp_path):
    write_dataset("chest", tmp_path, 3, size=48)
    pairs = [{"image": str(path), "label": "not needed"} for path in sorted((tmp_path / "images").iterdir())]
    network = Slow()
    found = inference_time(network, pairs, 32, "cpu")
    assert network.shapes == [(1, 3, 32, 32)] * 4 and found["images"] == 3
    assert 20 <= found["network_ms"] < 200 and found["network_ms"] < found["total_ms"]


def test_a_segmented_image_is_on_the_grid_of_its_file(tmp_path: Path):
    write_dataset("chest", tmp_path, 1, size=48)
    path = next((tmp_path / "images").iterdir())
    before, after = segmenting_transforms(32)
    item = before({"image": str(path)})
    item["pred"] = item["image"][:2].clone()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="transform info")
        mask = after(item)["pred"]
    assert mask.shape[0] == 1 and max(mask.shape) == 48
