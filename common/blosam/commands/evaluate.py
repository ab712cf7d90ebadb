"""``blosam evaluate``: measure a trained bundle on images that trained nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blosam.commands.train import BundleOption, Data, Device, device_override


def evaluate(
    data: Data,
    bundle: BundleOption,
    shots: Annotated[
        int, typer.Option("--shots", "-k", help="As in training, so that the same images are left out.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="As in training.")] = 0,
    subset: Annotated[str, typer.Option(help="training, validation, test or all.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Where the tables go; default BUNDLE/results.")] = None,
    device: Device = "auto",
) -> None:
    """Dice, HD95 and surface Dice per image, at the original resolution; writes metrics.csv and summary.json.

    Example: blosam evaluate chest_images --bundle bundles/blosam_lung --shots 4
    """
    from blosam.bundle import Bundle

    target = Bundle(bundle)
    target.require_weights()
    folder = (out or target.root / "results").resolve()
    target.run(
        "evaluating",
        dataset_dir=str(data.resolve()),
        output_dir=str(folder),
        num_shots=shots,
        split_seed=seed,
        subset=subset,
        **device_override(device),
    )
    summary = json.loads((folder / "summary.json").read_text())
    typer.echo(json.dumps(summary, indent=2))
    typer.echo(f"per image: {folder / 'metrics.csv'}")
