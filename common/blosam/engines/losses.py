"""The losses of the published methods, on logits and soft targets B x (K+1) x h x w, channel 0 = background."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from blosam.errors import BlosamError

from .objective import published_loss

Loss = Callable[[Tensor, Tensor], Tensor]
FOCAL_ALPHA, FOCAL_GAMMA = 0.75, 3.0  # S-SAM's released settings
FOREGROUND_WEIGHT = 2.0  # Med-SA's


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss of every class against its own absence, mean over pixels and classes, from logits.

    ``alpha_t (1 - p_t)^3 CE`` with alpha 0.75 for the foreground. A class's logit is its channel minus that of the
    background.
    """
    z, y = _binary(logits, target)
    cross_entropy = functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    p = z.sigmoid()
    likeness = p * y + (1 - p) * (1 - y)
    alpha = FOCAL_ALPHA * y + (1 - FOCAL_ALPHA) * (1 - y)
    return (alpha * (1 - likeness) ** FOCAL_GAMMA * cross_entropy).mean()


def dice_focal(logits: Tensor, target: Tensor) -> Tensor:
    """S-SAM's sum of focal loss and Dice, ``1 - (2 sum PY + 1) / (sum P + sum Y + 1)`` over the whole batch."""
    z, y = _binary(logits, target)
    p = z.sigmoid()
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    return dice + focal(logits, target)


def weighted_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy in which the foreground weighs twice; with one class Med-SA's binary form with ``pos_weight`` 2."""
    weight = torch.full((logits.shape[1],), FOREGROUND_WEIGHT, dtype=logits.dtype, device=logits.device)
    weight[0] = 1.0
    per_class = -(target * logits.log_softmax(dim=1)) * weight.view(1, -1, 1, 1)
    return per_class.sum(dim=1).mean()


LOSSES: dict[str, Callable[[float], Loss]] = {
    "ce-dice": published_loss,
    "focal": lambda dice_weight: focal,
    "dice-focal": lambda dice_weight: dice_focal,
    "weighted-ce": lambda dice_weight: weighted_cross_entropy,
}


def make_loss(name: str, dice_weight: float = 0.8) -> Loss:
    """The loss of that name.

    Args:
        name: one of :data:`LOSSES`.
        dice_weight: of the Dice part of ``ce-dice``, from 0 to 1.

    Raises:
        BlosamError: when there is none, or the weight is not a share.
    """
    if not 0.0 <= dice_weight <= 1.0:
        raise BlosamError(f"dice_weight is {dice_weight}. Use a share from 0 to 1.")
    if name not in LOSSES:
        raise BlosamError(f"unknown loss '{name}'. Use one of {', '.join(LOSSES)}.")
    return LOSSES[name](dice_weight)


def _binary(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and targets of each class alone, B x K x h x w."""
    return logits[:, 1:] - logits[:, :1], target[:, 1:]
