"""Finished runs made by hand, as the files of a comparison hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest


def make_run(
    method: str, shots: int, seed: int, dice: Mapping[str, float], train: float = 0.95, **more: Any
) -> dict[str, Any]:
    """A record with one class, test Dice by image, and everything the report shows unless ``more`` says otherwise."""
    row = {"class": "lung", "unit": "pixels"}
    rows = [{**row, "split": "train", "image": "taught", "dice": train, "hd95": 1.0, "surface_dice": 0.9}]
    rows += [
        {**row, "split": "test", "image": name, "dice": value, "hd95": 40 * (1 - value), "surface_dice": value**2}
        for name, value in dice.items()
    ]
    points = [[p, int(100 * p), 1.0 - p, 0.2 + 0.7 * p, 0.2 + 0.5 * p] for p in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)]
    return {
        "method": method,
        "shots": shots,
        "seed": seed,
        "shared": {
            "data": "phantoms_chest", "data_digest": "0", "image_size": 64, "views": 2, "views_kind": "greyscale",
            "budget": 45.0, "clock": "processor", "threads": 1, "max_steps": 100, "labels": {"lung": 1},
            "weights": "last",
        },
        "own": {"recipe": method},
        "caveat": "",
        "training_images": ["taught"],
        "d1": [],
        "d2": [],
        "steps": 100,
        "seconds": {"encoding": 1.0, "training": 10.0 + seed, "processor": 11.0, "measuring": 3.0},
        "parameters": {"total": 4_000_000, "trained": 500_000},
        "memory": {"kind": "resident set of the process", "before_mib": 600.0, "peak_mib": 850.0},
        "inference": {"total_ms": 90.0, "network_ms": 70.0, "images": 2},
        "curve": {
            "columns": ["progress", "step", "loss", "train_dice", "held_out_dice"], "held_out": ["a"], "rows": points,
        },
        "machine": {"device": "cpu", "threads": 1},
        "versions": {"blosam": "0.1.0"},
        "rows": rows,
        **more,
    }  # fmt: skip


@pytest.fixture
def run_of() -> Callable[..., dict[str, Any]]:
    """The function that makes a run."""
    return make_run
