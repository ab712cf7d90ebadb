"""Hypercorrelation squeeze: a mask from 4-D correlations between the image and labelled support images.

Min, Kang, Cho, "Hypercorrelation Squeeze for Few-Shot Segmentation" (ICCV 2021), the network whose sizes the BLO-SAM
paper prints as HSNet. Own implementation from the description: a frozen ResNet-50 gives the features of its last 13
bottlenecks; cosine similarities between all places of image and masked support form 4-D tensors at three scales; they
are squeezed over the support by center-pivot 4-D convolutions and decoded in 2-D.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backbone import Normalise, build_resnet50, freeze

CHANNELS = (16, 64, 128)
_LAYERS = ("layer2", "layer3", "layer4")


class CenterPivotConv4d(nn.Module):
    """Two 2-D convolutions instead of a 4-D one: over the image at each place of the support, and the reverse.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: side, the same in all four directions.
        stride: in the support's two directions; the image keeps its size.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.over_image = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.over_support = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """B x inputs x H x W x h x w to B x outputs x H x W x h' x w'."""
        batch, channels, rows, columns, _, _ = x.shape
        pruned = x[..., :: self.stride, :: self.stride]
        h, w = pruned.shape[-2:]
        image = pruned.permute(0, 4, 5, 1, 2, 3).reshape(-1, channels, rows, columns)
        image = self.over_image(image).reshape(batch, h, w, -1, rows, columns).permute(0, 3, 4, 5, 1, 2)
        support = x.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, *x.shape[-2:])
        support = self.over_support(support).reshape(batch, rows, columns, -1, h, w).permute(0, 3, 1, 2, 4, 5)
        return image + support


def squeeze(inputs: int, kernels: tuple[int, ...], strides: tuple[int, ...], outputs: tuple[int, ...]) -> nn.Sequential:
    """4-D convolution, group normalisation and ReLU, once per output width."""
    layers: list[nn.Module] = []
    for output, kernel, stride in zip(outputs, kernels, strides, strict=True):
        layers += [CenterPivotConv4d(inputs, output, kernel, stride), nn.GroupNorm(4, output), nn.ReLU()]
        inputs = output
    return nn.Sequential(*layers)


class HSNet(nn.Module):
    """Logits of background and foreground for images, given support images and their masks.

    Args:
        backbone_weights: file of an ImageNet ResNet-50; None leaves it random.
    """

    def __init__(self, backbone_weights: str | os.PathLike | None = None) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.backbone = build_resnet50(backbone_weights)
        freeze(self.backbone)
        wide = CHANNELS[-1]
        self.squeeze4 = squeeze(3, (3, 3, 3), (2, 2, 2), CHANNELS)
        self.squeeze3 = squeeze(6, (5, 3, 3), (4, 2, 2), CHANNELS)
        self.squeeze2 = squeeze(4, (5, 5, 3), (4, 4, 2), CHANNELS)
        self.mix43 = squeeze(wide, (3, 3, 3), (1, 1, 1), (wide,) * 3)
        self.mix32 = squeeze(wide, (3, 3, 3), (1, 1, 1), (wide,) * 3)
        self.decode1 = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, CHANNELS[1], 3, padding=1), nn.ReLU()
        )
        self.decode2 = nn.Sequential(
            nn.Conv2d(CHANNELS[1], CHANNELS[1], 3, padding=1), nn.ReLU(), nn.Conv2d(CHANNELS[1], 2, 3, padding=1)
        )

    def train(self, mode: bool = True) -> HSNet:
        """Set training mode; the frozen backbone keeps its statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.no_grad()
    def features(self, image: Tensor) -> list[list[Tensor]]:
        """Outputs of the bottlenecks of layers 2, 3 and 4 (4, 6 and 3 tensors) for images in [0, 1]."""
        net, found = self.backbone, []
        x = net.maxpool(net.relu(net.bn1(net.conv1(self.normalise(image)))))
        x = net.layer1(x)
        for name in _LAYERS:
            outputs = []
            for block in getattr(net, name):
                x = block(x)
                outputs.append(x)
            found.append(outputs)
        return found

    def compare(self, image: list[list[Tensor]], support: list[list[Tensor]], mask: Tensor) -> Tensor:
        """Logits B x 2 x H x W from features of both and the support's mask, B x 1 x S x S in [0, 1]."""
        levels = []
        for ours, theirs, net in zip(image, support, (self.squeeze2, self.squeeze3, self.squeeze4), strict=True):
            levels.append(net(torch.stack([correlation(q, s, mask) for q, s in zip(ours, theirs, strict=True)], dim=1)))
        mixed = self.mix43(_enlarge_image(levels[2], levels[1]) + _fit_support(levels[1], levels[2]))
        mixed = self.mix32(_enlarge_image(mixed, levels[0]) + _fit_support(levels[0], mixed))
        squeezed = self.decode1(mixed.mean(dim=(-2, -1)))
        squeezed = functional.interpolate(squeezed, scale_factor=2, mode="bilinear", align_corners=False)
        return self.decode2(squeezed)

    def forward(self, image: Tensor, support: Tensor, mask: Tensor) -> Tensor:
        """Logits of images.

        Args:
            image: B x 3 x S x S in [0, 1].
            support: B x 3 x S x S, one support image for each.
            mask: B x 1 x S x S in [0, 1].

        Returns:
            B x 2 x S x S: background, foreground.
        """
        logits = self.compare(self.features(image), self.features(support), mask)
        return functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)

    def episode_loss(self, image: Tensor, target: Tensor, support: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of the image's mask (B x S x S, 0 or 1) given one support image."""
        return functional.cross_entropy(self(image, support, mask), target)


def correlation(image: Tensor, support: Tensor, mask: Tensor) -> Tensor:
    """Cosine similarities, negative ones cut, between all places of two feature maps.

    Args:
        image: B x C x H x W.
        support: B x C x h x w.
        mask: B x 1 x any size; the support's features outside of it count as zero.

    Returns:
        B x H x W x h x w in [0, 1].
    """
    mask = functional.interpolate(mask.float(), size=support.shape[-2:], mode="bilinear", align_corners=True)
    ours = functional.normalize(image, dim=1, eps=1e-5).flatten(2)
    theirs = functional.normalize(support * mask, dim=1, eps=1e-5).flatten(2)
    similar = torch.bmm(ours.transpose(1, 2), theirs).clamp(min=0)
    return similar.reshape(image.shape[0], *image.shape[-2:], *support.shape[-2:])


def _enlarge_image(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize over the image's two directions."""
    batch, channels, rows, columns, h, w = x.shape
    flat = x.permute(0, 4, 5, 1, 2, 3).reshape(-1, channels, rows, columns)
    flat = functional.interpolate(flat, size=like.shape[2:4], mode="bilinear", align_corners=True)
    return flat.reshape(batch, h, w, channels, *like.shape[2:4]).permute(0, 3, 4, 5, 1, 2)


def _fit_support(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize over the support's two directions, where they differ."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    flat = functional.interpolate(x.flatten(1, 3), size=like.shape[-2:], mode="bilinear", align_corners=True)
    return flat.reshape(*x.shape[:4], *like.shape[-2:])
