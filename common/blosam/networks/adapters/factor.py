"""FacT: queries and values updated through two factors of a block and a small core each.

Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer" (AAAI 2023), in the form and size
of PEFT-SAM: the outer factors belong to one block. Unlike its code, the last factor starts at zero, so that the
adapted layer starts as the plain one, and there is no dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .lora import plain_linear


class FacTQKV(nn.Linear):
    """Joint query-key-value layer with ``q += V Q_q U x`` and ``v += V Q_v U x``.

    Args:
        linear: the base layer, dim -> 3 dim; its tensors are taken over.
        rank: r; U is r x dim, Q_q and Q_v are r x r, V is dim x r.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.adapter_u = nn.Parameter(torch.empty(rank, linear.in_features))
        self.adapter_q = nn.Parameter(torch.empty(rank, rank))
        self.adapter_v = nn.Parameter(torch.empty(rank, rank))
        self.adapter_out = nn.Parameter(torch.zeros(linear.out_features // 3, rank))
        for factor in (self.adapter_u, self.adapter_q, self.adapter_v):
            nn.init.xavier_uniform_(factor)

    def _update(self, x: Tensor) -> Tensor:
        low = functional.linear(x, self.adapter_u)
        query, value = (
            functional.linear(functional.linear(low, core), self.adapter_out)
            for core in (self.adapter_q, self.adapter_v)
        )
        return torch.cat((query, torch.zeros_like(query), value), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias) + self._update(x)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        identity = torch.eye(self.in_features, dtype=self.weight.dtype, device=self.weight.device)
        return plain_linear(self, self.weight + self._update(identity).T, self.bias)
