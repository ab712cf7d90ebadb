"""Phantoms that a trained model has never seen the like of: exposure, occlusion, rotation, blur and noise.

They make failures, without which nothing can be said about a sign of failure.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SHIFTS = ("exposure", "occlusion", "rotation", "blur", "noise")


def shifted(
    image: np.ndarray, mask: np.ndarray, shift: str, seed: int, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """A phantom's image and mask with one thing wrong; the mask follows where the anatomy moves.

    Args:
        image: H x W or H x W x 3 in [0, 1].
        mask: H x W class indices.
        shift: one of ``SHIFTS``. Occlusion hides image, not mask: the organ is still there.
        seed: draws where and which way.
        strength: 0 changes nothing, 1 is hard.

    Raises:
        ValueError: for another shift.
    """
    if shift not in SHIFTS:
        raise ValueError(f"unknown shift {shift!r}; one of {', '.join(SHIFTS)}")
    random = np.random.default_rng(seed)
    changed = image.astype(np.float64)
    if shift == "exposure":
        dark = random.random() < 0.5
        changed = changed ** (1 + 2.5 * strength) if dark else 1 - (1 - changed) ** (1 + 2.5 * strength)
    elif shift == "occlusion":
        changed = _occluded(changed, random, strength)
    elif shift == "rotation":
        angle = random.choice([-1, 1]) * random.uniform(20, 70) * strength
        turn = {"angle": angle, "axes": (1, 0), "reshape": False}
        changed = np.clip(ndimage.rotate(changed, order=1, mode="nearest", **turn), 0, 1)
        mask = ndimage.rotate(mask, order=0, mode="constant", **turn)
    elif shift == "blur":
        width = 0.02 * strength * max(changed.shape[:2])
        changed = ndimage.gaussian_filter(changed, (width, width, 0)[: changed.ndim])
    else:
        changed = np.clip(changed + random.normal(0, 0.25 * strength, changed.shape), 0, 1)
    return changed.astype(image.dtype), mask


def _occluded(image: np.ndarray, random: np.random.Generator, strength: float) -> np.ndarray:
    """A uniform plate over a part of the picture."""
    rows, columns = image.shape[:2]
    height, width = (int(n * random.uniform(0.3, 0.7) * strength) for n in (rows, columns))
    top, left = random.integers(0, rows - height + 1), random.integers(0, columns - width + 1)
    covered = image.copy()
    covered[top : top + height, left : left + width] = random.choice([0.05, 0.5, 0.95])
    return covered
