"""``blosam switch``: another method, encoder or image size for a bundle, in place or in a copy."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from blosam.commands.train import METHOD_HELP
from blosam.errors import BlosamError


def switch(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle.", show_default=False)] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write a copy there; must not exist.")] = None,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "",
    encoder: Annotated[str, typer.Option(help="tiny, vit_b, vit_l or vit_h.")] = "",
    image_size: Annotated[int, typer.Option(help="Side of the network's input in pixels, divisible by 16.")] = 0,
    bundle_option: Annotated[Path | None, typer.Option("--bundle", "-b", help="The same as BUNDLE.")] = None,
) -> None:
    """Make train, inference and metadata files of a bundle agree on new settings; train it afterwards as usual.

    Without --to the bundle itself is changed. Its weights stay usable after a change of the method, because they say
    how they were made. Those of another encoder or image size would not fit: a bundle with weights then needs --to,
    which writes a copy without them.

    Example: blosam switch bundles/blosam_lung --method late-lora --encoder vit_b --image-size 1024 --to lung_late
    """
    from blosam.bundle import Bundle

    if (bundle is None) == (bundle_option is None):
        raise BlosamError("name one bundle, e.g. `blosam switch bundles/blosam_lung --method late-lora`.")
    if not (method or encoder or image_size):
        raise BlosamError("nothing to switch. Give --method, --encoder or --image-size.")
    source = Bundle(bundle or bundle_option)
    if to is not None and to.exists():
        raise BlosamError(f"{to}: exists already. Name a new folder; nothing was written.")
    settings = _settings(source, method, encoder, image_size)
    configs = {name: _switched(source.read(name), settings) for name in ("train", "inference")}
    configs["metadata"] = _switched_metadata(source.metadata, settings)
    if to is None:
        _change(source, settings, configs)
    else:
        _write_copy(source.root, to, configs)
    words = ", ".join(f"{key} {value}" for key, value in settings.items())
    typer.echo(f"{'changed' if to is None else 'wrote'} {to or source.root}: {words}")


def _change(bundle: Any, settings: dict[str, Any], configs: dict[str, Any]) -> None:
    """Rewrite the configs of a bundle in place.

    Raises:
        BlosamError: when its weights would not fit any more, or a file cannot be written.
    """
    from blosam.atomicio import atomic_write

    before = bundle.read("inference")
    other = any(settings[key] != before[key] for key in ("encoder", "image_size"))
    if other and bundle.weights.is_file():
        raise BlosamError(
            f"{bundle.weights}: would not fit another encoder or image size. Give --to DIR for a copy without weights; "
            "nothing was written."
        )
    for name, content in configs.items():
        with atomic_write(bundle.config(name), "w") as file:
            file.write(json.dumps(content, indent=4) + "\n")


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
    """The complete new settings.

    Raises:
        BlosamError: for an encoder, method or image size that does not exist.
    """
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
