"""``blosam predict``: segment images with a trained bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from blosam.atomicio import atomic_write
from blosam.commands.train import Device
from blosam.errors import BlosamError

FORMATS = ("png", "nifti", "overlay")


def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Image files (PNG, JPEG, NIfTI, DICOM) or folders of them.")],
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="A trained bundle, or an exported model.ts.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the masks.")],
    format: Annotated[str, typer.Option("--format", "-f", help="Any of png, nifti, overlay; comma-separated.")] = "png",
    device: Device = "auto",
    force: Annotated[bool, typer.Option(help="Write over masks that exist.")] = False,
) -> None:
    """Segment images; masks come back on the image's own grid. No click, box or text is needed.

    Exit code 0: all done; 1: some inputs failed (OUT/run.json says which and why); 2: wrong usage.

    Example: blosam predict new_images --bundle bundles/blosam_lung --out masks --format png,overlay
    """
    from tqdm import tqdm

    from blosam.data import list_images
    from blosam.predictor import Predictor
    from blosam.writers import make_folder, output_names, write_prediction

    formats = parse_formats(format)
    paths = [path for entry in inputs for path in list_images(entry)]
    names = output_names(paths)
    predictor = Predictor(bundle, device=choose_device(device))
    records, failed = [], 0
    make_folder(out)
    for path, name in tqdm(
        list(zip(paths, names, strict=True)), desc="segmenting", unit="image", disable=len(paths) < 2
    ):
        record: dict[str, object] = {"input": name}
        try:
            prediction = predictor.predict(path)
            files = write_prediction(prediction, name, out, formats, predictor.labels, force=force, keep=paths)
            record |= {"status": "done", "files": files, **describe(prediction, predictor.labels)}
        except BlosamError as error:
            failed += 1
            # Paths can hold a patient's name: the terminal sees them, the record does not.
            tqdm.write(f"error: {error}", file=sys.stderr)  # on a line of its own, above the progress bar
            record |= {"status": "failed", "reason": str(error).replace(str(path), name)}
        records.append(record)
    with atomic_write(out / "run.json", "w") as file:
        file.write(json.dumps({"bundle": bundle.resolve().name, "images": records}, indent=2) + "\n")
    typer.echo(f"{len(paths) - failed} of {len(paths)} images segmented; masks in {out}")
    if failed:
        raise typer.Exit(1)


def parse_formats(text: str) -> list[str]:
    """The formats in a comma-separated list.

    Raises:
        typer.BadParameter: naming the unknown one and the choices.
    """
    formats = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'empty'}. Choose among {', '.join(FORMATS)}.", param_hint="--format"
        )
    return formats


def choose_device(device: str) -> str:
    """A checked device name; ``auto`` becomes ``cuda`` when there is a GPU."""
    import torch

    from blosam.commands.train import device_override

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device_override(device)
    return device


def describe(prediction, labels: dict[str, int]) -> dict[str, object]:
    """Size, seconds and, per class, the area in pixels and (where spacing is known) mm2."""
    areas = {}
    for name, value in labels.items():
        pixels = int((prediction.mask == value).sum())
        areas[name] = {"pixels": pixels}
        if prediction.spacing is not None:
            areas[name]["mm2"] = round(pixels * prediction.spacing[0] * prediction.spacing[1], 2)
    return {"shape": list(prediction.mask.shape), "seconds": round(prediction.seconds, 3), "areas": areas}
