"""The D1/D2 split: seeded, disjoint halves that both hold foreground (B4, B22)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blosam.data import d1_d2_split
from blosam.errors import BlosamError


@settings(max_examples=200, deadline=None)
@given(flags=st.lists(st.booleans(), min_size=2, max_size=12), seed=st.integers(0, 2**32 - 1))
def test_halves_are_disjoint_complete_and_both_hold_foreground(flags, seed):
    if sum(flags) < 2:
        with pytest.raises(BlosamError, match=f"Only {sum(flags)} of the {len(flags)}"):
            d1_d2_split(flags, seed)
        return
    d1, d2 = d1_d2_split(flags, seed)
    assert sorted(d1 + d2) == list(range(len(flags)))
    assert len(d1) == (len(flags) + 1) // 2
    assert any(flags[i] for i in d1) and any(flags[i] for i in d2)
    assert (d1, d2) == d1_d2_split(flags, seed)


def test_the_split_is_random_not_first_and_second_half():
    """The authors' code takes the files in folder order: first half D1, second half D2."""
    first_halves = {tuple(sorted(d1_d2_split([True] * 6, seed)[0])) for seed in range(60)}
    assert len(first_halves) > 12  # of 20 possible ones


def test_fewer_than_two_images():
    with pytest.raises(BlosamError, match="has 1 image"):
        d1_d2_split([True], 0)


def test_masks_on_disk_and_in_memory(tmp_path):
    items = []
    for number, value in enumerate((0, 255, 1, 0, 0)):
        mask = np.zeros((8, 9), np.uint8)
        mask[2, 3] = value
        Image.fromarray(mask).save(tmp_path / f"{number}.png")
        items.append({"image": "unused", "label": str(tmp_path / f"{number}.png")})
    flags = [False, True, True, False, False]
    for seed in range(10):
        assert d1_d2_split(items, seed) == d1_d2_split(flags, seed)
    in_memory = [{"label": np.asarray(Image.open(item["label"]))} for item in items]
    assert d1_d2_split(in_memory, 3) == d1_d2_split(flags, 3)
