"""Phantoms: images drawn by code, with exact masks, for demonstrations, tests and pretraining.

``draw("chest", seed)`` gives the same picture on every run; no patient's data is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from blosam.errors import BlosamError

from .canvas import image_shape
from .chest import draw_chest
from .colonoscopy import draw_colonoscopy
from .dental import draw_dental
from .phantom import Phantom

__all__ = ["KINDS", "Phantom", "draw", "draw_many"]

KINDS: dict[str, Callable[..., Phantom]] = {"chest": draw_chest, "dental": draw_dental, "colonoscopy": draw_colonoscopy}


def draw(kind: str, seed: int, size: int = 256, aspect: float = 1.0, variety: float = 1.0) -> Phantom:
    """Draw one phantom; the same arguments give the same phantom on every run.

    Args:
        kind: one of ``KINDS``.
        seed: picks the patient, not negative.
        size: longest side in pixels, at least 32.
        aspect: width / height.
        variety: how far anatomy, disease and exposure may stray from the average, 0..1.

    Raises:
        BlosamError: for an unknown kind, a size below 32, a negative seed or an aspect beyond 1/4..4.
    """
    if kind not in KINDS:
        raise BlosamError(f"Unknown kind of phantom {kind!r}. Use one of {', '.join(KINDS)}.")
    if size < 32:
        raise BlosamError(f"A phantom of {size} pixels is too small. Use a size of at least 32.")
    if seed < 0:
        raise BlosamError(f"The seed of a phantom is {seed}. Use a whole number from 0 on.")
    if not 0.25 <= aspect <= 4:
        raise BlosamError(f"The aspect {aspect} is not between 0.25 and 4. Use width divided by height.")
    return KINDS[kind](seed, image_shape(size, aspect), variety)


def draw_many(
    kind: str, seeds: Iterable[int], size: int = 256, aspect: float = 1.0, variety: float = 1.0
) -> list[Phantom]:
    """Draw one phantom per seed, in order; see :func:`draw`."""
    return [draw(kind, seed, size, aspect, variety) for seed in seeds]
