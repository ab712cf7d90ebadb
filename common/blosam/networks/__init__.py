"""Networks: SAM at any image size with decoder adapters and a learned prompt (``BloSam``)."""

from __future__ import annotations

from .blosam import BloSam, FromFeatures
from .export import to_onnx, to_torchscript
from .sam import ENCODERS, build_sam, load_base, resize_position_tables
from .saved import network_for
from .tiny import TinyEncoder

__all__ = [
    "ENCODERS",
    "BloSam",
    "FromFeatures",
    "TinyEncoder",
    "build_sam",
    "load_base",
    "network_for",
    "resize_position_tables",
    "to_onnx",
    "to_torchscript",
]
