"""The result every generator returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Phantom:
    """A drawn image with the exact masks of what was drawn.

    Attributes:
        image: H x W (greyscale) or H x W x 3 (colour) float32 in 0..1.
        mask: H x W uint8, the classes of the task (0 background).
        structures: H x W uint8, every pixel belongs to one structure; 0 is outside of everything.
        structure_names: value in ``structures`` -> name.
        overlays: name -> H x W bool, structures that lie over others (ribs on lungs, the whole heart).
    """

    image: np.ndarray
    mask: np.ndarray
    structures: np.ndarray
    structure_names: dict[int, str]
    overlays: dict[str, np.ndarray] = field(default_factory=dict)
