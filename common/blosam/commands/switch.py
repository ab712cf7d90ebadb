"""``blosam switch``: a copy of a bundle with another method, encoder or image size."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from blosam.errors import BlosamError


def switch(
    bundle: Annotated[Path, typer.Argument(help="The bundle to copy.")],
    to: Annotated[Path, typer.Option("--to", help="Where the copy goes; must not exist.")],
    method: Annotated[str, typer.Option(help="Training method; `blosam info` lists them.")] = "",
    encoder: Annotated[str, typer.Option(help="tiny, vit_b, vit_l or vit_h.")] = "",
    image_size: Annotated[int, typer.Option(help="Side of the network's input in pixels, divisible by 16.")] = 0,
) -> None:
    """Write a copy of the bundle whose train, inference and metadata files agree on the new settings.

    The copy has no weights: those of another encoder or image size would not fit. Train it as usual.

    Example: blosam switch bundles/blosam_lung --encoder vit_b --image-size 1024 --to lung_vit_b
    """
    from blosam.bundle import Bundle

    if not (method or encoder or image_size):
        raise BlosamError("nothing to switch. Give --method, --encoder or --image-size.")
    source = Bundle(bundle)
    if to.exists():
        raise BlosamError(f"{to}: exists already. Name a new folder; nothing was written.")
    settings = _settings(source, method, encoder, image_size)
    configs = {name: _switched(source.read(name), settings) for name in ("train", "inference")}
    configs["metadata"] = _switched_metadata(source.metadata, settings)
    _write_copy(source.root, to, configs)
    typer.echo(f"wrote {to}: " + ", ".join(f"{key} {value}" for key, value in settings.items()))


def _write_copy(source: Path, to: Path, configs: dict[str, Any]) -> None:
    """The copy under a temporary name, renamed when it is complete.

    Raises:
        BlosamError: when it cannot be written; nothing is then left behind.
    """
    partial = to.parent / f".tmp-{os.getpid()}-{to.name}"
    try:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("models", "results", "predictions"))
        for name, content in configs.items():
            (partial / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4) + "\n")
        partial.rename(to)
    except OSError as error:  # shutil.Error is one; its text lists every file
        reason = error.strerror or "not every file could be copied; is the disk full?"
        raise BlosamError(f"cannot write {to}: {reason}. Name another folder; nothing was written.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _settings(source: Any, method: str, encoder: str, image_size: int) -> dict[str, Any]:
    """The complete new settings, checked by building the network they describe."""
    from blosam import methods
    from blosam.networks import ENCODERS

    now = source.read("inference")
    settings = {
        "method": method or source.read("train")["method"],
        "encoder": encoder or now["encoder"],
        "image_size": image_size or now["image_size"],
    }
    if settings["encoder"] not in ENCODERS:
        raise BlosamError(f"unknown encoder '{settings['encoder']}'. Choose one of: {', '.join(ENCODERS)}.")
    if settings["image_size"] % 16 or settings["image_size"] < 32:
        raise BlosamError(f"--image-size {settings['image_size']}: must be at least 32 and divisible by 16.")
    methods.get(settings["method"], settings["encoder"])
    return settings


def _switched(config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A config with the settings it has ids for."""
    return {key: settings.get(key, value) for key, value in config.items()}


def _switched_metadata(metadata: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Metadata whose tensors have the new size."""
    changed = json.loads(json.dumps(metadata))
    shape = [settings["image_size"], settings["image_size"]]
    changed["network_data_format"]["inputs"]["image"]["spatial_shape"] = shape
    changed["network_data_format"]["outputs"]["pred"]["spatial_shape"] = list(shape)
    return changed
