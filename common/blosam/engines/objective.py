"""The loss of one level as a function of the network's tensors, and the loss of the predicted IoU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional

from .distributed import whole_batch

Batch = dict[str, Tensor]  # "features": B x ..., "label": B x (K+1) x 4g x 4g; "rows" where B is shared by processes


class Objective(nn.Module):
    """Loss of one batch. A module, so that ``torch.func.functional_call`` can swap the network's tensors.

    Args:
        network: a ``BloSam``.
        loss_function: (logits, soft target), both B x (K+1) x 4g x 4g, -> scalar.
        inferer: called as ``inferer(features, function)``; it calls the function.
        iou_loss_weight: weight of :func:`iou_loss`; 0 leaves the IoU head out altogether.
        autocast: makes the context the network runs in.
    """

    def __init__(
        self,
        network: nn.Module,
        loss_function: Callable,
        inferer: Callable,
        iou_loss_weight: float,
        autocast: Callable,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss_function = loss_function
        self.inferer = inferer
        self.iou_loss_weight = iou_loss_weight
        self.autocast = autocast

    def forward(self, batch: Batch, lower: bool) -> Tensor:
        """Scalar loss in float32.

        Args:
            batch: features of the frozen part, on the network's device, and the soft labels. With ``rows``, the
                features are this process's part of the batch, and the loss is that of the whole batch all the same.
            lower: whether this is the level that trains the weights: only there does the IoU head belong.
        """
        features, label = batch["features"].float(), batch["label"].float()
        with_iou = lower and self.iou_loss_weight > 0
        with self.autocast():
            if with_iou:
                logits, iou = self.inferer(features, self.network.logits_and_iou_from)
            else:
                logits = self.inferer(features, self.network.logits_from)
        rows = batch.get("rows")
        logits = logits.float() if rows is None else whole_batch(logits.float(), rows, len(label))
        loss = self.loss_function(logits, label)
        if with_iou:
            iou = iou.float() if rows is None else whole_batch(iou.float(), rows, len(label))
            loss = loss + self.iou_loss_weight * iou_loss(logits, iou, label)
        return loss


def iou_loss(logits: Tensor, predicted_iou: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the predicted IoU, over images and foreground channels.

    The truth is the IoU of the arg-max mask with the soft target, sum(min) / sum(max), 1 when both are empty. It is a
    constant: the loss moves the IoU head, not the mask towards an easy IoU.

    Args:
        logits: B x (K+1) x h x w.
        predicted_iou: B x (K+1); channel 0 (background) is not used.
        target: B x (K+1) x h x w in [0, 1].
    """
    with torch.no_grad():
        mask = functional.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).to(target.dtype)
        shared = torch.minimum(mask, target).sum((2, 3))
        union = torch.maximum(mask, target).sum((2, 3))
        actual = torch.where(union > 0, shared / union.clamp_min(1e-12), 1.0)
    return functional.mse_loss(predicted_iou[:, 1:], actual[:, 1:])


def published_loss(dice_weight: float = 0.8) -> DiceCELoss:
    """BLO-SAM's loss on logits and soft targets B x (K+1) x h x w: 0.2 cross-entropy + 0.8 Dice over the batch.

    Args:
        dice_weight: of the Dice part; the cross-entropy gets the rest of 1.
    """
    return DiceCELoss(
        softmax=True,
        squared_pred=True,
        batch=True,
        lambda_dice=dice_weight,
        lambda_ce=round(1.0 - dice_weight, 12),  # 0.2 as published, not 0.19999999999999996
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
