"""Images per second that the phantom generators draw on one core.

    OMP_NUM_THREADS=1 python benchmarks/phantom_speed.py [--size 256] [--rounds 5] [--output FILE]

Every round draws the same seeds; the processor time of the fastest round counts, because other programs on the
machine only ever make a round slower.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import scipy

from blosam.data.phantoms import KINDS, draw

RESULTS = Path(__file__).resolve().parent / "results" / "phantom_speed.json"
TARGET = 30.0  # chest images a second at 256 pixels


def images_per_second(kind: str, size: int, count: int, rounds: int) -> float:
    """Draw ``count`` phantoms ``rounds`` times; images per second of processor time in the fastest round."""
    draw(kind, 0, size)
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        for seed in range(count):
            draw(kind, seed, size)
        seconds.append(time.process_time() - start)
    return count / min(seconds)


def main() -> None:
    """Measure all kinds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: the figure is for one core")
    speeds = {
        kind: round(images_per_second(kind, arguments.size, arguments.count, arguments.rounds), 1) for kind in KINDS
    }
    result = {
        "command": f"python benchmarks/phantom_speed.py --size {arguments.size} --count {arguments.count} "
        f"--rounds {arguments.rounds}",
        "images_per_second": speeds,
        "target_chest": TARGET,
        "size": arguments.size,
        "threads": 1,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=4) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=4))


if __name__ == "__main__":
    main()
