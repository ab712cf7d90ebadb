"""The plain U-Net every few-shot result is held against, trained on the same images, views and time.

It has the three attributes and two methods the feature bank and the evaluation ask of a network, so it goes through
exactly the same data, the same loss and the same native-resolution metrics as BLO-SAM.
"""

from __future__ import annotations

import math

import torch
from monai.networks.nets import BasicUNet
from torch import nn

from blosam.compare.budget import Budget, rate_factor
from blosam.data.bank import FeatureBank
from blosam.data.loader import BilevelLoader
from blosam.engines.objective import published_loss

_FEATURES = (16, 32, 64, 128, 256, 16)  # the reference network of the documentation


class UNet(nn.Module):
    """MONAI's BasicUNet with BLO-SAM's interface: B x 3 x S x S in [0, 1] -> logits B x (K+1) x S x S.

    Args:
        image_size: S, divisible by 16.
        out_channels: K + 1.
        init_seed: seed of the random initialisation.
    """

    keeps = "image"

    def __init__(self, image_size: int = 256, out_channels: int = 2, init_seed: int = 0) -> None:
        super().__init__()
        self.image_size = self.logits_size = image_size
        self.out_channels = out_channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            self.net = BasicUNet(spatial_dims=2, in_channels=3, out_channels=out_channels, features=_FEATURES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits B x (K+1) x S x S; grey levels are centred as the reference did."""
        return self.net((image - 0.45) / 0.25)

    def frozen_features(self, image: torch.Tensor) -> torch.Tensor:
        """Nothing is frozen: the image itself."""
        return image

    def logits_from(self, features: torch.Tensor) -> torch.Tensor:
        """The same as ``forward``: nothing was computed ahead."""
        return self(features)


def train_unet(
    network: UNet,
    bank: FeatureBank,
    steps: int = 200,
    seconds: float | None = None,
    batch_size: int = 4,
    seed: int = 0,
    learning_rate: float = 1e-3,
) -> int:
    """Train on all images of the bank, jointly; stops early when the time is up.

    Args:
        network: the U-Net, on the bank's device.
        bank: images and views; must have been made for ``network``.
        steps: updates at most.
        seconds: wall-clock budget; None = no limit.
        batch_size: images per update.
        seed: order of images and views.
        learning_rate: AdamW, linear warm-up over 20 steps, then (1 - t/T)^0.9.

    Returns:
        Updates made.

    Raises:
        BlosamError: when ``steps`` or ``seconds`` is not positive.
    """
    loss_function = published_loss()
    loader = BilevelLoader(bank, batch_size=batch_size, seed=seed, joint=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.05)
    budget = Budget(math.inf if seconds is None else seconds, steps)
    network.train()
    step = 0
    while (done := budget.progress(step)) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate_factor(done, step, warmup=20)
        batch = loader.batch(step)["d1"]
        loss = loss_function(network.logits_from(batch["features"]), batch["label"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
    network.eval()
    return step
