"""The promptable model: the batched path equals SAM's own, and the losses equal their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from blosam.pretraining.model import PromptableTiny
from blosam.pretraining.objective import batch_loss, dense_loss, mask_loss, prompt_loss, true_iou
from blosam.pretraining.samples import Mixture, PromptBatches


@pytest.fixture(scope="module")
def network() -> PromptableTiny:
    torch.manual_seed(0)
    return PromptableTiny(64).eval()


def stock(network, embedding, **prompts):
    """SAM's own path for one image: all four masks and their estimated quality."""
    sparse, dense = network.prompt_encoder(**{"points": None, "boxes": None, "masks": None, **prompts})
    return network.mask_decoder.predict_masks(embedding, network.prompt_encoder.get_dense_pe(), sparse, dense)


@torch.no_grad()
def test_batched_prompts_equal_sams_own_prompt_encoder_and_decoder(network):
    embedding = network.encode(torch.rand(2, 3, 64, 64))
    prompt = torch.tensor([[10.0, 20.0, 40.0, 50.0], [33.0, 12.0, 0.0, 0.0]])
    masks, iou = network.decode(embedding, network.sparse_prompts(prompt, torch.tensor([True, False])))
    box = stock(network, embedding[:1], boxes=prompt[:1])
    point = stock(network, embedding[1:], points=(prompt[1:, None, :2], torch.ones(1, 1)))
    torch.testing.assert_close(masks, torch.cat([box[0], point[0]]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(iou, torch.cat([box[1], point[1]]), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_asking_nothing_equals_sams_own_path(network):
    embedding = network.encode(torch.rand(2, 3, 64, 64))
    expected = [stock(network, one[None])[0] for one in embedding]
    torch.testing.assert_close(network.decode(embedding)[0], torch.cat(expected), rtol=1e-3, atol=1e-4)


def test_budget_of_weights(network):
    kept = {key: value for key, value in network.state_dict().items() if not key.startswith("dense_head.")}
    total = sum(value.numel() for value in kept.values())
    assert total <= 8_000_000 and 2 * total <= 16e6
    assert {key.split(".")[0] for key in kept} == {"image_encoder", "prompt_encoder", "mask_decoder"}


def test_mask_loss_formula():
    logits, target = torch.randn(3, 5, 6, dtype=torch.float64), torch.rand(3, 5, 6, dtype=torch.float64)
    for one, goal, loss in zip(logits, target, mask_loss(logits, target), strict=True):
        p = [1 / (1 + math.exp(-float(v))) for v in one.flatten()]
        t = [float(v) for v in goal.flatten()]
        dice = 1 - (2 * sum(a * b for a, b in zip(p, t, strict=True)) + 1) / (sum(p) + sum(t) + 1)
        entropy = -sum(b * math.log(a) + (1 - b) * math.log(1 - a) for a, b in zip(p, t, strict=True)) / len(p)
        assert float(loss) == pytest.approx(dice + entropy)


def test_true_iou_by_counting():
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]]).view(2, 2, 2)
    target = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).view(2, 2, 2)
    torch.testing.assert_close(true_iou(logits, target), torch.tensor([1 / 3, 1.0]))


def test_only_the_best_alternative_learns():
    logits = torch.randn(1, 4, 8, 8, requires_grad=True)
    target = (torch.rand(1, 1, 8, 8) > 0.5).float()
    prompt_loss(logits, torch.zeros(1, 4), target).backward()
    learns = logits.grad.abs().sum((0, 2, 3)) > 0
    best = int(mask_loss(logits.detach(), target.expand(1, 4, 8, 8))[0, 1:].argmin())
    assert learns.tolist() == [True] + [index == best for index in range(3)]


def test_unknown_channels_do_not_count():
    logits, target = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    known = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    other = logits.clone()
    other[:, 1:] = 7
    torch.testing.assert_close(dense_loss(logits, target, known), dense_loss(other, target, known))
    expected = mask_loss(logits[:, 0], target[:, 0]).mean()
    torch.testing.assert_close(dense_loss(logits, target, known), expected)


def test_a_few_steps_on_one_batch_lower_the_loss():
    torch.manual_seed(0)
    network = PromptableTiny(32)
    batch = PromptBatches(0, 2, 32, Mixture.of(("shapes",)), 1)[0]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss, parts = batch_loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(parts["loss"])
    assert losses[-1] < 0.85 * losses[0]
