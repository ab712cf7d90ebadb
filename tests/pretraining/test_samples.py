"""Batches: reproducible by number, prompts that lie where they should, padding and resolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blosam.data.phantoms.canvas import Chance
from blosam.pretraining.appearance import PADDING
from blosam.pretraining.drawing import Drawing
from blosam.pretraining.kinds import DENSE_OFFSETS, KINDS, TOTAL_DENSE
from blosam.pretraining.samples import Mixture, PromptBatches, ask, choose_target, pack
from blosam.pretraining.shapes import DENSE_CHANNELS


@pytest.fixture(scope="module")
def batches() -> PromptBatches:
    return PromptBatches(seed=3, batch_size=4, size=64, mixture=Mixture.of(KINDS), length=10)


def test_a_batch_is_a_function_of_its_number(batches):
    first, again, other = batches[2], batches[2], batches[3]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["image"], other["image"])


def test_shapes_and_ranges(batches):
    batch = batches[0]
    assert batch["image"].shape == (4, 3, 64, 64)
    assert batch["target"].shape == (4, 1, 32, 32)
    assert batch["dense"].shape == (4, TOTAL_DENSE, 16, 16)
    assert batch["dense_known"].shape == (4, TOTAL_DENSE)
    assert batch["prompt"].shape == (2, 4) and batch["is_box"].shape == (2,)
    for key in ("image", "target", "dense"):
        assert batch[key].min() >= 0 and batch[key].max() <= 1


def test_what_is_asked_for_is_there_and_under_the_point_or_in_the_box(batches):
    for number in range(4):
        batch = batches[number]
        for target, prompt, is_box in zip(batch["target"][2:, 0], batch["prompt"], batch["is_box"], strict=True):
            assert target.sum() > 0
            if is_box:
                rows, columns = torch.nonzero(target > 0, as_tuple=True)
                wide, high = prompt[2] - prompt[0], prompt[3] - prompt[1]
                assert abs(float(columns.float().mean()) * 2 - float(prompt[0] + prompt[2]) / 2) < wide / 2 + 3
                assert abs(float(rows.float().mean()) * 2 - float(prompt[1] + prompt[3]) / 2) < high / 2 + 3
            else:
                assert target[int(prompt[1]) // 2, int(prompt[0]) // 2] > 0


def test_probabilities_of_the_mixture():
    mixture = Mixture.of(KINDS)
    assert mixture.asked == pytest.approx((0.5, 1 / 6, 1 / 6, 1 / 6))
    assert mixture.unasked == pytest.approx((0.25, 0.25, 0.25, 0.25))
    assert Mixture.of(("shapes",)).asked == (1.0,)
    assert Mixture.of(("chest", "dental")).unasked == (0.5, 0.5)


def test_a_point_means_the_connected_part_it_lies_in():
    two = np.zeros((40, 40), dtype=bool)
    two[5:15, 5:15] = two[25:35, 25:35] = True
    drawing = Drawing(np.zeros((40, 40, 3), np.float32), two[None], two, np.zeros((0, 40, 40), bool), True, True)
    chosen = [choose_target(Chance([seed]), drawing) for seed in range(30)]
    assert {int(target.sum()) for target, mode in chosen if mode == "point"} == {100}
    assert {int(target.sum()) for target, mode in chosen if mode == "box"} == {100, 200}


def test_nothing_to_ask_for_gives_none():
    empty = Drawing(
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 8), bool),
        np.zeros((8, 8), bool),
        np.zeros((0, 8, 8), bool),
        True,
        True,
    )
    assert choose_target(Chance([0]), empty) is None


def test_a_box_is_loose_but_near():
    mask = np.zeros((100, 100), dtype=bool)
    mask[20:60, 30:80] = True
    boxes = torch.stack([ask(Chance([seed]), mask, "box") for seed in range(200)])
    torch.testing.assert_close(boxes.mean(0), torch.tensor([30.0, 20.0, 79.0, 59.0]), atol=0.8, rtol=0)
    assert boxes.std(0).min() > 1 and boxes.std(0).max() < 6


def test_packing_pads_with_sams_mean_and_averages_areas():
    image = np.full((32, 48, 3), 0.25, np.float32)
    masks = np.random.default_rng(0).random((1 + DENSE_CHANNELS, 32, 48)) > 0.5
    packed = pack("shapes", image, masks, torch.zeros(4), "none", 64)
    torch.testing.assert_close(packed["image"][:, 40, 60], torch.tensor(PADDING))
    assert (packed["image"][:, :32, :48] == 0.25).all()
    expected = masks[0].reshape(16, 2, 24, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(packed["target"][0, :16, :24].numpy(), expected)
    assert packed["target"][0, 16:].sum() == 0 and packed["target"][0, :, 24:].sum() == 0
    first = DENSE_OFFSETS["shapes"]
    expected = masks[2].reshape(8, 4, 12, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(packed["dense"][first + 1, :8, :12].numpy(), expected)
    assert packed["dense_known"].sum() == DENSE_CHANNELS
