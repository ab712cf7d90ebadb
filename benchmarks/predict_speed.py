"""Images per second of ``blosam predict``: reading ahead in threads and in batches, against one image at a time.

    OMP_NUM_THREADS=1 python benchmarks/predict_speed.py --bundle bundles/blosam_lung [--count 24] [--size 1024]

All variants run in one process on the same drawn DICOM radiographs, after one run that does not count. The last line
is the ratio of the fastest variant to no workers and batches of one.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

import torch

from blosam.data.phantoms.write import write_dataset
from blosam.inference.run import Options
from blosam.inference.session import segment
from blosam.predictor import Predictor

RESULTS = Path(__file__).resolve().parent / "results" / "predict_speed.json"
VARIANTS = ((0, 1), (2, 1), (0, 4), (2, 4))


def main() -> None:
    """Measure all variants and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    predictor = Predictor(arguments.bundle, arguments.device)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset("chest", folder, arguments.count, seed=1, size=arguments.size, image_format="dicom")
        segment([folder / "images"], predictor, folder / "warm", Options(keep_uids=True))
        for workers, batch in VARIANTS:
            options = Options(workers=workers, batch=batch, keep_uids=True)
            start = time.perf_counter()
            segment([folder / "images"], predictor, folder / f"{workers}_{batch}", options)
            seconds = time.perf_counter() - start
            rows.append({"workers": workers, "batch": batch, "images_per_second": round(arguments.count / seconds, 2)})
    speeds = [row["images_per_second"] for row in rows]
    result = {
        "command": f"python benchmarks/predict_speed.py --bundle {arguments.bundle} --count {arguments.count} "
        f"--size {arguments.size} --device {arguments.device}",
        "variants": rows,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "ratio": round(max(speeds) / speeds[0], 2),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=4) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=4))
    print(f"ratio {result['ratio']}")


if __name__ == "__main__":
    main()
