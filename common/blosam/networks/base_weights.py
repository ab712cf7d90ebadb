"""Filling a network with the weights of a SAM checkpoint, at any image size and number of masks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BlosamError
from ..weightsio import read_state, sha256_of
from .adapters import is_adapter
from .sam import CONFIGS, SIZE_MULTIPLE, build_sam, resize_position_tables

if TYPE_CHECKING:
    from .blosam import BloSam
    from .promptable import PromptableSam

logger = logging.getLogger(__name__)

_HEADS = (
    "mask_decoder.mask_tokens.",
    "mask_decoder.output_hypernetworks_mlps.",
    "mask_decoder.iou_prediction_head.",
)
_LAST_LAYER = ".layers.2."
_BACKGROUND_STD = 1e-3


def load_base(network: BloSam | PromptableSam, path: str | os.PathLike, expected_sha256: str | None = None) -> None:
    """Load the weights of a SAM into a network, key by key; adapters and sparse prompt tokens are left as
    they are.

    Position tables are resized to the network's image size. What depends on the number of masks (mask tokens,
    hypernetworks, mask quality head) is left random with ``head="random"``, as in the BLO-SAM authors' code.
    With ``head="pretrained"`` the first foreground channel gets SAM's single-mask token and hypernetwork, the
    other ones its three multi-mask ones (in turn), and the background copies the single-mask ones but for a
    last layer of small noise: its logits start near 0, so that softmax agrees with SAM's own rule "logit
    above 0". A ``PromptableSam`` (``head="stock"``) gets all of them as they are.

    Args:
        network: filled in place; not changed unless the whole file fits.
        path: an official SAM checkpoint (``.pth``), or ``.safetensors`` with the same keys; any float type.
        expected_sha256: digest the file must have, 64 hexadecimal digits; None accepts any.

    Raises:
        BlosamError: when the file is missing, damaged, of another digest or architecture, or holds anything
            but tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise BlosamError(
            f"{file}: no such file with base weights. Give the path of a SAM checkpoint, or fetch one with "
            f"`blosam weights fetch {network.encoder_name}`."
        )
    if expected_sha256 is not None and (found := sha256_of(file)) != expected_sha256.lower():
        raise BlosamError(
            f"{file}: its sha256 is {found}, expected {expected_sha256.lower()}: a damaged or another file. "
            f"Fetch it again with `blosam weights fetch {network.encoder_name}`."
        )
    base = read_state(file)
    _check_base(base, network.encoder_name, file)
    base = resize_position_tables(base, network.encoder_name, network.image_size)
    heads = {name: base.pop(name) for name in list(base) if name.startswith(_HEADS)}
    if network.head == "pretrained":
        base.update(_spread_heads(heads, network.out_channels, network.init_seed))
    elif network.head == "stock":
        base.update(heads)
    state = network.state_dict()
    kept = [name for name in state if name not in base]
    _check_kept(kept, network.head)
    network.load_state_dict({name: base.get(name, tensor) for name, tensor in state.items()}, strict=True)
    logger.info("base weights %s: %d tensors loaded, %d of our own kept", file, len(base), len(kept))


def _check_kept(kept: list[str], head: str) -> None:
    """Every tensor of the network comes from the file, or is known not to (a slip would go unnoticed)."""
    prompts = ("sparse_prompt.", "label_prompt.")
    own = (*_HEADS, *prompts) if head == "random" else prompts
    unknown = [name for name in kept if not name.startswith(own) and not is_adapter(name)]
    if unknown:
        raise RuntimeError(f"no base weights assigned to {unknown}")


def _check_base(base: Mapping[str, Tensor], encoder: str, file: Path) -> None:
    """Refuse a file whose names or shapes are not those of a stock SAM of the file's size."""
    found = _name_encoder(base)
    if found is not None and found != encoder:
        raise BlosamError(
            f"{file}: holds a SAM with encoder {found}, the network has {encoder}. "
            f"Use the weights of {encoder}, or set the encoder to {found}."
        )
    table = base.get("image_encoder.pos_embed")
    grid = table.shape[1] if table is not None and table.ndim == 4 and table.shape[1] > 0 else 64
    with torch.device("meta"):
        stock = build_sam(encoder, SIZE_MULTIPLE * grid).state_dict()
    missing = [name for name in stock if name not in base]
    unexpected = [name for name in base if name not in stock]
    misshaped = [
        f"{name} {tuple(base[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in stock.items()
        if name in base and base[name].shape != tensor.shape
    ]
    differences = [
        f"{len(names)} tensors {kind} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped))
        if names
    ]
    if differences:
        raise BlosamError(
            f"{file}: is no base for encoder {encoder}: {'; '.join(differences)}. "
            f"Use a SAM checkpoint for {encoder} (`blosam weights list`)."
        )


def _name_encoder(base: Mapping[str, Tensor]) -> str | None:
    """Which encoder the tensors belong to, by width and depth; None when it is none of ours."""
    table = base.get("image_encoder.pos_embed")
    if table is None:
        return "tiny" if any(name.startswith("image_encoder.stages.") for name in base) else None
    depth = len({name.split(".")[2] for name in base if name.startswith("image_encoder.blocks.")})
    for name, config in CONFIGS.items():
        if (config.dim, config.depth) == (table.shape[-1], depth):
            return name
    return None


def _spread_heads(heads: Mapping[str, Tensor], channels: int, seed: int) -> dict[str, Tensor]:
    """SAM's 4 mask tokens, hypernetworks and quality outputs, for background (0) and foreground (1...)."""
    sources = [0, 0] + [1 + (channel - 2) % 3 for channel in range(2, channels)]
    generator = torch.Generator().manual_seed(seed)
    tokens, hypernetworks, quality = _HEADS
    spread = {}
    for name, tensor in heads.items():
        if name.startswith(tokens) or (name.startswith(quality) and _LAST_LAYER in name):
            spread[name] = tensor[sources]
        elif name.startswith(quality):
            spread[name] = tensor
    for channel, source in enumerate(sources):
        for name, tensor in heads.items():
            if not name.startswith(f"{hypernetworks}{source}."):
                continue
            target = name.replace(f"{hypernetworks}{source}.", f"{hypernetworks}{channel}.", 1)
            noise = channel == 0 and _LAST_LAYER in name
            spread[target] = _BACKGROUND_STD * torch.randn(tensor.shape, generator=generator) if noise else tensor
    return spread
