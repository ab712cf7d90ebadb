"""Named methods: how the few labelled images are turned into weights.

A method is plain numbers; the network, the loader and the trainer read them from here through the bundle's configs
(``"$@preset.order"``), so a new method needs no new code there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from blosam import __version__
from blosam.errors import BlosamError


@dataclass(frozen=True)
class Method:
    """One way of training, complete.

    Args:
        name: what users type.
        summary: one line for ``blosam info``.
        source: where the method and its numbers come from.
        trainable: what is trained of SAM, as for ``BloSam``: ``decoder`` (LoRA and heads of the mask decoder),
            ``decoder-norms``, ``whole-decoder``, ``all``, ``lora`` or ``none``.
        encoder_adapter: what is adapted in the encoder, KIND[:SIZE][@FIRST_BLOCK], as for ``BloSam``.
        loss: one of ``blosam.engines.losses.LOSSES``.
        joint: weights and prompt move together on all images, instead of weights on D1 and prompt on D2.
        order: 1 ignores how the weights depend on the prompt, 2 differentiates through the weight step.
        hypergradient: ``exact`` or ``finite_difference``; used when ``order`` is 2.
        unroll: the weight step that is differentiated, ``adamw`` (the real one) or ``sgd``.
        swap_roles: D1 and D2 exchange roles after every step.
        weight_lr: learning rate of the weights, 0 < lr.
        prompt_lr: learning rate of the prompt embedding.
        weight_decay: AdamW decay of both levels.
        batch_size: images per step and level.
        rank: LoRA rank in the decoder; 0 = none.
        prompt: ``dense``, ``sparse``, ``labels`` or ``text``, as for ``BloSam``.
        head: mask tokens and hypernetworks start ``random`` (the authors) or ``pretrained`` (SAM's own).
        iou_loss_weight: weight of the predicted-IoU loss; 0 as published.
        warmup: iterations in which the learning rate rises linearly.
        clip_norm: gradient norm limit of the weights; 0 = none.
        dice_weight: lambda of the loss ``ce-dice``, lambda Dice + (1 - lambda) cross-entropy.
    """

    name: str
    summary: str
    source: str
    trainable: str = "decoder"
    encoder_adapter: str = "none"
    loss: str = "ce-dice"
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
    dice_weight: float = 0.8

    @property
    def structure(self) -> dict[str, Any]:
        """The arguments of ``BloSam`` that the method decides and its weights depend on."""
        return {key: getattr(self, key) for key in ("rank", "prompt", "trainable", "encoder_adapter")}


_CITED = "BLO-SAM (Zhang, Liang, Xie; ICML 2024), section 3"
_MENDED = (
    "the released settings, whose slips are mended (docs/faithfulness.md): the upper level sees every image of D2 in "
    "turn instead of the first one only, the moments stay 0.9 and 0.999, the learning rate does not lag. SAM's "
    "normalisation and the aspect ratio are kept, and images are encoded once, in augmented views"
)
_PAPER = f"{_CITED}, and {_MENDED}"
BLO_SAM = Method("blo-sam", "weights on D1, prompt on D2, first order (the published method)", _PAPER)
JOINT = replace(
    BLO_SAM,
    name="joint",
    summary="the same weights and prompt, trained together on all images",
    source="SAMed's way of training (Zhang, Liu 2023) with BLO-SAM's parameters: shows what two levels bring. Its "
    "number of parameters is the one that the BLO-SAM paper prints for SAMed",
    joint=True,
)
ALL_LAYERS = replace(
    JOINT,
    name="all-layers",
    summary="every layer of the embedded model at a small learning rate, on all images",
    source="own recipe for the small encoder, where nothing needs to be frozen to be affordable",
    trainable="all",
    head="pretrained",
    weight_lr=1e-3,
    prompt_lr=1e-3,
    weight_decay=0.05,
    batch_size=2,
    warmup=20,
    clip_norm=1.0,
)

_WHOLE = replace(JOINT, trainable="whole-decoder", rank=0, head="pretrained", weight_decay=0.01)
PUBLISHED = (
    replace(
        JOINT,
        name="samed",
        summary="SAMed: low-rank updates in the encoder, the whole decoder, all images",
        source="Zhang, Liu 2023 (rank 4 in queries and values, 0.2 CE + 0.8 Dice, AdamW 5e-3, decay 0.1); batches of 4 "
        "instead of 12 for want of images, warm-up shortened from 250 to 20 steps, the parts of the "
        "prompt encoder that "
        "an image without prompts does not use stay as they are",
        trainable="whole-decoder",
        encoder_adapter="lora:4",
        rank=0,
        batch_size=4,
        warmup=20,
    ),
    replace(
        JOINT,
        name="samed-s",
        summary="SAMed_s: low-rank updates in encoder and decoder, all images",
        source="Zhang, Liu 2023; as samed, with low-rank updates in the decoder's attentions, whose base stays frozen",
        encoder_adapter="lora:4",
        batch_size=4,
        warmup=20,
    ),
    replace(
        JOINT,
        name="s-sam",
        summary="S-SAM: singular values of the encoder, one learned token per class",
        source="Paranjape et al., MICCAI 2024; a table of tokens instead of CLIP's text encoder (--text-embeddings "
        "brings vectors and the published affine layer back), SAM's own decoder and "
        "window attention instead of the altered ones of the released code, focal loss from logits, decay towards the "
        "original weights instead of towards zero",
        trainable="decoder-norms",
        encoder_adapter="svd",
        loss="dice-focal",
        rank=0,
        prompt="labels",
        head="pretrained",
        weight_lr=1e-3,
        prompt_lr=1e-3,
        weight_decay=0.01,
        batch_size=4,
    ),
    replace(
        _WHOLE,
        name="adaptive-sam",
        summary="AdaptiveSAM: biases, normalisations, position table and the whole decoder, a text vector per class",
        source="Paranjape et al. 2023; fixed random vectors instead of CLIP's (--text-embeddings takes those), layer "
        "instead of batch normalisation, which makes the token of a single class constant; focal "
        "loss from logits, SAM's "
        "own window attention; the prompt encoder stays frozen, which the released code unfreezes by a slip",
        encoder_adapter="adaptive",
        loss="focal",
        prompt="text",
        weight_lr=1e-4,
        prompt_lr=1e-4,
        batch_size=4,
    ),
    replace(
        _WHOLE,
        name="peft-sam-lora",
        summary="PEFT-SAM: low-rank updates in all blocks, the whole decoder",
        source="Teuber, Archit, Pape, MIDL 2025; semantic masks without prompts instead of prompted objects; a "
        "learning rate of 1e-4 instead of 1e-5, which moves nothing in a few hundred steps",
        encoder_adapter="lora:32",
        weight_lr=1e-4,
        prompt_lr=1e-4,
        batch_size=4,
    ),
    replace(
        _WHOLE,
        name="late-lora",
        summary="PEFT-SAM's economical recipe: low-rank updates of every matrix in the late half of the encoder",
        source="Teuber, Archit, Pape, MIDL 2025; as peft-sam-lora. The early half runs once per image",
        encoder_adapter="lora-all:32@50%",
        weight_lr=1e-4,
        prompt_lr=1e-4,
        batch_size=4,
    ),
    replace(
        _WHOLE,
        name="late-ft",
        summary="PEFT-SAM: the late half of the encoder trained completely, and the whole decoder",
        source="Teuber, Archit, Pape, MIDL 2025; semantic masks without prompts and 1e-4 instead of "
        "1e-5, as peft-sam-lora. "
        "The early half runs once per image",
        encoder_adapter="full@50%",
        weight_lr=1e-4,
        prompt_lr=1e-4,
        batch_size=4,
    ),
    replace(
        _WHOLE,
        name="med-sa",
        summary="Med-SA: bottlenecks in the encoder, the whole decoder",
        source="Wu et al. 2023; no click, which the authors take from the true mask in training and test; bottlenecks "
        "start at zero",
        encoder_adapter="med-sa",
        loss="weighted-ce",
        weight_lr=1e-4,
        prompt_lr=1e-4,
        weight_decay=0.0,
        batch_size=2,
    ),
    replace(
        JOINT,
        name="ft-sam",
        summary="FT-SAM: every weight of SAM, BLO-SAM's loss, no low-rank updates",
        source="baseline of the BLO-SAM paper, which does not state its learning rate: 1e-4, because BLO-SAM's 5e-3 "
        "destroys pretrained weights",
        trainable="all",
        rank=0,
        weight_lr=1e-4,
        prompt_lr=1e-4,
        batch_size=1,
    ),
)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        BLO_SAM,
        replace(
            BLO_SAM,
            name="blo-sam-2nd",
            summary="the same with the exact second-order hypergradient",
            source=f"{_CITED} and appendix A; {_MENDED}. Differentiates exactly through the AdamW step that is made; "
            "the released code takes a finite difference, which does not converge with SAM's ReLUs, "
            "around a second step",
            order=2,
        ),
        replace(
            BLO_SAM,
            name="blo-sam-swap",
            summary="D1 and D2 exchange roles every step, so that every image serves both levels",
            source=f"own variant of {_CITED}: with few images, half of them for each level is "
            f"little. Otherwise {_MENDED}",
            swap_roles=True,
        ),
        JOINT,
        ALL_LAYERS,
        *PUBLISHED,
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
    """What a weights file says about its training (strings only); what its network is like is added when it is saved.

    ``iou_head`` says whether the head that predicts the IoU was trained, so that a confidence may be asked of it.
    """
    return {
        "method": method.name,
        "encoder": encoder,
        "image_size": str(image_size),
        "classes": ",".join(["background", *sorted(labels, key=labels.get)]),
        "base_weights": "path" if base_weights not in ("auto", "random") else base_weights,
        "iou_head": "trained" if iou_loss_weight > 0 else "untrained",
        "blosam_version": __version__,
    }
