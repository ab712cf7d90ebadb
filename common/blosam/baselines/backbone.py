"""ResNet-50 as the backbone of the few-shot networks and of DeepLab, with pretrained weights when a file is given."""

from __future__ import annotations

import os

import torch
from torch import nn

from blosam.compat import declare_torchvision_ops
from blosam.errors import BlosamError
from blosam.weightsio import read_state

declare_torchvision_ops()

from torchvision.models import resnet50  # noqa: E402

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Images B x 3 x S x S in [0, 1] with ImageNet's mean and standard deviation applied."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean) / self.std


def build_resnet50(
    weights: str | os.PathLike | None = None, dilate: tuple[bool, bool, bool] | None = None
) -> nn.Module:
    """torchvision's ResNet-50 with its classification layer.

    Args:
        weights: a state dict in torchvision's names (``resnet50-0676ba61.pth`` and the like); None leaves it random.
        dilate: which of layers 2 to 4 keep the resolution and dilate instead.

    Raises:
        BlosamError: when the file is not one of this network.
    """
    network = resnet50(weights=None, replace_stride_with_dilation=list(dilate) if dilate else None)
    if weights is not None:
        state = read_state(weights)
        own = network.state_dict()
        wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
        wrong = [name for name in wrong if not name.startswith("fc.") and not name.endswith("num_batches_tracked")]
        if wrong:
            raise BlosamError(f"{weights}: no ResNet-50 of torchvision (see {wrong[0]}). Give its state dict.")
        network.load_state_dict({**own, **{name: state[name] for name in own if name in state}})
    return network


def freeze(module: nn.Module) -> None:
    """No gradient, and running statistics stay as they are."""
    module.requires_grad_(False)
    module.eval()
