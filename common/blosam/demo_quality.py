"""The demo's look at the confidence: held-out phantoms as they are, and again with something wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from blosam.data.phantoms.shifts import SHIFTS, shifted
from blosam.evaluation.calibration import Calibration
from blosam.evaluation.metrics import image_metrics
from blosam.predictor import Predictor

NOTE = (
    "Every image is measured twice: as drawn, and with something wrong (exposure, occlusion, rotation, blur or noise), "
    "because without failures nothing can be said about a sign of failure."
)


def phantom_calibration(bundle: Path, pairs: Sequence[dict[str, str]], scratch: Path) -> Calibration:
    """Confidence and Dice of phantoms with and without a domain shift.

    Args:
        bundle: a trained bundle of one class.
        pairs: image and label files that trained nothing.
        scratch: folder for the changed images; made when missing.
    """
    predictor = Predictor(bundle, confidence="auto")
    scratch.mkdir(parents=True, exist_ok=True)
    names, sure, dice = [], [], []
    for index, pair in enumerate(pairs):
        image = np.asarray(Image.open(pair["image"]).convert("L"), np.float32) / 255
        mask = (np.asarray(Image.open(pair["label"]).convert("L")) > 127).astype(np.uint8)
        shift, strength = SHIFTS[index % len(SHIFTS)], 0.4 + 0.6 * (index * 7 % 10) / 9
        for name, (pixels, truth) in {
            "as drawn": (image, mask),
            shift: shifted(image, mask, shift, index, strength),
        }.items():
            path = scratch / f"{index:03d}_{name.replace(' ', '_')}.png"
            Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(path)
            found = predictor.predict(path).mask
            names.append(path.stem)
            sure.append(predictor.judge(predictor.prepare(predictor.load({"image": str(path)}))["image"]).value)
            dice.append(image_metrics(found, truth, [1], None)[0]["dice"])
    return Calibration(names, sure, dice, predictor.judge.source, NOTE)
