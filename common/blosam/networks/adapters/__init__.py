"""Adapters: few new or chosen numbers in a network whose other weights stay frozen.

All of them leave the network's output unchanged when they are added, keep the names of the base weights (so that SAM
checkpoints load without renaming) and, where they are a change of weights, fold into plain layers. Their own tensors
are called ``adapter_...`` or ``lora_...``.
"""

from __future__ import annotations

from ...compat import declare_torchvision_ops

declare_torchvision_ops()

from .encoder import (  # noqa: E402
    adapt_encoder,
    adapter_report,
    block_names,
    decompose_all,
    first_block,
    fold,
    prefix_is_cheap,
    run_prefix,
    run_suffix,
    trained_names,
)
from .lora import ADAPTED, LORA_NAMES, LoRALinear, LoRAQKV, add_lora, is_adapter  # noqa: E402
from .spec import KINDS, AdapterSpec, parse_adapter  # noqa: E402

__all__ = [
    "ADAPTED",
    "KINDS",
    "LORA_NAMES",
    "AdapterSpec",
    "LoRALinear",
    "LoRAQKV",
    "adapt_encoder",
    "adapter_report",
    "add_lora",
    "block_names",
    "decompose_all",
    "first_block",
    "fold",
    "is_adapter",
    "parse_adapter",
    "prefix_is_cheap",
    "run_prefix",
    "run_suffix",
    "trained_names",
]
