"""HSNet and SSP: published sizes, formulas against NumPy, support at inference, and learning from episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from blosam.baselines import SSP, DeepLab, HSNet, Supported, SwinUnetr2d, train_episodes
from blosam.baselines.backbone import build_resnet50
from blosam.baselines.hsnet import CenterPivotConv4d, correlation
from blosam.baselines.ssp import prototypes, self_support, similarity
from blosam.compare.budget import Budget
from blosam.errors import BlosamError


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"hsnet": HSNet(), "ssp": SSP()}


def count(network: nn.Module) -> tuple[int, int]:
    parameters = list(network.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def test_sizes_are_the_published_ones(networks):
    assert count(networks["hsnet"]) == (28_130_826, 2_573_794)
    assert count(networks["ssp"]) == (8_543_296, 8_317_952)


def test_correlation_is_the_clamped_cosine_of_every_pair_of_places():
    rng = np.random.default_rng(0)
    image, support = rng.normal(size=(1, 5, 2, 3)), rng.normal(size=(1, 5, 3, 2))
    mask = np.array([[1, 0], [1, 1], [0, 1]], float)
    found = correlation(torch.tensor(image), torch.tensor(support), torch.tensor(mask)[None, None]).numpy()[0]
    for place in np.ndindex(2, 3, 3, 2):
        a, b = image[0, :, place[0], place[1]], support[0, :, place[2], place[3]]
        expected = max(0.0, a @ b / np.linalg.norm(a) / np.linalg.norm(b)) * mask[place[2], place[3]]
        assert found[place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_center_pivot_convolution_is_the_sum_of_two_2d_ones(stride):
    torch.manual_seed(0)
    layer = CenterPivotConv4d(2, 3, kernel=3, stride=stride)
    x = torch.randn(1, 2, 4, 5, 6, 4)
    found = layer(x)
    rows, columns = -(-6 // stride), -(-4 // stride)
    assert found.shape == (1, 3, 4, 5, rows, columns)
    for place in np.ndindex(4, 5, rows, columns):
        over_image = layer.over_image(x[..., place[2] * stride, place[3] * stride])[0, :, place[0], place[1]]
        over_support = layer.over_support(x[:, :, place[0], place[1]])[0, :, place[2], place[3]]
        torch.testing.assert_close(found[0][(slice(None), *place)], over_image + over_support, rtol=1e-4, atol=1e-5)


def test_prototypes_and_similarities_against_numpy():
    rng = np.random.default_rng(1)
    features, mask = rng.normal(size=(1, 4, 3, 3)), rng.integers(0, 2, (1, 1, 3, 3)).astype(float)
    foreground, background = prototypes(torch.tensor(features), torch.tensor(mask))
    inside = mask[0, 0] > 0
    np.testing.assert_allclose(foreground[0, :, 0, 0], features[0][:, inside].mean(1), atol=1e-4)
    np.testing.assert_allclose(background[0, :, 0, 0], features[0][:, ~inside].mean(1), atol=1e-4)
    logits = similarity(torch.tensor(features), foreground, background)[0].numpy()
    for row, column in np.ndindex(3, 3):
        place = features[0, :, row, column]
        for channel, prototype in enumerate((background, foreground)):
            other = prototype[0, :, 0, 0].numpy()
            cosine = place @ other / np.linalg.norm(place) / np.linalg.norm(other)
            assert logits[channel, row, column] == pytest.approx(10 * cosine, abs=1e-4)


def test_self_support_mixes_the_sure_places_of_the_image_in_the_published_shares():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(1, 4, 2, 4))
    logits = np.zeros((1, 2, 2, 4))
    logits[0, 1, 0, :2], logits[0, 0, 1, :] = 3, 3  # two sure foreground places, four sure background places
    support = rng.normal(size=(1, 4, 1, 1))
    own, background = self_support(torch.tensor(features), torch.tensor(logits), torch.tensor(support))
    flat = features[0].reshape(4, -1)
    sure, behind = flat[:, :2], flat[:, 4:]
    np.testing.assert_allclose(own[0, :, 0, 0], 0.5 * support[0, :, 0, 0] + 0.5 * sure.mean(1), atol=1e-6)
    unit = flat / np.linalg.norm(flat, axis=0)
    weight = np.exp(2 * unit.T @ (behind / np.linalg.norm(behind, axis=0)))
    local = behind @ (weight / weight.sum(1, keepdims=True)).T
    expected = 0.3 * behind.mean(1, keepdims=True) + 0.7 * local
    np.testing.assert_allclose(background[0].numpy().reshape(4, -1), expected, atol=1e-6)
    own, _ = self_support(torch.tensor(features), torch.zeros(1, 2, 2, 4), torch.tensor(support))  # nothing is sure
    assert torch.isfinite(own).all()


@pytest.mark.parametrize("name", ["hsnet", "ssp"])
def test_masks_depend_on_the_support_and_batches_equal_single_images(networks, name):
    torch.manual_seed(0)
    network, image = networks[name].eval(), torch.rand(2, 3, 64, 64)
    labels = torch.zeros(3, 3, 64, 64)
    labels[0, 1, :32], labels[1, 2, :, 20:50], labels[2, 0] = 1, 1, 1
    supported = Supported(network, torch.rand(3, 3, 64, 64), labels)
    logits = supported(image)
    assert logits.shape == (2, 3, 64, 64) and not logits[:, 0].any()
    torch.testing.assert_close(logits[1:], supported(image[1:]), rtol=1e-3, atol=1e-3)
    other = Supported(network, supported.support, labels.flip(-1))(image)
    assert (other - logits).abs().max() > 1e-4
    assert (
        Supported(network, supported.support, labels[:, :2] * 0)(image)[:, 1] == -1
    ).all()  # never shown, never seen


@pytest.mark.parametrize("name", ["hsnet", "ssp"])
def test_gradients_reach_what_is_trained_and_nothing_else(networks, name):
    torch.manual_seed(0)
    network = networks[name].train()
    mask = (torch.rand(2, 1, 64, 64) > 0.5).float()
    loss = network.episode_loss(torch.rand(2, 3, 64, 64), mask[:, 0].long(), torch.rand(2, 3, 64, 64), mask.flip(0))
    trained = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    assert sum(g is not None and bool(g.abs().any()) for g in gradients) >= 0.9 * len(trained)
    frozen = network.backbone if name == "hsnet" else network.stem
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())


class Colour(nn.Module):
    """A two-parameter network with the interface of the few-shot ones."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv2d(3, 2, 1)

    def episode_loss(self, image, target, support, mask):
        assert len(image) == len(support) == len(mask)
        return nn.functional.cross_entropy(self.line(image), target)


class Bank:
    """Four images whose class is their brightness."""

    num_views, filled = 1, True

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(4, 1, 8, 8, generator=generator).expand(-1, 3, -1, -1)
        bright = (self.images[:, :1] > 0.5).float()
        self.labels = torch.cat([1 - bright, bright], 1)

    def __len__(self):
        return 4

    def fill(self):
        pass

    def get(self, images, views):
        return {"features": self.images[list(images)], "label": self.labels[list(images)]}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_episodes_lower_the_loss_repeatably(optimizer):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        network, bank = Colour(), Bank()
        target = (bank.labels[:, 1] > 0.5).long()
        before = float(network.episode_loss(bank.images, target, bank.images, bank.labels))
        steps = train_episodes(network, bank, Budget(60.0, 60), 0.2, optimizer=optimizer, seed=3)
        after = float(network.episode_loss(bank.images, target, bank.images, bank.labels))
        assert steps == 60 and after < 0.7 * before
        results.append(after)
    assert results[0] == results[1]


def test_plain_networks_take_any_batch_and_deeplab_a_single_image():
    image, label = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64).softmax(1)
    for network in (DeepLab(64, 3, init_seed=1), SwinUnetr2d(64, 3, init_seed=1)):
        loss = network.train().loss(image, label, lambda logits, target: (logits - target).square().mean())
        assert torch.isfinite(loss) and loss.requires_grad
        assert network.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 3, 64, 64)
    assert 41_900_000 < count(DeepLab(64, 21))[0] < 42_100_000


def test_backbone_weights_are_loaded_and_others_refused(tmp_path):
    torch.manual_seed(5)
    state = build_resnet50().state_dict()
    torch.save(state, tmp_path / "resnet50.pth")
    loaded = HSNet(tmp_path / "resnet50.pth").backbone
    assert torch.equal(loaded.layer4[2].conv3.weight, state["layer4.2.conv3.weight"])
    deeplab = DeepLab(64, 2, backbone_weights=tmp_path / "resnet50.pth")
    assert torch.equal(deeplab.net.backbone.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    state.pop("layer3.0.conv1.weight")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(BlosamError, match="other.pth: no ResNet-50 of torchvision"):
        SSP(tmp_path / "other.pth")
