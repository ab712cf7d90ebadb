"""What few-shot adaptation is held against: plain networks, few-shot networks with support images, prompted SAMs."""

from __future__ import annotations

from .episodes import Supported, train_episodes
from .hsnet import HSNet
from .oracle import OracleSam, train_boxes
from .plain import DeepLab, PlainNetwork, SwinUnetr2d, UNet, train_plain
from .ssp import SSP

__all__ = [
    "SSP",
    "DeepLab",
    "HSNet",
    "OracleSam",
    "PlainNetwork",
    "Supported",
    "SwinUnetr2d",
    "UNet",
    "train_boxes",
    "train_episodes",
    "train_plain",
]
