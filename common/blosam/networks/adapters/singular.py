"""S-SAM: the singular values of frozen weights are scaled and shifted.

Paranjape et al., "S-SAM" (MICCAI 2024): ``W' = U diag(relu(a s + b)) V^T`` with learned a and b. Here a = 1 + delta and
the layer computes ``W + U diag(relu((1 + delta) s + b) - s) V^T``: exactly W at the start, and weight decay pulls
towards W instead of towards zero. The decomposition is kept in buffers, so that a state dict is complete.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .lora import plain_linear

_TOLERANCE = 1e-3  # of U s V^T against W, relative


class _Singular(nn.Module):
    """What linear layers and convolutions share; mixed into them, with ``weight`` out x ..."""

    def _init_singular(self) -> None:
        rows, columns = self.weight.shape[0], self.weight[0].numel()
        count = min(rows, columns)
        self.adapter_delta = nn.Parameter(torch.zeros(count))
        self.adapter_shift = nn.Parameter(torch.zeros(count))
        self.register_buffer("adapter_u", torch.zeros(rows, count))
        self.register_buffer("adapter_s", torch.zeros(count))
        self.register_buffer("adapter_vt", torch.zeros(count, columns))
        self._decomposed = False
        self.register_load_state_dict_post_hook(_loaded)

    @torch.no_grad()
    def decompose(self) -> None:
        """Compute U, s and V of the present weight unless they are already those of it."""
        if self._decomposed or self.weight.is_meta:
            return
        matrix = self.weight.detach().flatten(1).float()
        product = (self.adapter_u * self.adapter_s) @ self.adapter_vt
        if torch.linalg.norm(product - matrix) > _TOLERANCE * torch.linalg.norm(matrix):
            u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
            self.adapter_u.copy_(u)
            self.adapter_s.copy_(s)
            self.adapter_vt.copy_(vt)
        self._decomposed = True

    def tuned_weight(self) -> Tensor:
        """W', shaped like ``weight``."""
        tuned = functional.relu((1 + self.adapter_delta) * self.adapter_s + self.adapter_shift)
        change = (self.adapter_u * (tuned - self.adapter_s)) @ self.adapter_vt
        return self.weight + change.reshape(self.weight.shape)


def _loaded(module: _Singular, incompatible_keys: object) -> None:
    """Weights were loaded: the decomposition may be that of other ones."""
    module._decomposed = False


class SVDLinear(nn.Linear, _Singular):
    """Linear layer with tuned singular values.

    Args:
        linear: the base layer; its tensors are taken over.
    """

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self._init_singular()

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.tuned_weight(), self.bias)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        self.decompose()
        return plain_linear(self, self.tuned_weight(), self.bias)


class SVDConv2d(nn.Conv2d, _Singular):
    """Convolution whose kernel, flattened to out x (in * height * width), has tuned singular values.

    Args:
        convolution: the base layer, without groups; its tensors are taken over.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        with torch.device("meta"):
            super().__init__(
                convolution.in_channels, convolution.out_channels, convolution.kernel_size,
                stride=convolution.stride, padding=convolution.padding, bias=convolution.bias is not None,
            )  # fmt: skip
        self.weight, self.bias = convolution.weight, convolution.bias
        self._init_singular()

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.tuned_weight(), self.bias)

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """A plain convolution that computes the same."""
        self.decompose()
        with torch.device("meta"):
            plain = nn.Conv2d(
                self.in_channels, self.out_channels, self.kernel_size,
                stride=self.stride, padding=self.padding, bias=self.bias is not None,
            )  # fmt: skip
        plain.weight = nn.Parameter(self.tuned_weight().detach().clone(), requires_grad=False)
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return plain
