"""Few-shot networks that look at support images: trained in episodes, and used with all labelled images as support."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from blosam.compare.budget import Budget, rate_factor
from blosam.data.bank import FeatureBank
from blosam.data.loader import BilevelLoader


class Supported(nn.Module):
    """A few-shot network with its support images: B x 3 x S x S in [0, 1] -> logits B x (K+1) x S x S.

    The logit of a class is its foreground minus its background, meaned over the support images that show it; the
    background's is 0. With one class, softmax then gives what the network gives.

    Args:
        network: an ``HSNet`` or ``SSP``.
        support: n x 3 x S x S in [0, 1].
        labels: n x (K+1) x S x S, share of each class.
    """

    def __init__(self, network: nn.Module, support: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("support", support)
        self.register_buffer("labels", labels)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Segment images; every support image is compared with every image."""
        ours = self.network.features(image)
        total = [image.new_zeros(image.shape[0], *image.shape[-2:])]
        for index in range(1, self.labels.shape[1]):
            shown = [n for n in range(len(self.support)) if float(self.labels[n, index].sum()) > 0]
            differences = [self._difference(ours, n, index, image) for n in shown]
            total.append(torch.stack(differences).mean(0) if differences else total[0] - 1.0)
        return torch.stack(total, dim=1)

    def _difference(self, ours: object, number: int, index: int, image: Tensor) -> Tensor:
        theirs = self.network.features(self.support[number : number + 1])
        batch = image.shape[0]
        mask = self.labels[number : number + 1, index : index + 1].expand(batch, -1, -1, -1)
        logits = self.network.compare(ours, _repeated(theirs, batch), mask)
        logits = functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return logits[:, 1] - logits[:, 0]


def _repeated(features: object, batch: int) -> object:
    """Features of one support image for each image of a batch."""
    if isinstance(features, list):
        return [_repeated(item, batch) for item in features]
    return features.expand(batch, -1, -1, -1)


def train_episodes(
    network: nn.Module,
    bank: FeatureBank,
    budget: Budget,
    learning_rate: float,
    optimizer: str = "adam",
    batch_size: int = 2,
    seed: int = 0,
    step_done: Callable[[Tensor], None] | None = None,
) -> int:
    """Train on pairs of labelled images, one as support of the other, until steps or seconds are used up.

    Args:
        network: has ``episode_loss(image, target, support, mask)``.
        bank: keeps the images themselves, in their views, with labels at S x S.
        budget: how many steps and seconds there are.
        learning_rate: at the start; decays as (1 - t/T)^0.9.
        optimizer: ``adam`` (HSNet) or ``sgd`` (SSP: momentum 0.9, weight decay 5e-4).
        batch_size: pairs of an update.
        seed: order of images, views and classes.
        step_done: called with the loss of every step, after it.

    Returns:
        Updates made.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if optimizer == "adam":
        optimiser: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    else:
        optimiser = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=5e-4)
    images = BilevelLoader(bank, batch_size=batch_size, seed=seed, joint=True)
    supports = BilevelLoader(bank, batch_size=batch_size, seed=seed + 1, joint=True)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    step = 0
    while (done := budget.progress(step)) < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * rate_factor(done, step, warmup=0)
        query, support = images.batch(step)["d1"], supports.batch(step)["d1"]
        pairs = min(len(query["features"]), len(support["features"]))
        classes = query["label"].shape[1] - 1
        index = 1 + int(torch.randint(classes, (), generator=generator))
        loss = network.episode_loss(
            query["features"][:pairs],
            (query["label"][:pairs, index] > 0.5).long(),
            support["features"][:pairs],
            support["label"][:pairs, index : index + 1],
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        step += 1
        if step_done is not None:
            step_done(loss)
    network.eval()
    return step
