"""The seeded division of the training images into D1 (fits the weights) and D2 (fits the prompt).

The paper asks for two random, disjoint halves; a half without any foreground would teach its level that
everything is background, so the division makes sure that both have some.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blosam.errors import BlosamError


def d1_d2_split(data: Sequence[Mapping[str, Any] | bool], seed: int) -> tuple[list[int], list[int]]:
    """Divide the training images into D1 and D2.

    Args:
        data: one entry per image: a mapping whose ``label`` is a mask file (or a mask held in memory), or
            simply whether the mask has any foreground.
        seed: seed of the shuffle; the same data and seed always give the same halves.

    Returns:
        Indices of D1, ceil(n / 2) of them, and of D2, the rest, in shuffled order. Both halves hold an image
        with foreground.

    Raises:
        BlosamError: when there are fewer than 2 images, or fewer than 2 with foreground.
    """
    total = len(data)
    if total < 2:
        raise BlosamError(
            f"The training list has {total} image(s), but D1 and D2 need one each. Add images or raise --shots."
        )
    flags = [entry if isinstance(entry, (bool, np.bool_)) else has_foreground(entry["label"]) for entry in data]
    if sum(flags) < 2:
        raise BlosamError(
            f"Only {sum(flags)} of the {total} training masks has any foreground, so D1 or D2 has none. "
            "Add images whose mask is not empty."
        )
    order = np.random.default_rng(seed).permutation(total).tolist()
    half = (total + 1) // 2
    d1, d2 = order[:half], order[half:]
    for poor, rich in ((d1, d2), (d2, d1)):
        if not any(flags[i] for i in poor):
            # All foreground is in the other half, which therefore holds two or more such images: exchange
            # one.
            giver = next(k for k, i in enumerate(rich) if flags[i])
            poor[0], rich[giver] = rich[giver], poor[0]
    return d1, d2


def has_foreground(label: Any) -> bool:
    """Whether a mask has any foreground pixel.

    Args:
        label: path of a mask file, or a mask as an array or tensor.
    """
    if not isinstance(label, (str, os.PathLike)):
        return bool(np.asarray(label).any())
    from blosam.dicom.reader import ClinicalReader  # only this branch needs the readers' dependencies

    reader = ClinicalReader(mode="label", num_classes=None)
    mask, _ = reader.get_data(reader.read(label))
    return bool(mask.any())
