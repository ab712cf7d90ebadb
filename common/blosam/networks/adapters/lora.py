"""Low-rank adapters: linear layers that keep their weights and learn a small update beside them.

A ``LoRALinear`` is an ``nn.Linear`` with two more tensors, so the names of the base weights stay what they
are in segment_anything and its checkpoints load without any renaming.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import BlosamError

ADAPTED = ("q_proj", "v_proj")
LORA_NAMES = ("lora_a", "lora_b")


class LoRALinear(nn.Linear):
    """Linear layer plus a rank-r update: ``y = W x + bias + B (A x)``.

    As in the BLO-SAM authors' code: A is drawn Kaiming-uniform (a = sqrt 5), B starts at zero, so that the
    layer starts as the plain linear layer; no bias, no scaling, no dropout in the update.

    Args:
        in_features: width of the input, ... x in.
        out_features: width of the output, ... x out.
        rank: r, at least 1; A is r x in, B is out x r.
        bias: whether the base layer has a bias.

    Raises:
        BlosamError: when the rank is not positive.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        if rank < 1:
            raise BlosamError(f"LoRA rank {rank} is not positive. Use a rank of 1 or more (the paper's is 4).")
        super().__init__(in_features, out_features, bias=bias)
        self.rank = rank
        self.lora_a = nn.Parameter(torch.empty(rank, in_features))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: int) -> LoRALinear:
        """Wrap a linear layer; its weight and bias are taken over, not copied.

        Args:
            linear: the base layer.
            rank: rank of the update, at least 1.
        """
        adapted = cls(linear.in_features, linear.out_features, rank, bias=linear.bias is not None)
        adapted.weight = linear.weight
        adapted.bias = linear.bias
        return adapted

    def forward(self, x: Tensor) -> Tensor:
        base = functional.linear(x, self.weight, self.bias)
        return base + functional.linear(functional.linear(x, self.lora_a), self.lora_b)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        return plain_linear(self, self.weight + self.lora_b @ self.lora_a, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


class LoRAQKV(nn.Linear):
    """Joint query-key-value layer of a ViT with low-rank updates of some of its three parts.

    As in SAMed and PEFT-SAM: one pair of factors a part, A Kaiming-uniform, B zero, scale 1.

    Args:
        linear: the base layer, dim -> 3 dim; its weight and bias are taken over, not copied.
        rank: r of every update, at least 1.
        parts: which of ``q``, ``k`` and ``v`` get one.
    """

    def __init__(self, linear: nn.Linear, rank: int, parts: str = "qv") -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.parts = parts
        width = linear.out_features // 3
        for part in parts:
            first = nn.Parameter(torch.empty(rank, linear.in_features))
            nn.init.kaiming_uniform_(first, a=math.sqrt(5))
            self.register_parameter(f"adapter_{part}_a", first)
            self.register_parameter(f"adapter_{part}_b", nn.Parameter(torch.zeros(width, rank)))

    def _updates(self, x: Tensor) -> list[Tensor]:
        """One ... x dim tensor for each of q, k and v."""
        width = self.out_features // 3
        updates = []
        for part in "qkv":
            if part in self.parts:
                low = functional.linear(x, self.get_parameter(f"adapter_{part}_a"))
                updates.append(functional.linear(low, self.get_parameter(f"adapter_{part}_b")))
            else:
                updates.append(x.new_zeros(*x.shape[:-1], width))
        return updates

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias) + torch.cat(self._updates(x), dim=-1)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        identity = torch.eye(self.in_features, dtype=self.weight.dtype, device=self.weight.device)
        return plain_linear(self, self.weight + torch.cat(self._updates(identity), dim=-1).T, self.bias)


def is_adapter(name: str) -> bool:
    """Whether a tensor of a state dict belongs to an adapter and not to the base, by its name."""
    return name.endswith(LORA_NAMES) or ".adapter_" in name


def plain_linear(like: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of the same size with these numbers."""
    with torch.device("meta"):
        plain = nn.Linear(like.in_features, like.out_features, bias=bias is not None)
    plain.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return plain


def add_lora(transformer: nn.Module, rank: int) -> None:
    """Replace ``q_proj`` and ``v_proj`` of every attention of SAM's two-way transformer by ``LoRALinear`` (in
    place).

    The attentions are those of each layer (self, token to image, image to token) and the final token-to-image
    one: 7 in all, 14 adapted layers, 23,552 parameters at rank 4.

    Args:
        transformer: a ``segment_anything.modeling.TwoWayTransformer``.
        rank: rank of the updates, at least 1.
    """
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.self_attn, layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in attentions:
        for name in ADAPTED:
            setattr(attention, name, LoRALinear.from_linear(getattr(attention, name), rank))
