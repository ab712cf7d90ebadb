"""The feature bank: encoded once, views seeded by (seed, image, view), labels aligned with the logits."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from blosam.data import BilevelLoader, FeatureBank, default_views
from blosam.data.bank import soft_labels
from blosam.errors import BlosamError
from blosam.networks import BloSam


def test_everything_is_encoded_once_without_gradient_in_eval_mode(make_dataset, recorder):
    network = recorder().train()
    bank = FeatureBank(make_dataset(4), network, default_views("greyscale"), num_views=3)
    assert network.encoded == 0 and len(bank.d1) == len(bank.d2) == 2  # the split needs no encoding
    bank.fill()
    bank.fill()
    loader = BilevelLoader(bank)
    for iteration in range(20):
        batch = loader.batch(iteration)
    assert network.encoded == 12
    assert network.modes == {False} and network.gradients == {False} and network.training
    assert not batch["d1"]["features"].requires_grad
    assert bank.nbytes == 12 * (3 * 16 * 16 + 2 * 16 * 16) * 2


def test_view_0_is_the_image_itself(make_dataset, recorder):
    dataset = make_dataset(3)
    bank = FeatureBank(dataset, recorder(), default_views("rgb"), num_views=2, dtype=torch.float32)
    got = bank.get([2, 0], [0, 0])
    expected = torch.stack([dataset[i]["image"] for i in (2, 0)])
    torch.testing.assert_close(got["features"], F.avg_pool2d(expected, 4))
    assert got["label"].shape == (2, 2, 16, 16) and got["label"].dtype == torch.float32


def test_a_view_depends_on_seed_image_and_number_only(make_dataset, recorder):
    dataset = make_dataset(3)

    def bank(seed, views):
        return FeatureBank(dataset, recorder(), default_views("rgb"), num_views=views, seed=seed)

    few, many = bank(5, 2), bank(5, 6)
    torch.rand(3), np.random.rand(3)
    reversed_order = [many.draw(i, v)["image"] for i in (2, 1, 0) for v in (5, 1)]
    torch.testing.assert_close(few.draw(2, 1)["image"], reversed_order[1], rtol=0, atol=0)
    torch.testing.assert_close(many.get([2], [1])["features"], few.get([2], [1])["features"], rtol=0, atol=0)
    assert not torch.equal(few.draw(2, 1)["image"], bank(6, 2).draw(2, 1)["image"])
    assert not torch.equal(few.draw(0, 1)["image"], few.draw(0, 2)["image"])


def test_filling_leaves_the_global_random_state_alone(make_dataset, recorder):
    def noisy(item):
        return {**item, "image": item["image"] + 0.1 * torch.rand(3, 1, 1)}

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = FeatureBank(make_dataset(2), recorder(), noisy, num_views=3)
    first.fill()
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(10)
    again = FeatureBank(make_dataset(2), recorder(), noisy, num_views=3)
    rows = ([0, 1, 1], [1, 1, 2])
    torch.testing.assert_close(first.get(*rows)["features"], again.get(*rows)["features"], rtol=0, atol=0)


@pytest.mark.parametrize("seconds, expected", [(1e9, 32), (1e-9, 1)])
def test_num_views_auto(make_dataset, recorder, caplog, seconds, expected):
    bank = FeatureBank(make_dataset(2), recorder(), default_views(), seconds=seconds)
    with caplog.at_level(logging.INFO):
        bank.fill()
    assert bank.num_views == expected and f"{expected} views of 2 images" in caplog.text


@pytest.mark.parametrize("views_that_fit, expected", [(33, 32), (9, 8), (0.5, 1)])
def test_num_views_auto_leaves_half_of_the_memory_free(make_dataset, recorder, monkeypatch, views_that_fit, expected):
    view = 2 * 3 * 16 * 16 * 2  # two images, 3 x 16 x 16 features in float16
    monkeypatch.setattr("blosam.data.bank._free_memory", lambda device: 2 * views_that_fit * view)
    bank = FeatureBank(make_dataset(2), recorder(), default_views(), seconds=1e9)
    bank.fill()
    assert bank.num_views == expected


def test_drawing_a_view_does_not_reseed_the_gpus(make_dataset, recorder, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    FeatureBank(make_dataset(2), recorder(), default_views(), num_views=2).fill()
    assert seeded == []


def test_without_a_view_transform_there_is_one_view(make_dataset, recorder):
    bank = FeatureBank(make_dataset(2), recorder(), None, num_views=32)
    bank.fill()
    assert bank.num_views == 1 and bank.network.encoded == 2


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.float32, 0.0)])
def test_storage_types(make_dataset, recorder, dtype, tolerance):
    bank = FeatureBank(make_dataset(2), recorder(), dtype=dtype)
    features = bank.get([1], [0])["features"]
    assert features.dtype == torch.float32
    expected = F.avg_pool2d(make_dataset(2)[1]["image"][None], 4)
    torch.testing.assert_close(features, expected, rtol=tolerance, atol=0)


def test_clear_encodes_again(make_dataset, recorder):
    bank = FeatureBank(make_dataset(2), recorder())
    bank.fill()
    bank.clear()
    assert not bank.filled and bank.nbytes == 0
    bank.get([0], [0])
    assert bank.network.encoded == 4


def test_bad_arguments(make_dataset, recorder):
    for options, match in [
        ({"num_views": 0}, "num_views is 0"),
        ({"num_views": "many"}, "num_views is 'many'"),
        ({"dtype": torch.int8}, "cannot keep torch.int8"),
    ]:
        with pytest.raises(BlosamError, match=match):
            FeatureBank(make_dataset(2), recorder(), **options)
    dataset = make_dataset(2)
    dataset.data[0]["label"] = dataset.data[0]["label"] * 5
    with pytest.raises(BlosamError, match="class 5, but the network has classes 0..1"):
        FeatureBank(dataset, recorder()).fill()


def test_soft_labels_are_area_fractions():
    label = torch.randint(0, 3, (2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    soft = soft_labels(label, 3, 8)
    for batch, row, column, kind in [(0, 0, 0, 0), (1, 7, 2, 1), (0, 3, 5, 2)]:
        block = label[batch, 0, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        assert soft[batch, kind, row, column] == (block == kind).float().mean()
    assert torch.equal(soft.sum(1), torch.ones(2, 8, 8))
    assert torch.equal(soft, soft.half().float())  # exact in half precision


def test_soft_labels_are_aligned_with_upsampled_logits():
    """Corner-aligned sampling of labels shifts them by up to one low-resolution pixel (B13)."""
    truth = torch.zeros(1, 1, 256, 256, dtype=torch.long)
    truth[..., 64:192, 100:148] = 1
    low = soft_labels(truth, 2, 64)
    back = F.interpolate(low, size=(256, 256), mode="bilinear", align_corners=False).argmax(1)
    assert (back != truth[:, 0]).sum() <= 4 * 4  # only corners are rounded

    def centre(mask):  # of mass, in pixels of the full image
        position = (torch.arange(mask.shape[-1]) + 0.5) * 256 / mask.shape[-1]
        return (mask.sum(0) * position).sum() / mask.sum(), (mask.sum(1) * position).sum() / mask.sum()

    assert centre(low[0, 1]) == centre(truth[0, 0].float())


@pytest.mark.parametrize("trainable", ["decoder", "all"])
def test_with_the_real_network(make_dataset, trainable):
    network = BloSam(encoder="tiny", image_size=64, out_channels=2, trainable=trainable)
    bank = FeatureBank(make_dataset(2), network, default_views(), num_views=2, dtype=torch.float32)
    got = bank.get([0, 1], [0, 0])
    images = torch.stack([item["image"] for item in make_dataset(2)])
    if trainable == "all":
        torch.testing.assert_close(got["features"], images)
    low = network.logits_from(got["features"])
    assert low.shape == got["label"].shape
    with torch.no_grad():
        again = network.eval()(images)
    upsampled = F.interpolate(low, size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled.detach(), again, rtol=1e-4, atol=1e-4)


def test_autocast(make_dataset):
    network = BloSam(encoder="tiny", image_size=64, out_channels=2)
    exact = FeatureBank(make_dataset(2), network, dtype=torch.float32).get([0], [0])["features"]
    quick = FeatureBank(make_dataset(2), network, dtype=torch.float32, amp_dtype=torch.bfloat16)
    torch.testing.assert_close(quick.get([0], [0])["features"], exact, rtol=0.1, atol=0.1 * float(exact.std()) + 0.05)


@pytest.mark.gpu
def test_on_a_gpu(make_dataset):
    network = BloSam(encoder="tiny", image_size=64, out_channels=2)
    slow = FeatureBank(make_dataset(3), network, default_views(), num_views=4, dtype=torch.float32)
    expected = slow.get([0, 1, 2], [3, 0, 1])
    quick = FeatureBank(make_dataset(3), network.cuda(), default_views(), 4, device="cuda", dtype=torch.float32)
    got = quick.get([0, 1, 2], [3, 0, 1])
    assert got["features"].is_cuda and got["label"].is_cuda
    torch.testing.assert_close(got["label"].cpu(), expected["label"])
    torch.testing.assert_close(got["features"].cpu(), expected["features"], rtol=1e-2, atol=1e-2)
