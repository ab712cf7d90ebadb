"""``blosam info``: what a bundle is, what it can do and which methods there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def info(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle folder; without one, versions and methods.")] = None,
) -> None:
    """Show a bundle's task, classes, encoder and weights, or, without a bundle, the methods and versions.

    Example: blosam info bundles/blosam_lung
    """
    if bundle is None:
        _show_methods()
        return
    from blosam.bundle import Bundle

    target = Bundle(bundle)
    metadata, inference, training = target.metadata, target.read("inference"), target.read("train")
    trained = f"{target.weights.stat().st_size / 1e6:.1f} MB" if target.weights.is_file() else "none yet (blosam train)"
    rows = {
        "name": metadata["name"],
        "version": metadata["version"],
        "task": metadata["task"],
        "intended use": metadata["intended_use"],
        "classes": ", ".join(f"{value} = {name}" for name, value in target.labels.items()),
        "encoder": inference["encoder"],
        "image size": f"{inference['image_size']} px",
        "method": training["method"],
        "weights": trained,
    }
    for key, value in rows.items():
        typer.echo(f"{key:>13}  {value}")


def _show_methods() -> None:
    import torch

    from blosam import __version__, methods

    typer.echo(f"blosam {__version__}, PyTorch {torch.__version__}")
    typer.echo("methods (--method):")
    chosen = methods.get("recommended", "tiny").name
    typer.echo(f"  {'recommended':<14} {chosen} for the encoder tiny, blo-sam for vit_b, vit_l and vit_h")
    for method in methods.METHODS.values():
        typer.echo(f"  {method.name:<14} {method.summary}")
