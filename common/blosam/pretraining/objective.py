"""What is minimised: Dice plus cross-entropy for the asked mask, the alternatives, and the auxiliary structures."""

from __future__ import annotations

import torch
from torch.nn import functional

from .model import PromptableTiny

ALTERNATIVES_WEIGHT = 0.25
IOU_WEIGHT = 0.1
DENSE_WEIGHT = 1.0


def mask_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft Dice loss plus binary cross-entropy.

    Args:
        logits: ... x H x W.
        target: same shape, 0..1.

    Returns:
        one number per leading index.
    """
    probability = logits.sigmoid()
    overlap = (probability * target).sum((-2, -1))
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
    return 1 - (2 * overlap + 1) / (total + 1) + entropy


def true_iou(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Intersection over union of the thresholded masks, one number per leading index; 1 when both are empty."""
    found, wanted = logits > 0, target > 0.5
    union = (found | wanted).sum((-2, -1))
    return torch.where(union > 0, (found & wanted).sum((-2, -1)) / union.clamp(min=1), 1.0)


def prompt_loss(logits: torch.Tensor, iou: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Loss of SAM's single mask, of the best of its three alternatives, and of the quality estimate.

    Args:
        logits: B x 4 x H x W.
        iou: B x 4.
        target: B x 1 x H x W in 0..1.
    """
    target = target.expand_as(logits)
    losses = mask_loss(logits, target)
    quality = functional.mse_loss(iou, true_iou(logits.detach(), target))
    return losses[:, 0].mean() + ALTERNATIVES_WEIGHT * losses[:, 1:].amin(1).mean() + IOU_WEIGHT * quality


def dense_loss(logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean over images of the mean loss of their known channels.

    A channel whose structure is absent counts by its cross-entropy alone: Dice says nothing about an empty mask.

    Args:
        logits: B x D x h x w.
        target: same shape, 0..1.
        known: B x D, 1 where the channel means something for that image.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
    probability = logits.sigmoid()
    present = known * (target.sum((-2, -1)) > 1)
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    dice = 1 - (2 * (probability * target).sum((-2, -1)) + 1) / (total + 1)
    return ((entropy * known).sum(1) / known.sum(1).clamp(min=1)).mean() + (
        (dice * present).sum(1) / present.sum(1).clamp(min=1)
    ).mean()


def batch_loss(network: PromptableTiny, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of one batch of ``samples.PromptBatches`` and its parts by name."""
    half = len(batch["image"]) // 2
    embedding = network.encode(batch["image"])
    unasked = prompt_loss(*network.decode(embedding[:half]), batch["target"][:half])
    sparse = network.sparse_prompts(batch["prompt"], batch["is_box"])
    asked = prompt_loss(*network.decode(embedding[half:], sparse), batch["target"][half:])
    dense = dense_loss(network.dense(embedding), batch["dense"], batch["dense_known"])
    loss = unasked + asked + DENSE_WEIGHT * dense
    parts = {"loss": loss, "unasked": unasked, "asked": asked, "dense": dense}
    return loss, {name: float(part.detach()) for name, part in parts.items()}
