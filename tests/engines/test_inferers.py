"""Validation without encoding again, and never with features of other weights."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch.nn import functional

from blosam.engines import FrozenFeatureInferer
from blosam.networks import BloSam


def image_of(name, seed=0, size=64, count=1):
    data = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return MetaTensor(data, meta={"filename_or_obj": [name] * count}) if name else data


@pytest.fixture(scope="module")
def net():
    return BloSam(encoder="tiny", image_size=64).eval()


def counting(net, monkeypatch):
    calls, original = [], net.encode
    monkeypatch.setattr(net, "encode", lambda image: calls.append(1) or original(image))
    return calls


def test_equals_the_plain_network_and_encodes_each_file_once(net, monkeypatch):
    calls, inferer = counting(net, monkeypatch), FrozenFeatureInferer()
    with torch.no_grad():
        for name, seed in (("a", 0), ("b", 1), ("a", 0), ("b", 1)):
            image = image_of(name, seed)
            assert torch.equal(inferer(image, net), net(image.as_tensor()))
    assert len(calls) == 2 + 4  # four of them by the comparison itself


def test_sees_the_present_decoder(net):
    inferer, image = FrozenFeatureInferer(), image_of("a")
    with torch.no_grad():
        before = inferer(image, net)
        net.prompt_parameters()[0].add_(1.0)
        after = inferer(image, net)
        assert not torch.equal(before, after)
        assert torch.equal(after, net(image.as_tensor()))


def test_forgets_when_a_frozen_weight_is_loaded(net, monkeypatch):
    calls, inferer, image = counting(net, monkeypatch), FrozenFeatureInferer(), image_of("a")
    with torch.no_grad():
        inferer(image, net)
        net.load_state_dict(BloSam(encoder="tiny", image_size=64, init_seed=1).state_dict())
        after = inferer(image, net)
    assert len(calls) == 2
    with torch.no_grad():
        assert torch.equal(after, net(image.as_tensor()))


@pytest.mark.parametrize(("name", "count"), [(None, 1), ("a", 2)])
def test_without_a_name_or_in_a_batch_nothing_is_kept(net, monkeypatch, name, count):
    calls, inferer = counting(net, monkeypatch), FrozenFeatureInferer()
    image = image_of(name, count=count)
    with torch.no_grad():
        outputs = [inferer(image, net) for _ in range(2)]
    assert len(calls) == 2
    assert torch.equal(*(torch.as_tensor(o) for o in outputs))


def test_everything_trainable_is_computed_anew():
    net = BloSam(encoder="tiny", image_size=64, trainable="all").eval()
    inferer, image = FrozenFeatureInferer(), image_of("a")
    with torch.no_grad():
        before = torch.as_tensor(inferer(image, net)).clone()
        next(net.image_encoder.parameters()).add_(0.5)
        assert not torch.equal(before, torch.as_tensor(inferer(image, net)))


def test_keeps_at_most_max_images(net, monkeypatch):
    calls, inferer = counting(net, monkeypatch), FrozenFeatureInferer(max_images=1)
    with torch.no_grad():
        for name in ("a", "b", "a", "b"):
            inferer(image_of(name), net)
    assert len(calls) == 3


def test_any_function_is_simply_called():
    assert torch.equal(FrozenFeatureInferer()(torch.ones(1, 2), functional.relu), torch.ones(1, 2))
