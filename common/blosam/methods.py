"""Named methods: how the few labelled images are turned into weights.

A method is plain numbers; the network, the loader and the trainer read them from here through the bundle's configs
(``"$@preset.order"``), so a new method needs no new code there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blosam import __version__
from blosam.errors import BlosamError


@dataclass(frozen=True)
class Method:
    """One way of training, complete.

    Args:
        name: what users type.
        summary: one line for ``blosam info``.
        source: where the method and its numbers come from.
        trainable: ``decoder`` (LoRA and heads of the mask decoder, prompt) or ``all`` (every SAM weight too).
        joint: weights and prompt move together on all images, instead of weights on D1 and prompt on D2.
        order: 1 ignores how the weights depend on the prompt, 2 differentiates through the weight step.
        hypergradient: ``exact`` or ``finite_difference``; used when ``order`` is 2.
        unroll: the weight step that is differentiated, ``adamw`` (the real one) or ``sgd``.
        swap_roles: D1 and D2 exchange roles after every step.
        weight_lr: learning rate of the weights, 0 < lr.
        prompt_lr: learning rate of the prompt embedding.
        weight_decay: AdamW decay of both levels.
        batch_size: images per step and level.
        rank: LoRA rank in the decoder.
        prompt: ``dense`` or ``sparse``.
        head: mask tokens and hypernetworks start ``random`` (the authors) or ``pretrained`` (SAM's own).
        iou_loss_weight: weight of the predicted-IoU loss; 0 as published.
        warmup: iterations in which the learning rate rises linearly.
        clip_norm: gradient norm limit of the weights; 0 = none.
    """

    name: str
    summary: str
    source: str
    trainable: str = "decoder"
    joint: bool = False
    order: int = 1
    hypergradient: str = "exact"
    unroll: str = "adamw"
    swap_roles: bool = False
    weight_lr: float = 5e-3
    prompt_lr: float = 5e-3
    weight_decay: float = 0.1
    batch_size: int = 1
    rank: int = 4
    prompt: str = "dense"
    head: str = "random"
    iou_loss_weight: float = 0.0
    warmup: int = 0
    clip_norm: float = 0.0


_PAPER = "BLO-SAM (Zhang, Liang, Xie; ICML 2024), section 3 and the released settings"
BLO_SAM = Method("blo-sam", "weights on D1, prompt on D2, first order (the published method)", _PAPER)
JOINT = replace(
    BLO_SAM,
    name="joint",
    summary="the same weights and prompt, trained together on all images",
    source="SAMed's way of training, with BLO-SAM's parameters",
    joint=True,
)
ALL_LAYERS = replace(
    JOINT,
    name="all-layers",
    summary="every layer of the embedded model at a small learning rate, on all images",
    source="own recipe for the small encoder, where nothing needs to be frozen to be affordable",
    trainable="all",
    head="pretrained",
    weight_lr=5e-4,
    prompt_lr=5e-4,
    weight_decay=0.05,
    batch_size=4,
    warmup=20,
    clip_norm=1.0,
)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        BLO_SAM,
        replace(
            BLO_SAM,
            name="blo-sam-2nd",
            summary="the same with the exact second-order hypergradient",
            source=f"{_PAPER}, appendix A; AdamW-aware form",
            order=2,
        ),
        replace(
            BLO_SAM,
            name="blo-sam-swap",
            summary="D1 and D2 exchange roles every step, so that every image serves both levels",
            source="own variant of BLO-SAM",
            swap_roles=True,
        ),
        JOINT,
        ALL_LAYERS,
    )
}

_RECOMMENDED = {"tiny": "all-layers", "vit_b": "blo-sam", "vit_l": "blo-sam", "vit_h": "blo-sam"}


def names() -> list[str]:
    """Every name that ``method`` accepts, ``recommended`` first."""
    return ["recommended", *METHODS]


def get(name: str, encoder: str) -> Method:
    """The method of that name; ``recommended`` is the one measured best for ``encoder``.

    Raises:
        BlosamError: when the name is unknown.
    """
    if name == "recommended":
        name = _RECOMMENDED.get(encoder, "blo-sam")
    if name not in METHODS:
        raise BlosamError(f"unknown method '{name}'. Choose one of: {', '.join(names())}.")
    return METHODS[name]


def flag(value: bool | int | str) -> bool:
    """An on/off setting. MONAI's command line hands ``true`` and ``false`` over as words, and any word counts as true.

    Raises:
        BlosamError: when it is neither.
    """
    meanings = {"true": True, "1": True, "false": False, "0": False}
    if str(value).lower() not in meanings:
        raise BlosamError(f"'{value}' is neither true nor false. Give one of the two.")
    return meanings[str(value).lower()]


def adapter_metadata(
    method: Method,
    encoder: str,
    image_size: int,
    labels: dict[str, int],
    base_weights: str,
    iou_loss_weight: float = 0.0,
) -> dict[str, str]:
    """What an adapter file says about itself (safetensors metadata: strings only).

    ``iou_head`` says whether the head that predicts the IoU was trained, so that a confidence may be asked of it.
    """
    return {
        "method": method.name,
        "encoder": encoder,
        "image_size": str(image_size),
        "classes": ",".join(["background", *sorted(labels, key=labels.get)]),
        "rank": str(method.rank),
        "prompt": method.prompt,
        "base_weights": "path" if base_weights not in ("auto", "random") else base_weights,
        "iou_head": "trained" if iou_loss_weight > 0 else "untrained",
        "blosam_version": __version__,
    }
