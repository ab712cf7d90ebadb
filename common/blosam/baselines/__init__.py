"""What few-shot adaptation is held against: plain networks, and few-shot networks that look at support images."""

from __future__ import annotations

from .episodes import Supported, train_episodes
from .hsnet import HSNet
from .plain import DeepLab, PlainNetwork, SwinUnetr2d, UNet, train_plain
from .ssp import SSP

__all__ = [
    "SSP",
    "DeepLab",
    "HSNet",
    "PlainNetwork",
    "Supported",
    "SwinUnetr2d",
    "UNet",
    "train_episodes",
    "train_plain",
]
