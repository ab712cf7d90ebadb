"""``blosam export``: TorchScript (with metadata and inference config inside) or ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blosam.commands.train import BundleOption
from blosam.errors import BlosamError


def export(
    bundle: BundleOption,
    format: Annotated[str, typer.Option("--format", "-f", help="torchscript or onnx.")] = "torchscript",
    out: Annotated[Path | None, typer.Option(help="File to write; default BUNDLE/models/model.ts or .onnx.")] = None,
) -> None:
    """Write one file that runs without this package's Python code.

    Example: blosam export --bundle bundles/blosam_lung
    """
    from blosam.bundle import Bundle

    target = Bundle(bundle)
    weights = target.require_weights()
    if format == "torchscript":
        path = out or target.root / "models" / "model.ts"
        _torchscript(target, weights, path)
    elif format == "onnx":
        path = out or target.root / "models" / "model.onnx"
        _onnx(target, weights, path)
    else:
        raise BlosamError(f"--format {format}: unknown. Choose torchscript or onnx.")
    typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _torchscript(target, weights: Path, path: Path) -> None:
    """The content MONAI's exporter gives, which MONAI Deploy reads; that one ends the process on a full disk."""
    from blosam.networks.export import to_torchscript

    config = {"inference.json": json.dumps(target.read("inference"))}
    to_torchscript(_check_fit(target, weights), path, target.metadata, config)


def _onnx(target, weights: Path, path: Path) -> None:
    from blosam.networks.export import to_onnx

    to_onnx(_check_fit(target, weights), path)


def _check_fit(target, weights: Path):
    """The network with its weights loaded strictly."""
    from blosam.weightsio import load_strict

    network = target.parser("inference").get_parsed_content("network_def")
    load_strict(network, weights, target.labels)
    return network.eval()
