"""What the pretraining needs to know of a drawn image, whoever drew it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Drawing:
    """A drawn image with exact masks.

    Attributes:
        image: H x W x 3 float32 in 0..1.
        structures: N x H x W bool, the things a point or a box may ask for; they may overlap.
        salient: H x W bool, the answer when nothing is asked; may be empty.
        dense: M x H x W bool, the masks of the auxiliary dense head.
        mirror: whether the image stays plausible when mirrored left to right.
        turn: whether it stays plausible when turned by any multiple of 90 degrees.
    """

    image: np.ndarray
    structures: np.ndarray
    salient: np.ndarray
    dense: np.ndarray
    mirror: bool
    turn: bool
