"""``blosam info``: what a bundle is, what it can do and which methods there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from blosam.inference.sources import OpenedBundle


def info(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="A bundle folder, release zip or model.ts; without one, versions and methods."),
    ] = None,
    executed: Annotated[bool, typer.Option(help="List what runs when the bundle is used for prediction.")] = False,
) -> None:
    """Show a bundle's task, classes, encoder and weights, or, without a bundle, the methods and versions.

    Nothing of the bundle is run for this. A bundle that does more than ours do is refused, naming what it would run;
    so this is also how to check a file from somebody else.

    Example: blosam info bundles/blosam_lung
    """
    if bundle is None:
        _show_methods()
        return
    from blosam.inference.sources import open_bundle

    with open_bundle(bundle) as opened:
        for key, value in _rows(opened).items():
            typer.echo(f"{key:>13}  {value}")
        if executed:
            typer.echo("runs:")
        for line in opened.executed if executed else ():
            typer.echo(f"  {line}")


def _rows(opened: OpenedBundle) -> dict[str, Any]:
    """What to say about a bundle, heading to text."""
    metadata, config = opened.metadata, opened.config
    present = opened.weights.is_file()
    size = f"{opened.weights.stat().st_size / 1e6:.1f} MB" if present else "none yet (blosam train)"
    rows = {
        "name": metadata.get("name", "not stated"),
        "version": metadata.get("version", "not stated"),
        "made for": _made_for(metadata),
        "task": metadata.get("task", "not stated"),
        "intended use": metadata.get("intended_use", "not stated"),
        "classes": ", ".join(f"{value} = {name}" for name, value in config["labels"].items()),
        "images": _accepted(metadata.get("accepted_images")),
        "encoder": config.get("encoder", "not stated"),
        "image size": f"{config.get('image_size', '?')} px",
        "method": _method(opened),
        "weights": size,
        "trained with": _trained_with(opened.facts),
        "sha256": opened.sha256 if present else "",
        "confidence": "views, iou" if opened.iou_trained else "views",
        "runs": f"{len(opened.executed)} things from the list of allowed ones; --executed names them",
    }
    return {key: _one_line(value) for key, value in rows.items() if value != ""}


def _method(opened: OpenedBundle) -> str:
    """How the bundle trains; a zip and a folder say it, a ``model.ts`` does not."""
    path = opened.root / "configs" / "train.json"
    if opened.form == "model.ts" or not path.is_file():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["method"])
    except (ValueError, KeyError, TypeError):
        return "not stated"


def _trained_with(facts: dict[str, str]) -> str:
    """The method of the weights and what it adapts, as they say."""
    if "method" not in facts:
        return ""
    parts = [facts["method"]]
    for key in ("trainable", "encoder_adapter", "prompt"):
        if facts.get(key, "none") != "none":
            parts.append(f"{key.replace('_', ' ')} {facts[key]}")
    return ", ".join(parts)


def _made_for(metadata: dict[str, Any]) -> str:
    packages = metadata.get("required_packages_version")
    found = packages.get("blosam") if isinstance(packages, dict) else None
    return f"blosam {found}" if found else "not stated"


def _accepted(accepts: Any) -> str:
    """Which images the bundle was made for, in words."""
    if not isinstance(accepts, dict):
        return "not stated"
    words = ["colour" if accepts.get("colour") else "greyscale"]
    for key in ("modalities", "body_parts", "views"):
        values = accepts.get(key)
        if isinstance(values, list) and values:
            words.append(f"{key.replace('_', ' ')} {', '.join(map(str, values))}")
    return "; ".join(words)


def _one_line(value: Any) -> str:
    """A text from a stranger's file, fit for a terminal: on one line and without control characters."""
    return "".join(c for c in " ".join(str(value).split()) if c.isprintable())


def _show_methods() -> None:
    import torch

    from blosam import __version__, methods

    typer.echo(f"blosam {__version__}, PyTorch {torch.__version__}")
    typer.echo("methods (--method):")
    chosen = methods.get("recommended", "tiny").name
    width = max(map(len, methods.names()))
    typer.echo(f"  {'recommended':<{width}} {chosen} for the encoder tiny, blo-sam for vit_b, vit_l and vit_h")
    for method in methods.METHODS.values():
        typer.echo(f"  {method.name:<{width}} {method.summary}")
