"""The embedded image encoder: small, convolutional, fast on a CPU, and shaped like SAM's.

Four stages of depthwise residual blocks (Liu et al., "A ConvNet for the 2020s", 2022) look at the image at strides
4, 8, 16 and 32; two attention blocks at stride 32 give every place sight of the whole image; a top-down pyramid
(Lin et al., "Feature Pyramid Networks", 2017) fuses the last three stages at stride 8 into the 256 channels that
SAM's mask decoder expects. The position of a place is known only through the zero padding of the convolutions, so any
image size works with the same weights.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

EMBED_DIM = 256
WIDTHS = (40, 80, 160, 224)
DEPTHS = (1, 2, 4, 1)
ATTENTION_BLOCKS = 2
HEAD_DIM = 32


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of a B x C x H x W tensor, each place by itself.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Pointwise(nn.Module):
    """A 1 x 1 convolution written as a matrix product on channels-last data: on a CPU much the faster of the two.

    Args:
        inputs: channels of the input, B x inputs x H x W.
        outputs: channels of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """Residual block: depthwise 7 x 7 convolution, normalisation, two pointwise layers, a learned gain per channel.

    Args:
        channels: channels of the input and the output.
        expansion: how many times wider the middle layer is.
        kernel: side of the depthwise kernel, odd.
    """

    def __init__(self, channels: int, expansion: int = 3, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, expansion * channels)
        self.project = nn.Linear(expansion * channels, channels)
        self.gain = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.project(functional.gelu(self.expand(self.norm(y)))) * self.gain
        return x + y.permute(0, 3, 1, 2)


class AttentionBlock(nn.Module):
    """Residual self-attention over all places, after a depthwise 3 x 3 convolution that carries the position.

    The convolution stands for a position table (Chu et al., "Conditional Positional Encodings", 2021), so that the
    block accepts any height and width.

    Args:
        channels: channels of the input and the output, a multiple of ``HEAD_DIM``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_DIM
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.gain = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.position(x)
        batch, channels, height, width = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        qkv = self.qkv(tokens).reshape(batch, height * width, 3, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, height * width, channels)) * self.gain
        return x + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class TinyEncoder(nn.Module):
    """Small stand-in for SAM's image encoder.

    Args:
        image_size: side S of the square input in pixels, divisible by 16. It is only recorded (as SAM's encoder does,
            in ``img_size``): no weight depends on it.
    """

    stride = 8

    def __init__(self, image_size: int = 256) -> None:
        super().__init__()
        self.img_size = image_size
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0] // 2, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTHS[0] // 2, WIDTHS[0], 3, stride=2, padding=1),
            ChannelNorm(WIDTHS[0]),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*[ConvBlock(width) for _ in range(depth)])
            for width, depth in zip(WIDTHS, DEPTHS, strict=True)
        )
        # 3 x 3 with padding: an odd height or width is rounded up, so that S need not be divisible by 32.
        self.downs = nn.ModuleList(
            nn.Sequential(ChannelNorm(narrow), nn.Conv2d(narrow, wide, 3, stride=2, padding=1))
            for narrow, wide in itertools.pairwise(WIDTHS)
        )
        self.context = nn.Sequential(
            *[nn.Sequential(AttentionBlock(WIDTHS[3]), ConvBlock(WIDTHS[3])) for _ in range(ATTENTION_BLOCKS)]
        )
        self.laterals = nn.ModuleList(
            nn.Sequential(ChannelNorm(width), Pointwise(width, EMBED_DIM)) for width in WIDTHS[1:]
        )
        self.fuse16 = ConvBlock(EMBED_DIM, expansion=1)
        self.fuse8 = ConvBlock(EMBED_DIM, expansion=1)
        self.neck = nn.Sequential(Pointwise(EMBED_DIM, EMBED_DIM), ChannelNorm(EMBED_DIM))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Embed images.

        Args:
            image: B x 3 x S x S, normalised with SAM's mean and standard deviation.

        Returns:
            B x 256 x S/8 x S/8.
        """
        x = self.stages[0](self.stem(image.contiguous(memory_format=torch.channels_last)))
        fine = self.stages[1](self.downs[0](x))
        middle = self.stages[2](self.downs[1](fine))
        coarse = self.context(self.stages[3](self.downs[2](middle)))
        x = _enlarge(self.laterals[2](coarse), middle)
        x = self.fuse16(x + self.laterals[1](middle))
        x = self.fuse8(_enlarge(x, fine) + self.laterals[0](fine))
        return self.neck(x)


def _enlarge(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bilinear resize of ``x`` to the height and width of ``like``."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
