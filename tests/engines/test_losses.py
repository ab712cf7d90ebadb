"""Losses of the published methods against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blosam.engines.losses import LOSSES, dice_focal, focal, make_loss, weighted_cross_entropy
from blosam.errors import BlosamError


def batch(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(2, classes + 1, 5, 4, generator=generator, dtype=torch.float64)
    target = torch.rand(2, classes + 1, 5, 4, generator=generator, dtype=torch.float64)
    return logits, target / target.sum(1, keepdim=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("classes", [1, 3])
def test_focal_and_dice(classes):
    logits, target = batch(classes)
    z = (logits[:, 1:] - logits[:, :1]).numpy()
    y, p = target[:, 1:].numpy(), sigmoid(z)
    cross = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    expected = ((0.75 * y + 0.25 * (1 - y)) * (1 - (p * y + (1 - p) * (1 - y))) ** 3 * cross).mean()
    assert float(focal(logits, target)) == pytest.approx(expected)
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    assert float(dice_focal(logits, target)) == pytest.approx(expected + dice)


def test_weighted_cross_entropy_is_binary_cross_entropy_with_a_positive_weight_of_two():
    logits, target = batch(1)
    z, y = logits[:, 1] - logits[:, 0], target[:, 1]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor(2.0))
    torch.testing.assert_close(weighted_cross_entropy(logits, target), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_small_for_the_truth_and_has_a_gradient(name):
    truth = torch.nn.functional.one_hot(torch.randint(3, (2, 6, 6)), 3).movedim(-1, 1).float()
    good = 12 * truth - 6
    good[:, 0] = 0  # the background's logit where classes are told apart one by one
    bad = (-good).requires_grad_()
    loss = make_loss(name)
    assert float(loss(good, truth)) < 0.05 < float(loss(bad, truth))
    assert torch.autograd.grad(loss(bad, truth), bad)[0].abs().max() > 0


def test_unknown_losses_are_named():
    with pytest.raises(BlosamError, match="ce-dice"):
        make_loss("mse")
