"""Sheets of many phantoms, to judge a generator by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from . import draw

COLOURS = np.array(
    [
        [0, 0, 0],
        [230, 60, 60],
        [60, 120, 230],
        [250, 160, 160],
        [160, 190, 250],
        [240, 200, 40],
        [150, 90, 200],
        [70, 70, 70],
        [60, 200, 120],
        [250, 130, 20],
        [20, 200, 220],
    ],
    dtype=np.uint8,
)


def contact_sheet(
    kind: str,
    path: str | Path,
    seeds: Sequence[int] = range(24),
    columns: int = 8,
    size: int = 192,
    aspect: float = 1.0,
    variety: float = 1.0,
    structures: bool = True,
) -> None:
    """Write a sheet of phantoms, every row of images followed by a row of their masks.

    Args:
        kind: kind of phantom.
        path: PNG or JPEG file to write.
        seeds: one phantom each.
        columns: phantoms per row.
        size: longest side of each in pixels.
        aspect: width / height of each.
        variety: see :func:`blosam.data.phantoms.draw`.
        structures: colour the map of structures; otherwise the image with the outline of the task mask.
    """
    rows = []
    for start in range(0, len(seeds), columns):
        tiles, masks = [], []
        for seed in seeds[start : start + columns]:
            phantom = draw(kind, seed, size, aspect, variety)
            image = phantom.image if phantom.image.ndim == 3 else np.repeat(phantom.image[..., None], 3, axis=2)
            tiles.append((image * 255).round().astype(np.uint8))
            masks.append(_colour(phantom.structures) if structures else _outline(tiles[-1], phantom.mask))
        blank = [np.zeros_like(tiles[0])] * (columns - len(tiles))
        rows += [np.hstack(tiles + blank), np.hstack(masks + blank)]
    picture = Image.fromarray(np.vstack(rows))
    picture.save(path, **({"quality": 80} if Path(path).suffix.lower() in (".jpg", ".jpeg") else {}))


def _colour(labels: np.ndarray) -> np.ndarray:
    return COLOURS[np.where(labels == 0, 0, (labels.astype(int) - 1) % (len(COLOURS) - 1) + 1)]


def _outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    inner[1:-1, 1:-1] = np.minimum.reduce(
        [mask[1:-1, 1:-1], mask[:-2, 1:-1], mask[2:, 1:-1], mask[1:-1, :-2], mask[1:-1, 2:]]
    )
    result = image.copy()
    result[(mask > 0) & (inner != mask)] = (255, 60, 60)
    return result
