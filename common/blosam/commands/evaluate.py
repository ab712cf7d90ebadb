"""``blosam evaluate``: measure a trained bundle on images that trained nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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
    confidence: Annotated[
        str, typer.Option(help="Compare this confidence with the Dice: auto, views, iou or none.")
    ] = "auto",
    device: Device = "auto",
) -> None:
    """Dice, HD95 and surface Dice per image, at the original resolution; writes metrics.csv and summary.json.

    Also measures whether the confidence that `blosam predict` can give tells good masks from bad ones, and what each
    threshold would have caught (calibration.csv, .json and .png): look there before choosing --min-confidence.

    Example: blosam evaluate chest_images --bundle bundles/blosam_lung --shots 4
    """
    from blosam.bundle import Bundle
    from blosam.inference.confidence import SOURCES

    if confidence not in SOURCES:
        raise typer.BadParameter(f"{confidence}. Choose among {', '.join(SOURCES)}.", param_hint="--confidence")
    target = Bundle(bundle)
    target.require_weights()
    folder = (out or target.root / "results").resolve()
    flow = target.run(
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
    _calibrate(flow, target.root, folder, confidence, device)


def _calibrate(flow: Any, bundle: Path, folder: Path, confidence: str, device: str) -> None:
    """Confidence against Dice for the images that were just measured."""
    from blosam.atomicio import atomic_write
    from blosam.commands.predict import choose_device
    from blosam.evaluation.calibration import calibrate, table_lines
    from blosam.evaluation.plots import calibration_png
    from blosam.predictor import Predictor

    predictor = Predictor(bundle, device=choose_device(device), confidence=confidence)
    if predictor.judge is None:
        return
    paths = [str(pair["image"]) for pair in flow.parser.get_parsed_content("validate#dataset").data]
    rows = flow.parser.get_parsed_content("validate#evaluator").state.table["rows"]
    found = calibrate(predictor, paths, rows)
    found.write(folder)
    with atomic_write(folder / "calibration.png") as file:
        file.write(calibration_png(found))
    typer.echo("\n".join(table_lines(found)))
