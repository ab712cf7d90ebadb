"""Segmenting and training a bundle with the classes that MONAI Label's server runs, with the Python of .venv-label.

    train_there.py BUNDLE IMAGES MASKS OUT     OUT: a .json with the method of the weights; masks and weights beside it

Three pairs of IMAGES and MASKS are the submitted labels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from blosam.bundle import Bundle
from blosam.label.tasks import SegmentationTask, TrainingTask
from blosam.weightsio import read_facts


class Submitted:
    """The part of MONAI Label's datastore that a training asks."""

    def __init__(self, images: Path, masks: Path) -> None:
        names = sorted(path.name for path in images.iterdir())[:3]
        self.pairs = [{"image": str(images / name), "label": str(masks / name)} for name in names]

    def datalist(self) -> list[dict[str, str]]:
        return [dict(pair) for pair in self.pairs]


bundle, images, masks, out = Bundle(sys.argv[1]), *map(Path, sys.argv[2:])
submitted, found = Submitted(images, masks), {}
requests = {
    "before": None,
    "continued": {"pretrained": True},
    "anew": {"pretrained": False},
}
for name, request in requests.items():
    if request is not None:  # the server, too, makes a task anew for every training
        training = TrainingTask(bundle, {})
        training.check(submitted)
        training(request | {"model": "lung", "max_epochs": 2, "device": "cpu", "val_split": 0}, submitted)
    found[name] = read_facts(bundle.weights)["method"]
    file, _ = SegmentationTask(bundle)({"image": submitted.pairs[0]["image"], "device": "cpu"})
    np.save(out.with_name(f"{name}.npy"), np.asarray(Image.open(file)))
    out.with_name(f"{name}.pt").write_bytes(bundle.weights.read_bytes())
out.write_text(json.dumps(found))
