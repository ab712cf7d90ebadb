"""QLoRA: frozen matrices in 4 bits (bitsandbytes, on a GPU), with low-rank updates in full precision beside them.

The 4 bits are made when a layer moves to the GPU, so base weights are loaded as always. A state dict holds the rounded
weights as plain numbers and fits the same network with ``lora`` instead of ``qlora``.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import BlosamError
from .lora import LoRAQKV, plain_linear

_TYPE = "nf4"  # QLoRA's; PEFT-SAM leaves it to the library, whose default is fp4


def require_bitsandbytes() -> ModuleType:
    """The library.

    Raises:
        BlosamError: when it is not installed, or there is no GPU that it could use.
    """
    try:
        library = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise BlosamError(
            "encoder adapter 'qlora' needs bitsandbytes: pip install 'blosam[qlora]'. Or use lora."
        ) from error
    if not torch.cuda.is_available():
        raise BlosamError("encoder adapter 'qlora' needs a CUDA device, and there is none here. Use lora.")
    return library


class QuantisedLinear(nn.Linear):
    """Frozen linear layer whose matrix is kept in 4 bits once it is on a GPU.

    Args:
        linear: the base layer; its weight and bias are taken over.
    """

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.bias = linear.bias
        self.quantise(linear.weight)

    def quantise(self, weight: Tensor) -> None:
        """Take over an out x in matrix; it is rounded on its way to the GPU."""
        params = require_bitsandbytes().nn.Params4bit
        self.weight = params(weight.detach(), requires_grad=False, quant_type=_TYPE)

    def plain_weight(self) -> Tensor:
        """The matrix as plain numbers, out x in."""
        state = getattr(self.weight, "quant_state", None)
        if state is None:
            return self.weight.data
        return require_bitsandbytes().functional.dequantize_4bit(self.weight.data, state)

    def base(self, x: Tensor) -> Tensor:
        """W x + bias."""
        state = getattr(self.weight, "quant_state", None)
        if state is None:
            return functional.linear(x, self.weight, self.bias)
        return require_bitsandbytes().matmul_4bit(x, self.weight.t(), bias=self.bias, quant_state=state)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.plain_weight()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and getattr(self.weight, "quant_state", None) is not None:
            device = self.weight.device
            self.quantise(torch.zeros(weight.shape))
            super()._load_from_state_dict(state_dict, prefix, *args)
            self.weight = self.weight.to(device)  # rounds anew
            return
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        return plain_linear(self, self.plain_weight(), self.bias)


class QuantisedQKV(QuantisedLinear):
    """Joint query-key-value layer in 4 bits with low-rank updates of queries and values.

    Args:
        linear: the base layer, dim -> 3 dim.
        rank: r of the updates.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear)
        updates = LoRAQKV(linear, rank, "qv")
        self.parts = updates.parts
        for name, parameter in updates.named_parameters():
            if name.startswith("adapter_"):
                self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + torch.cat(LoRAQKV._updates(self, x), dim=-1)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        weight = self.plain_weight()
        identity = torch.eye(self.in_features, dtype=weight.dtype, device=weight.device)
        return plain_linear(self, weight + torch.cat(LoRAQKV._updates(self, identity), dim=-1).T, self.bias)


def quantise_encoder(blocks: list[nn.Module], linears: Any, adapted: int, rank: int) -> None:
    """Keep every linear layer of the blocks in 4 bits, with updates in the attentions of those from ``adapted`` on.

    Args:
        blocks: all blocks of the encoder.
        linears: gives role -> (module, attribute) of a block's linear layers.
        adapted: index of the first block with updates.
        rank: of the updates.
    """
    for number, block in enumerate(blocks):
        for role, (parent, attribute) in linears(block).items():
            linear = getattr(parent, attribute)
            with_updates = role == "qkv" and number >= adapted
            setattr(parent, attribute, QuantisedQKV(linear, rank) if with_updates else QuantisedLinear(linear))
