"""``blosam demo``: the whole way from drawn chest radiographs to a report, in about two minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blosam.errors import BlosamError


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the demo writes.")] = Path(
        "runs/demo"
    ),
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="The lung bundle.")] = Path("bundles/blosam_lung"),
    seed: Annotated[int, typer.Option(min=0, help="Draws the phantoms and the split.")] = 0,
    shots: Annotated[int, typer.Option(min=2, help="Labelled images to train on.")] = 4,
    held_out: Annotated[int, typer.Option(min=1, help="Other images to measure on.")] = 20,
    minimum: Annotated[float, typer.Option(help="Fail below this held-out Dice.")] = 0.85,
) -> None:
    """Draw phantom chest X-rays, train on 4, measure on 20 others, export, segment a DICOM file, write a report.

    Nothing is downloaded and no patient image is used. Open OUT/report.html afterwards.
    """
    from blosam.demo import run_demo

    result = run_demo(bundle, out, seed=seed, shots=shots, held_out=held_out)
    typer.echo("\n".join(result.summary))
    if result.dice < minimum:
        raise BlosamError(
            f"{out}: held-out Dice {result.dice:.3f} is below {minimum}. This should not happen on an unchanged copy: "
            "run `make test`, and try --seed 1."
        )
