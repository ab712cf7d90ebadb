"""Train every bundle on drawn phantoms, so that each command can be tried without any image of one's own.

    python tools/make_models.py [NAME ...]      e.g. lung; default: all bundles

Writes the git-ignored ``models/model.pt``, ``models/adapter.safetensors`` and ``models/model.ts``. Seeded; under a
minute a bundle on 2 CPU cores. Phantoms are drawings: such weights show that everything works, not how well it
works on patients.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

from blosam.bundle import Bundle
from blosam.commands.export import export
from blosam.data.phantoms.write import write_dataset
from blosam.errors import BlosamError

ROOT = Path(__file__).resolve().parents[1]
TASKS = ROOT / "bundles" / "_tasks"
IMAGES, EPOCHS = 4, 70


def make(name: str, root: Path) -> None:
    """Train and export one bundle on phantoms of its kind."""
    started = time.perf_counter()
    kind = json.loads((TASKS / f"{name}.json").read_text())["phantom"]
    bundle = Bundle(root)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(kind, folder, IMAGES, seed=1, size=512, image_format="png")
        bundle.run(
            "training",
            dataset_dir=folder,
            output_dir=str(Path(folder) / "results"),
            num_views=16,
            **{"train#trainer#max_epochs": EPOCHS},
        )
    export(bundle=root, format="torchscript", out=None)
    print(f"{name}: trained on {IMAGES} phantoms in {time.perf_counter() - started:.0f} s")


def main() -> int:
    """Command line."""
    known = sorted(path.stem for path in TASKS.glob("*.json") if "phantom" in json.loads(path.read_text()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=known, help=f"bundles: {', '.join(known)}")
    names = parser.parse_args().names
    logging.basicConfig(level=logging.WARNING)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: unknown bundle {', '.join(unknown)}. Choose among {', '.join(known)}.", file=sys.stderr)
        return 2
    try:
        for name in names:
            make(name, ROOT / "bundles" / f"blosam_{name}")
    except BlosamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
