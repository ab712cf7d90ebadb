"""Self-support prototypes: the image's own confident places say what its foreground looks like.

Fan et al., "Self-Support Few-Shot Semantic Segmentation" (ECCV 2022). Own implementation from the description: a
ResNet-50 up to layer 3, cosine similarities (times 10) to prototypes of the support, then to prototypes made of the
image's own confident places.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backbone import Normalise, build_resnet50, freeze

SCALE = 10.0
FOREGROUND_SURE, BACKGROUND_SURE = 0.7, 0.6
FEWEST = 12  # places taken when too few are sure
LOCAL_SHARPNESS = 2.0


class SSP(nn.Module):
    """Logits of background and foreground for images, given support images and their masks.

    Args:
        backbone_weights: file of an ImageNet ResNet-50; None leaves it random.
    """

    def __init__(self, backbone_weights: str | os.PathLike | None = None) -> None:
        super().__init__()
        net = build_resnet50(backbone_weights, dilate=(False, True, True))
        self.normalise = Normalise()
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        freeze(self.stem)
        self.layer2, self.layer3 = net.layer2, net.layer3

    def train(self, mode: bool = True) -> SSP:
        """Set training mode; the frozen stem keeps its statistics."""
        super().train(mode)
        self.stem.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        """B x 1024 x S/8 x S/8 of images B x 3 x S x S in [0, 1]; the last block is not rectified again."""
        with torch.no_grad():
            x = self.stem(self.normalise(image))
        return self.layer3(self.layer2(x))

    def compare(self, image: Tensor, support: Tensor, mask: Tensor) -> Tensor:
        """Logits B x 2 x h x w from features of both and the support's mask, B x 1 x S x S in [0, 1]."""
        foreground, background = prototypes(support, mask)
        first = similarity(image, foreground, background)
        return similarity(image, *self_support(image, first, foreground))

    def forward(self, image: Tensor, support: Tensor, mask: Tensor) -> Tensor:
        """Logits of images.

        Args:
            image: B x 3 x S x S in [0, 1].
            support: B x 3 x S x S, one support image for each.
            mask: B x 1 x S x S in [0, 1].

        Returns:
            B x 2 x S x S: background, foreground.
        """
        return enlarge(self.compare(self.features(image), self.features(support), mask), image)

    def episode_loss(self, image: Tensor, target: Tensor, support: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of the image, of the image by prototypes of its own true mask, and 0.2 times of the support."""
        ours, theirs = self.features(image), self.features(support)
        own = similarity(ours, *prototypes(ours, target[:, None].float()))
        back = similarity(theirs, *prototypes(theirs, mask))
        losses = (
            functional.cross_entropy(enlarge(logits, image), truth)
            for logits, truth in (
                (self.compare(ours, theirs, mask), target),
                (own, target),
                (back, (mask[:, 0] > 0.5).long()),
            )
        )
        query, itself, supported = losses
        return query + itself + 0.2 * supported


def enlarge(logits: Tensor, image: Tensor) -> Tensor:
    """Bilinear resize to the image's size."""
    return functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


def prototypes(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean feature of foreground and background, B x C x 1 x 1 each.

    Args:
        features: B x C x h x w.
        mask: B x 1 x any size, in [0, 1].
    """
    share = functional.interpolate(mask, size=features.shape[-2:], mode="bilinear", align_corners=False)

    def mean(weight: Tensor) -> Tensor:
        return (features * weight).sum((2, 3), keepdim=True) / (weight.sum((2, 3), keepdim=True) + 1e-5)

    return mean(share), mean(1 - share)


def similarity(features: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """Ten times the cosine to each prototype, B x 2 x h x w; prototypes are B x C x 1 x 1 or x h x w."""
    cosines = [functional.cosine_similarity(features, p.expand_as(features), dim=1) for p in (background, foreground)]
    return SCALE * torch.stack(cosines, dim=1)


def self_support(features: Tensor, logits: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """Prototypes from the image's own sure places: foreground B x C x 1 x 1, background B x C x h x w.

    The foreground is half the support's and half the image's; the background is 0.3 of the image's mean and 0.7 of a
    mean made anew for every place, weighted by likeness.
    """
    batch, channels, rows, columns = features.shape
    probabilities = logits.softmax(dim=1).flatten(2)
    ours, backgrounds = [], []
    for index in range(batch):
        places = features[index].flatten(1)
        sure = _sure(places, probabilities[index, 1], FOREGROUND_SURE)
        behind = _sure(places, probabilities[index, 0], BACKGROUND_SURE)
        likeness = functional.normalize(places, dim=0).T @ functional.normalize(behind, dim=0)
        local = (LOCAL_SHARPNESS * likeness).softmax(dim=-1) @ behind.T
        ours.append(sure.mean(dim=1))
        backgrounds.append(0.3 * behind.mean(dim=1, keepdim=True) + 0.7 * local.T)
    own = torch.stack(ours).reshape(batch, channels, 1, 1)
    return 0.5 * foreground + 0.5 * own, torch.stack(backgrounds).reshape(batch, channels, rows, columns)


def _sure(places: Tensor, probability: Tensor, threshold: float) -> Tensor:
    """Features C x n of the places above the threshold, or of the likeliest few when there is none."""
    chosen = probability > threshold
    if bool(chosen.any()):
        return places[:, chosen]
    return places[:, probability.topk(min(FEWEST, probability.numel())).indices]
