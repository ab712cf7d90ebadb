"""A network of a few hundred smooth weights with BloSam's interface, in-memory images, and a trainer on both."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.losses import DiceCELoss
from torch import nn
from torch.nn import functional

from blosam.data import BilevelLoader, FeatureBank
from blosam.engines import BilevelTrainer, PolySchedule

SIZE = 16  # image side; the logits have the same size


class ToyNet(nn.Module):
    """Frozen 1 x 1 convolution, then softplus layers that depend on theta and p; smooth everywhere."""

    def __init__(self, seed: int = 0, dropout: float = 0.0, out_channels: int = 2) -> None:
        super().__init__()
        self.encoder_name, self.image_size, self.out_channels = "toy", SIZE, out_channels
        self.logits_size, self.keeps, self.structure = SIZE, "embedding", {}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.encoder = nn.Conv2d(3, 8, 1)
            self.prompt = nn.Parameter(0.1 * torch.randn(1, 8))
            self.hidden = nn.Conv2d(8, 8, 1)
            self.head = nn.Conv2d(8, out_channels, 1)
            self.iou_head = nn.Linear(8, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.encoder.requires_grad_(False)

    def weight_parameters(self, iou_head: bool = False) -> list[nn.Parameter]:
        own = [*self.hidden.parameters(), *self.head.parameters()]
        return own + (list(self.iou_head.parameters()) if iou_head else [])

    def prompt_parameters(self) -> list[nn.Parameter]:
        return [self.prompt]

    def frozen_features(self, image):
        with torch.no_grad():
            return torch.tanh(self.encoder(image))

    def logits_and_iou_from(self, features):
        x = self.dropout(features.to(self.prompt.dtype) + self.prompt[:, :, None, None])
        x = functional.softplus(self.hidden(x) * self.prompt.mean().exp())
        return self.head(x), self.iou_head(x.mean((2, 3)))

    def logits_from(self, features):
        return self.logits_and_iou_from(features)[0]

    def forward(self, image):
        return self.logits_from(self.frozen_features(image))


class ScriptedValidator:
    """Stands in for an evaluator: its key metric takes given values, one per run, every ``interval`` epochs."""

    def __init__(self, values, interval: int = 1) -> None:
        self.values, self.interval = list(values), interval
        self.state = SimpleNamespace(iteration=0, epoch=0, metrics={}, key_metric_name="dice", best_metric=-1,
                                     best_metric_epoch=-1)  # fmt: skip

    def attach(self, engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def __call__(self, engine) -> None:
        self.state.epoch, self.state.iteration = engine.state.epoch, 1
        self.state.metrics["dice"] = self.values[engine.state.epoch // self.interval - 1]


def make_items(count: int = 4, seed: int = 0) -> list[dict]:
    """Images whose brighter half is the object, with noise."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for index in range(count):
        label = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
        label[:, : 4 + index, 3:12] = 1
        noise = torch.rand(3, SIZE, SIZE, generator=generator)
        items.append({"image": (0.6 * label + 0.4 * noise).float(), "label": label})
    return items


def jitter(item: dict) -> dict:
    """A view: brightness drawn from PyTorch's global state, which the bank seeds."""
    return {"image": item["image"] * (0.8 + 0.4 * torch.rand(1)), "label": item["label"]}


@pytest.fixture
def toy_net():
    return ToyNet


@pytest.fixture
def validator():
    return ScriptedValidator


@pytest.fixture
def dice_ce():
    return DiceCELoss(softmax=True, squared_pred=True, batch=True, include_background=True, lambda_dice=0.8,
                      lambda_ce=0.2, smooth_nr=1e-5, smooth_dr=1e-5)  # fmt: skip


@pytest.fixture
def make_trainer(dice_ce):
    """Factory of a fresh network, optimizers, bank, loader and trainer, as a new process would build them."""

    def make(handlers=(), net=None, items=None, epochs=3, seed=0, views=None, num_views=1, batch_size=1,
             lr=5e-3, prompt_lr=5e-3, weight_decay=0.1, dropout=0.0, iou=0.0, loader=None, fused=False,
             **options):  # fmt: skip
        net = ToyNet(dropout=dropout) if net is None else net
        bank = FeatureBank(Dataset(make_items() if items is None else items), net, views=views,
                           num_views=num_views, seed=seed, dtype=torch.float32)  # fmt: skip
        joint = options.get("joint", False)
        loader = loader or BilevelLoader(bank, batch_size=batch_size, seed=seed, joint=joint)
        weights = torch.optim.AdamW(net.weight_parameters(iou > 0), lr=lr, weight_decay=weight_decay, fused=fused)
        prompts = torch.optim.AdamW(net.prompt_parameters(), lr=prompt_lr, weight_decay=weight_decay)
        options.setdefault("loss_function", dice_ce)
        return BilevelTrainer("cpu", epochs, loader, net, weights, prompts, iou_loss_weight=iou,
                              train_handlers=[PolySchedule(), *handlers], **options)  # fmt: skip

    return make


@pytest.fixture
def items():
    return make_items


@pytest.fixture
def brightness_view():
    return jitter


@pytest.fixture
def trained_state():
    """Copy of theta and p of a network, in one list."""

    def copy(net):
        return [p.detach().clone() for p in (*net.weight_parameters(), *net.prompt_parameters())]

    return copy
