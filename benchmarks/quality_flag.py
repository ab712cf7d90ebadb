"""How well a confidence finds failures: views against SAM's IoU head, on phantoms with and without domain shifts.

    python benchmarks/quality_flag.py --bundle DIR [--kind chest] [--images 60] [--out FILE.json]

The bundle must have been trained on phantoms with ``--iou_loss_weight`` above 0 for the second row. Prints one line
per source (rank correlation with Dice, ranking of failures, seconds an image) and the table of thresholds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blosam.data.phantoms import draw
from blosam.data.phantoms.shifts import SHIFTS, shifted
from blosam.data.phantoms.write import FORMATS
from blosam.evaluation.calibration import Calibration, failure_ranking, table_lines
from blosam.inference.confidence import by_iou_head, by_views, views_for
from blosam.predictor import Predictor

SIDE = 512
FIRST_SEED = 50_000  # far from every seed that trains


def cases(kind: str, count: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image and mask: half as drawn with full variety, half with one shift each."""
    for index in range(count):
        variety = 0.5 if index % 2 else 1.0
        phantom = draw(kind, FIRST_SEED + index, size=SIDE, aspect=FORMATS[kind][0], variety=variety)
        if index % 2 == 0:
            yield f"{index:03d} as drawn", phantom.image, phantom.mask
        else:
            shift, strength = SHIFTS[index // 2 % len(SHIFTS)], 0.4 + 0.6 * ((index * 7) % 10) / 9
            yield f"{index:03d} {shift}", *shifted(phantom.image, phantom.mask, shift, index, strength)


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Of the foreground."""
    total = (mask > 0).sum() + (truth > 0).sum()
    return float(2 * ((mask > 0) & (truth > 0)).sum() / total) if total else 1.0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--kind", default="chest", choices=sorted(FORMATS))
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--out", type=Path, help="write every number there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    predictor = Predictor(options.bundle)
    views = views_for(predictor.metadata)
    names, scores = [], []
    values: dict[str, list[float]] = {"views": [], "iou": []}
    seconds = dict.fromkeys(["predict", *values], 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for name, image, mask in cases(options.kind, options.images):
            path = Path(folder) / "image.png"
            Image.fromarray(np.round(image * 255).astype(np.uint8)).save(path)
            start = time.perf_counter()
            prediction = predictor.predict(path)
            seconds["predict"] += time.perf_counter() - start
            item = predictor.prepare(predictor.load({"image": str(path)}))
            for source, judge in (
                ("views", lambda item: by_views(predictor.network, item, views)),
                ("iou", lambda item: by_iou_head(predictor.network, item)),
            ):
                start = time.perf_counter()
                values[source].append(judge(item["image"]))
                seconds[source] += time.perf_counter() - start
            names.append(name)
            scores.append(dice(prediction.mask, mask))
    results = [Calibration(names, found, scores, source) for source, found in values.items()]
    for result in results:
        print("\n".join(table_lines(result)))
        rank = failure_ranking(result.confidence, result.dice)
        print(f"ranking of failures {rank if rank is None else round(rank, 3)}")
    shown = {key: round(value / len(names), 3) for key, value in seconds.items()}
    print("seconds an image:", shown)
    if options.out:
        content = {"kind": options.kind, "seconds": shown, "names": names, "dice": scores, **values}
        options.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
