"""Drawings and their disguises: deterministic, in range, and the masks stay where the things are."""

from __future__ import annotations

import numpy as np
import pytest

from blosam.data.phantoms.canvas import Chance
from blosam.pretraining.anatomy import draw_anatomy
from blosam.pretraining.appearance import disguise, frame, random_grid, warp
from blosam.pretraining.kinds import ANATOMY_CHANNELS, DENSE_OFFSETS, KINDS, TOTAL_DENSE
from blosam.pretraining.samples import draw
from blosam.pretraining.shapes import DENSE_CHANNELS, draw_shapes


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_is_a_function_of_its_seed(kind):
    first, again, other = draw(kind, 5, 64), draw(kind, 5, 64), draw(kind, 6, 64)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.structures, again.structures)
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_ranges_and_channels(kind):
    for seed in range(4):
        drawing = draw(kind, seed, 64)
        height, width = drawing.salient.shape
        assert drawing.image.shape == (height, width, 3) and max(height, width) == 64
        assert drawing.image.dtype == np.float32 and drawing.image.min() >= 0 and drawing.image.max() <= 1
        assert drawing.structures.shape[1:] == (height, width) and drawing.structures.dtype == bool
        channels = DENSE_CHANNELS if kind == "shapes" else ANATOMY_CHANNELS
        assert drawing.dense.shape == (channels, height, width)
        assert DENSE_OFFSETS[kind] + channels <= TOTAL_DENSE


def test_salient_shapes_are_the_union_of_the_things():
    for seed in range(8):
        drawing = draw_shapes(seed, 64)
        np.testing.assert_array_equal(drawing.salient, drawing.structures.any(axis=0))
        np.testing.assert_array_equal(drawing.dense[0], drawing.salient)


def test_dental_groups_agree_with_each_other():
    dense = draw_anatomy("dental", 3, 128).dense
    positions, incisors, upper, lower = dense[4:12], dense[12], dense[13], dense[14]
    np.testing.assert_array_equal(positions.any(axis=0), dense[0])
    np.testing.assert_array_equal(upper | lower, dense[0])
    np.testing.assert_array_equal(incisors, positions[:2].any(axis=0))
    assert incisors.any() and not (upper & lower).any()


def test_the_picture_and_its_masks_move_together():
    rng = np.random.default_rng(0)
    for seed in range(10):
        mask = np.zeros((60, 80), dtype=bool)
        top, left = rng.integers(5, 30, 2)
        mask[top : top + 20, left : left + 30] = True
        image = np.repeat(mask[..., None], 3, axis=2).astype(np.float32)
        seen, marked = warp(image, mask[None], random_grid(Chance([seed]), mask.shape, 96), "zeros")
        assert max(seen.shape[:2]) == 96
        np.testing.assert_array_equal(seen[..., 0] > 0.5, marked[0])


def test_a_disguise_keeps_shape_and_range_and_changes_the_picture():
    image = draw_shapes(1, 64).image
    seen = [disguise(Chance([seed]), image) for seed in range(12)]
    assert all(s.shape == image.shape and s.dtype == np.float32 for s in seen)
    assert all(np.isfinite(s).all() and s.min() >= 0 and s.max() <= 1 for s in seen)
    assert np.mean([np.abs(s - image).mean() for s in seen]) > 0.03


def test_nothing_is_marked_under_a_black_frame():
    image, masks = np.ones((50, 60, 3), np.float32), np.ones((2, 50, 60), bool)
    framed = [frame(Chance([seed]), image, masks) for seed in range(40)]
    for seen, marked in framed:
        np.testing.assert_array_equal(marked, np.broadcast_to(seen[..., 0] > 0, marked.shape))
    assert any(not marked.all() for _, marked in framed)
