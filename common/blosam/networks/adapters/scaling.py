"""SSF: every feature of a layer's output scaled and shifted.

Lian et al., "Scaling & Shifting Your Features" (NeurIPS 2022), after the layers PEFT-SAM puts it behind. Scale and
shift start at exactly 1 and 0, so that the adapted layer starts as the plain one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .lora import plain_linear


class SSFLinear(nn.Linear):
    """``y = scale * (W x + bias) + shift``.

    Args:
        linear: the base layer; its tensors are taken over.
    """

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.adapter_scale = nn.Parameter(torch.ones(linear.out_features))
        self.adapter_shift = nn.Parameter(torch.zeros(linear.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias) * self.adapter_scale + self.adapter_shift

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        bias = self.adapter_shift if self.bias is None else self.adapter_scale * self.bias + self.adapter_shift
        return plain_linear(self, self.adapter_scale[:, None] * self.weight, bias)


class SSFNorm(nn.LayerNorm):
    """Layer normalisation, scaled and shifted once more.

    Args:
        norm: the base layer; its tensors are taken over.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        with torch.device("meta"):
            super().__init__(norm.normalized_shape, eps=norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        self.adapter_scale = nn.Parameter(torch.ones(norm.normalized_shape))
        self.adapter_shift = nn.Parameter(torch.zeros(norm.normalized_shape))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.adapter_scale + self.adapter_shift

    @torch.no_grad()
    def folded(self) -> nn.LayerNorm:
        """A plain layer that computes the same."""
        with torch.device("meta"):
            plain = nn.LayerNorm(self.normalized_shape, eps=self.eps)
        plain.weight = nn.Parameter(self.adapter_scale * self.weight, requires_grad=False)
        plain.bias = nn.Parameter(self.adapter_scale * self.bias + self.adapter_shift, requires_grad=False)
        return plain
