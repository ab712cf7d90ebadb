"""Networks: SAM at any image size with decoder adapters and a learned prompt (``BloSam``)."""

from __future__ import annotations

from .base_weights import load_base
from .blosam import BloSam, FromFeatures
from .export import to_onnx, to_torchscript
from .promptable import PromptableSam
from .sam import ENCODERS, build_sam, resize_position_tables
from .saved import network_for
from .tiny import TinyEncoder

__all__ = [
    "ENCODERS",
    "BloSam",
    "FromFeatures",
    "PromptableSam",
    "TinyEncoder",
    "build_sam",
    "load_base",
    "network_for",
    "resize_position_tables",
    "to_onnx",
    "to_torchscript",
]
