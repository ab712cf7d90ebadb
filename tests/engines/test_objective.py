"""The predicted-IoU loss against a calculation with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blosam.engines.objective import iou_loss


def test_iou_loss_equals_numpy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 4, generator=generator)
    target = torch.rand(2, 3, 5, 4, generator=generator)
    predicted = torch.rand(2, 3, generator=generator)
    wanted = []
    for image in range(2):
        winner = logits[image].numpy().argmax(0)
        for channel in (1, 2):
            mask, truth = (winner == channel).astype(np.float64), target[image, channel].numpy()
            iou = np.minimum(mask, truth).sum() / np.maximum(mask, truth).sum()
            wanted.append((float(predicted[image, channel]) - iou) ** 2)
    assert float(iou_loss(logits, predicted, target)) == pytest.approx(np.mean(wanted), rel=1e-5)


def test_perfect_mask_and_empty_mask_both_have_iou_one():
    target = torch.zeros(1, 2, 4, 4)
    target[:, 0] = 1
    predicted = torch.tensor([[0.3, 1.0]])
    assert float(iou_loss(20 * target, predicted, target)) == 0.0
    target[0, :, :2] = target[0, :, :2].flip(0)
    assert float(iou_loss(20 * target, predicted, target)) == 0.0


def test_only_the_prediction_is_moved():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    predicted = torch.rand(1, 2, requires_grad=True)
    iou_loss(logits, predicted, torch.rand(1, 2, 4, 4)).backward()
    assert logits.grad is None
    assert predicted.grad[0, 0] == 0
    assert predicted.grad[0, 1] != 0
