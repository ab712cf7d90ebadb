"""Bottleneck adapters: a narrow pair of layers beside the MLP of a block (AdaptFormer, Med-SA) or behind its attention
(Med-SA).

Chen et al., "AdaptFormer" (NeurIPS 2022); Wu et al., "Medical SAM Adapter" (2023). The second layer starts at zero, so
that the adapted block starts as the plain one; Med-SA's own adapters start at random.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional

from ..tiny import ConvBlock


class Bottleneck(nn.Module):
    """``scale * up(act(down x))``, zero at the start.

    Args:
        width: of input and output, ... x width.
        hidden: width in between.
        act: ``relu`` (AdaptFormer) or ``gelu`` (Med-SA).
        scale: a number that is kept, or None for a learned one that starts at 1.
    """

    def __init__(self, width: int, hidden: int, act: str, scale: float | None) -> None:
        super().__init__()
        self.adapter_down = nn.Linear(width, hidden)
        self.adapter_up = nn.Linear(hidden, width)
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)
        self.act = act
        self.fixed_scale = scale
        self.adapter_scale = nn.Parameter(torch.ones(1)) if scale is None else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.adapter_down(x)
        hidden = functional.relu(hidden) if self.act == "relu" else functional.gelu(hidden)
        return self.adapter_up(hidden) * (self.fixed_scale if self.adapter_scale is None else self.adapter_scale)


class AdaptedMLP(nn.Module):
    """SAM's MLP block with a bottleneck beside it: ``mlp(x) + bottleneck(x)``.

    The residual connection is the block's own: the input is not added a second time.

    Args:
        mlp: segment_anything's ``MLPBlock``; its layers are taken over under their names.
        bottleneck: of the same width.
    """

    def __init__(self, mlp: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = mlp.lin1, mlp.lin2, mlp.act
        self.bottleneck = bottleneck

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x))) + self.bottleneck(x)


class AdaptedAttention(Attention):
    """SAM's attention with a bottleneck behind it: ``y + bottleneck(y)``, Med-SA's space adapter.

    Args:
        attention: segment_anything's ``Attention``; its tensors are taken over under their names.
        bottleneck: of the same width.
    """

    def __init__(self, attention: Attention, bottleneck: Bottleneck) -> None:
        nn.Module.__init__(self)  # the base class would draw weights that are thrown away
        self.num_heads, self.scale, self.use_rel_pos = attention.num_heads, attention.scale, attention.use_rel_pos
        self.qkv, self.proj = attention.qkv, attention.proj
        if self.use_rel_pos:
            self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w
        self.bottleneck = bottleneck

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + self.bottleneck(y)


class AdaptedConvBlock(ConvBlock):
    """The embedded encoder's block with a bottleneck beside its two pointwise layers.

    Args:
        block: the base block; its layers are taken over under their names.
        bottleneck: of the same width.
    """

    def __init__(self, block: ConvBlock, bottleneck: Bottleneck) -> None:
        nn.Module.__init__(self)
        self.depthwise, self.norm = block.depthwise, block.norm
        self.expand, self.project, self.gain = block.expand, block.project, block.gain
        self.bottleneck = bottleneck

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.project(functional.gelu(self.expand(normed))) * self.gain + self.bottleneck(normed)
        return x + y.permute(0, 3, 1, 2)
