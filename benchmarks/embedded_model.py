"""The embedded model against a U-Net and the published method: 2, 4 and 8 images, 3 seeds, phantoms and real images.

A thin layer over ``blosam compare``: it draws the phantoms, finds the real folders, and puts the tables of all data
sets into one. Runs that are finished are not repeated, so it can be stopped and started again; the results are made
to be committed. From the top of the repository:

    python benchmarks/embedded_model.py                     # everything, about 1 hour a data set
    python benchmarks/embedded_model.py --only phantoms_chest --shots 4 --seeds 1
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from blosam.atomicio import atomic_write
from blosam.compare import approaches
from blosam.compare.options import Options
from blosam.compare.results import markdown, read_runs
from blosam.compare.runner import compare
from blosam.data.phantoms.write import write_dataset
from blosam.errors import BlosamError

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("recommended", "blo-sam", "joint", "unet")
PHANTOMS, PHANTOM_SIDE = 48, 512  # images of each kind (8 train at most), pixels of the longest side


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Args:
        name: of its results; a folder of this name must hold the real images.
        label: the class in its masks.
        views_kind: ``greyscale`` or ``rgb``.
        phantom: kind of phantom to draw; empty for real images.
    """

    name: str
    label: str
    views_kind: str = "greyscale"
    phantom: str = ""


DATA_SETS = (
    DataSet("phantoms_chest", "lung", phantom="chest"),
    DataSet("phantoms_dental", "tooth", phantom="dental"),
    DataSet("phantoms_colonoscopy", "polyp", "rgb", phantom="colonoscopy"),
    DataSet("lung", "lung"),
    DataSet("incisors", "incisor"),
    DataSet("polyp", "polyp", "rgb"),
)


def main(words: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code, 1 when a run failed."""
    options = _arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("blosam").setLevel(logging.INFO)
    for name in ("ignite", "monai"):
        logging.getLogger(name).setLevel(logging.ERROR)
    failures: list[str] = []
    for data_set in DATA_SETS:
        if options.only and data_set.name not in options.only:
            continue
        if not data_set.phantom and not (options.real_data / data_set.name / "images").is_dir():
            print(f"{data_set.name}: left out, {options.real_data / data_set.name} has no images/")
            continue
        failures += [f"{data_set.name} {failure}" for failure in _run(data_set, options)]
    path = _write_summary(options.out)
    print(path.read_text(encoding="utf-8") if path else "no run is finished")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    real = Path(os.environ.get("BLOSAM_REAL_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--only", nargs="*", choices=[data_set.name for data_set in DATA_SETS], help="data sets")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=approaches.names())
    parser.add_argument("--shots", nargs="*", type=int, default=(2, 4, 8))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=45.0, help="seconds of training per run")
    parser.add_argument("--max-steps", type=int, default=Options.max_steps)
    parser.add_argument("--views", type=int, default=Options.views)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--phantoms", type=int, default=PHANTOMS, help="drawn images of each kind")
    parser.add_argument("--base-weights", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of a run")
    parser.add_argument("--real-data", type=Path, default=real, help="folder with lung/, incisors/, polyp/")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "embedded_model")
    return parser.parse_args(words)


def _run(data_set: DataSet, options: argparse.Namespace) -> list[str]:
    """Compare on one data set; returns the failed runs."""
    with tempfile.TemporaryDirectory() as drawn:
        folder = options.real_data / data_set.name
        if data_set.phantom:
            folder = Path(drawn) / data_set.name
            write_dataset(data_set.phantom, folder, options.phantoms, size=PHANTOM_SIDE)
        settings = Options(
            data=folder,
            out=options.out / data_set.name,
            methods=tuple(options.methods),
            shots=tuple(options.shots),
            seeds=options.seeds,
            base_weights=options.base_weights,
            budget=options.budget,
            max_steps=options.max_steps,
            views=options.views,
            views_kind=data_set.views_kind,
            image_size=options.image_size,
            labels={data_set.label: 1},
            device=options.device,
            threads=options.threads,
        )
        try:
            return compare(settings, options.workers)
        except BlosamError as error:
            return [str(error)]


def _write_summary(out: Path) -> Path | None:
    """One Markdown file with the table of every data set that has finished runs."""
    found = [(data_set.name, read_runs(out / data_set.name)) for data_set in DATA_SETS]
    parts = [f"## {name}\n\n{markdown(runs)}" for name, runs in found if runs]
    if not parts:
        return None
    path = out / "summary.md"
    with atomic_write(path, "w") as file:
        file.write("# The embedded model, measured\n\n" + "\n".join(parts))
    return path


if __name__ == "__main__":
    sys.exit(main())
