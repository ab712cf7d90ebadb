"""Plain segmentation networks, above all the U-Net every few-shot result is held against.

They have the attributes and methods the feature bank and the evaluation ask of a network, so they go through
exactly the same data, views and time, the same loss and the same native-resolution metrics as BLO-SAM.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from monai.networks.nets import BasicUNet, SwinUNETR
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50

from blosam.baselines.backbone import build_resnet50
from blosam.compare.budget import Budget, rate_factor
from blosam.data.bank import FeatureBank
from blosam.data.loader import BilevelLoader
from blosam.engines.objective import published_loss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_FEATURES = (16, 32, 64, 128, 256, 16)  # the reference network of the documentation


class PlainNetwork(nn.Module):
    """A network without SAM behind BLO-SAM's interface: B x 3 x S x S in [0, 1] -> logits B x (K+1) x S x S.

    Args:
        image_size: S.
        out_channels: K + 1.
        net: takes normalised images and returns logits of the same size.
        mean: subtracted from the images.
        std: what they are then divided by.
    """

    keeps = "image"

    def __init__(
        self, image_size: int, out_channels: int, net: nn.Module, mean: float = 0.45, std: float = 0.25
    ) -> None:
        super().__init__()
        self.image_size = self.logits_size = image_size
        self.out_channels = out_channels
        self.net = net
        self.mean, self.std = mean, std

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits B x (K+1) x S x S."""
        return self.net((image - self.mean) / self.std)

    def frozen_features(self, image: torch.Tensor) -> torch.Tensor:
        """Nothing is frozen: the image itself."""
        return image

    def logits_from(self, features: torch.Tensor) -> torch.Tensor:
        """The same as ``forward``: nothing was computed ahead."""
        return self(features)

    def loss(self, features: torch.Tensor, label: torch.Tensor, loss_function: Loss) -> torch.Tensor:
        """What is minimised on a batch of :meth:`frozen_features` and soft labels B x (K+1) x S x S."""
        return loss_function(self.logits_from(features), label)


class UNet(PlainNetwork):
    """MONAI's BasicUNet from random weights.

    Args:
        image_size: S, divisible by 16.
        out_channels: K + 1.
        init_seed: seed of the random initialisation.
    """

    def __init__(self, image_size: int = 256, out_channels: int = 2, init_seed: int = 0) -> None:
        with _seeded(init_seed):
            net = BasicUNet(spatial_dims=2, in_channels=3, out_channels=out_channels, features=_FEATURES)
        super().__init__(image_size, out_channels, net)


class DeepLab(PlainNetwork):
    """torchvision's DeepLabV3 on ResNet-50 with its auxiliary head, all layers trained.

    Args:
        image_size: S.
        out_channels: K + 1.
        init_seed: seed of the random initialisation.
        backbone_weights: file of an ImageNet ResNet-50; None leaves it random.
    """

    def __init__(
        self,
        image_size: int = 256,
        out_channels: int = 2,
        init_seed: int = 0,
        backbone_weights: str | os.PathLike | None = None,
    ) -> None:
        with _seeded(init_seed):
            net = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=out_channels, aux_loss=True)
        if backbone_weights is not None:
            # The segmentation backbone is the classification one without its last layer.
            net.backbone.load_state_dict(build_resnet50(backbone_weights).state_dict(), strict=False)
        super().__init__(image_size, out_channels, net)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits B x (K+1) x S x S of the main head."""
        return self.net((image - self.mean) / self.std)["out"]

    def loss(self, features: torch.Tensor, label: torch.Tensor, loss_function: Loss) -> torch.Tensor:
        """Main head, and 0.4 times the auxiliary head."""
        if len(features) == 1:  # the pooled branch normalises over the batch, and one value has no spread
            features, label = features.expand(2, -1, -1, -1), label.expand(2, -1, -1, -1)
        heads = self.net((features - self.mean) / self.std)
        return loss_function(heads["out"], label) + 0.4 * loss_function(heads["aux"], label)


class SwinUnetr2d(PlainNetwork):
    """MONAI's SwinUNETR in two dimensions from random weights, in the place of SwinUnet.

    Args:
        image_size: S, divisible by 32.
        out_channels: K + 1.
        init_seed: seed of the random initialisation.
    """

    def __init__(self, image_size: int = 256, out_channels: int = 2, init_seed: int = 0) -> None:
        with _seeded(init_seed):
            net = SwinUNETR(in_channels=3, out_channels=out_channels, feature_size=24, spatial_dims=2)
        super().__init__(image_size, out_channels, net)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random weights of one seed, with the global generator as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def train_plain(
    network: PlainNetwork,
    bank: FeatureBank,
    budget: Budget,
    batch_size: int = 4,
    seed: int = 0,
    learning_rate: float = 1e-3,
    step_done: Callable[[torch.Tensor], None] | None = None,
) -> int:
    """Train on all images of the bank, jointly, until steps or seconds are used up.

    Args:
        network: on the bank's device.
        bank: images and views; must have been made for ``network``.
        budget: how many steps and seconds there are.
        batch_size: images per update.
        seed: order of images and views.
        learning_rate: AdamW, linear warm-up over 20 steps, then (1 - t/T)^0.9.
        step_done: called with the loss of every step, after it.

    Returns:
        Updates made.
    """
    loss_function = published_loss()
    loader = BilevelLoader(bank, batch_size=batch_size, seed=seed, joint=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.05)
    network.train()
    step = 0
    while (done := budget.progress(step)) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate_factor(done, step, warmup=20)
        batch = loader.batch(step)["d1"]
        loss = network.loss(batch["features"], batch["label"], loss_function)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step_done is not None:
            step_done(loss)
    network.eval()
    return step
