#!/usr/bin/env python3
"""Reproduce the medical table of the BLO-SAM paper: `make reproduce`. See docs/reproduce.md."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from blosam import reproduce
from blosam.errors import BlosamError

_AGAIN = 'Then run it again. Folders elsewhere: make reproduce REPRODUCE="--data DIR", see docs/reproduce.md.'


def main(arguments: list[str] | None = None) -> int:
    """Check the folders, run, print the table; 0 = done, 1 = runs failed, 2 = something has to be put in place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("BLOSAM_PUBLIC_DATA", "public_data")
    parser.add_argument("--data", type=Path, default=root, help="folder with teeth/, kvasir/ and lung/ (%(default)s)")
    for public in reproduce.SETS:
        parser.add_argument(f"--{public.name}", type=Path, help=f"folder of {public.page}")
    parser.add_argument("--out", type=Path, default="runs/reproduce", help="results; continued when it has some")
    parser.add_argument("--encoder", default="vit_b")
    parser.add_argument("--base-weights", default="auto", help="auto, or the path of SAM's checkpoint")
    parser.add_argument("--backbone-weights", default="", help="ImageNet ResNet-50 for deeplabv3, hsnet and ssp")
    parser.add_argument("--methods", default=",".join(reproduce.METHODS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget", type=float, default=3600.0, help="seconds of a run at most")
    parser.add_argument("--max-steps", type=int, default=400, help="updates of a run at most")
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=reproduce.SAMPLINGS, help="samplings")
    parser.add_argument("--any-count", action="store_true", help=argparse.SUPPRESS)  # small folders of the tests
    given = parser.parse_args(arguments)
    folders = reproduce.default_folders(given.data, [getattr(given, public.name) for public in reproduce.SETS])
    problems = reproduce.missing(folders, given.encoder, given.base_weights, not given.any_count)
    if problems:
        print("Before the table can be made, put in place:", *problems, _AGAIN, sep="\n\n", file=sys.stderr)
        return 2
    names = ("encoder", "base_weights", "backbone_weights", "device", "budget", "max_steps", "views", "image_size",
             "seeds")  # fmt: skip
    options = {name: getattr(given, name) for name in names}
    try:
        failures = reproduce.run(
            folders, given.out, {**options, "methods": tuple(given.methods.split(","))}, not given.any_count
        )
    except BlosamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((given.out / "table.md").read_text(encoding="utf-8"))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
