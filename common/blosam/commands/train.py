"""``blosam train``: train a bundle on a folder of labelled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blosam import methods
from blosam.errors import BlosamError

METHOD_HELP = f"How it is trained: {', '.join(methods.names())}."
Data = Annotated[Path, typer.Argument(help="Folder with images/ and masks/ paired by name, or with a dataset.json.")]
BundleOption = Annotated[Path, typer.Option("--bundle", "-b", help="The bundle, e.g. bundles/blosam_lung.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU when there is one.")]


def train(
    data: Data,
    bundle: BundleOption,
    shots: Annotated[int, typer.Option("--shots", "-k", help="Train on this many images; 0 = all of them.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Draws the training images, the split and the views.")] = 0,
    method: Annotated[str, typer.Option(help=f"{METHOD_HELP} Empty = the bundle's own.")] = "",
    encoder: Annotated[str, typer.Option(help="tiny, vit_b, vit_l or vit_h; empty = the bundle's own.")] = "",
    base_weights: Annotated[str, typer.Option(help="auto, random, or the path of a checkpoint.")] = "auto",
    views: Annotated[str, typer.Option(help="Augmented views of an image, or auto.")] = "auto",
    epochs: Annotated[int, typer.Option(min=0, help="Passes over D1; 0 = the bundle's own number.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where curves and the split go; default BUNDLE/results.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from an interrupted run.")] = False,
    device: Device = "auto",
) -> None:
    """Train the bundle on your images; writes BUNDLE/models/model.pt.

    Example: blosam train chest_images --bundle bundles/blosam_lung --shots 4
    """
    from blosam.bundle import Bundle

    target = Bundle(bundle)
    overrides: dict[str, object] = {
        "dataset_dir": str(data.resolve()),
        "num_shots": shots,
        "split_seed": seed,
        "base_weights": base_weights,
        "num_views": parse_views(views),
        "resume": resume,
        **device_override(device),
    }
    if method:
        overrides["method"] = methods.get(method, target.read("inference")["encoder"]).name
    if encoder:
        own = target.read("inference")["encoder"]
        if encoder != own:
            raise BlosamError(
                f"{target.root}: this bundle is made for the encoder '{own}', not '{encoder}'. Write a copy with "
                f"`blosam switch {target.root} --encoder {encoder} --to DIR` and train that."
            )
    if epochs:
        overrides["train#trainer#max_epochs"] = epochs
    if out is not None:
        overrides["output_dir"] = str(out.resolve())
    flow = target.run("training", **overrides)
    state = flow.parser.get_parsed_content("train#trainer").state
    typer.echo(f"weights: {target.weights}")
    typer.echo(json.dumps({"epochs": state.epoch, "iterations": state.iteration}))


def parse_views(views: str) -> int | str:
    """``auto`` or a positive number.

    Raises:
        BlosamError: when it is neither.
    """
    if views == "auto":
        return views
    if views.isdigit() and int(views) > 0:
        return int(views)
    raise BlosamError(f"--views {views}: not a positive number. Give e.g. 16, or auto.")


def device_override(device: str) -> dict[str, object]:
    """The config override for a device name; empty for ``auto`` (the config then takes a GPU if there is one).

    Raises:
        BlosamError: when the device is not there.
    """
    import torch

    if device == "auto":
        return {}
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BlosamError(f"--device {device}: not available here. Use cpu, or auto.") from error
    return {"device": f"$torch.device('{device}')"}
