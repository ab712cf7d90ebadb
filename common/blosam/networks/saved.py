"""The network that a weights file was trained as: what the configs build for segmenting, evaluating and exporting.

The weights say how they were made, so no config has to be changed when a bundle is trained with another method, and
a bundle is complete in every form (folder, zip, MONAI Label's copy) without a second place that could disagree.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import methods, weightsio
from ..errors import BlosamError
from .adapters import parse_adapter
from .blosam import BloSam

logger = logging.getLogger(__name__)

_MAX_SIZE = 4_096  # of a rank, of a bottleneck, of a number of tokens: facts may come from a stranger's file


def network_for(checkpoint: str | os.PathLike, method: str = "recommended", **settings: Any) -> BloSam:
    """An untrained :class:`BloSam` into which the weights of ``checkpoint`` fit.

    Args:
        checkpoint: ``model.pt``; only what it says about itself is read, not the weights. Where it is missing or says
            nothing, ``method`` decides.
        method: one of ``blosam.methods.names()``.
        settings: arguments of ``BloSam``; they win over what the file says.

    Raises:
        BlosamError: when the file is unreadable or for another encoder or image size, or the method is unknown.
    """
    encoder = settings.get("encoder", "tiny")
    preset = methods.get(method, encoder)
    structure = preset.structure
    if Path(checkpoint).is_file():
        facts = weightsio.read_facts(checkpoint)
        _refuse_others(facts, {"encoder": encoder, "image_size": settings.get("image_size")}, checkpoint)
        if "rank" in facts:
            structure = _stated(facts, checkpoint)
    else:  # monai.bundle.load looks for them elsewhere, and leaves out silently what does not fit
        logger.warning("%s: no weights there; the network is that of the method %s.", checkpoint, preset.name)
    return BloSam(**(structure | settings))


def _refuse_others(facts: Mapping[str, str], ours: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Refuse weights whose tensors may fit, but that were trained for something else; silence is accepted.

    The embedded encoder has no table of positions, so that its weights have the same shapes at every image size.

    Raises:
        BlosamError: naming both values.
    """
    for key, value in ours.items():
        theirs = facts.get(key, "")
        if theirs and value is not None and theirs != str(value):
            raise BlosamError(
                f"{os.fspath(path)}: these weights are for the {key.replace('_', ' ')} {theirs[:40]}, the bundle's is "
                f"{value}. Use the bundle they were trained in, or make one that fits with `blosam switch`."
            )


def _stated(facts: Mapping[str, str], path: str | os.PathLike) -> dict[str, Any]:
    """The arguments of ``BloSam`` that a file states; what it leaves out has the default.

    Raises:
        BlosamError: when a value cannot be one of ours.
    """
    stated: dict[str, Any] = {key: facts[key] for key in ("prompt", "trainable", "encoder_adapter") if key in facts}
    sizes = {key: facts[key] for key in ("rank", "num_prompt_tokens") if key in facts}
    for key, text in sizes.items():
        stated[key] = int(text) if text.isdecimal() and len(text) <= len(str(_MAX_SIZE)) else _MAX_SIZE + 1
    try:
        largest = max(*(stated[key] for key in sizes), parse_adapter(stated.get("encoder_adapter", "none")).size)
    except BlosamError as error:
        raise BlosamError(f"{os.fspath(path)}: it names an {error}") from error
    if largest > _MAX_SIZE:
        raise BlosamError(
            f"{os.fspath(path)}: it states a rank, a number of tokens or an adapter's size beyond {_MAX_SIZE}. "
            "Train it again, or get it again from its maker."
        )
    return stated
