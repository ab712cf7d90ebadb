"""Overlays: lines lie on the edges of the masks, at every size; everybody can tell the colours apart."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from blosam.errors import BlosamError
from blosam.evaluation.overlay import (
    CLASS_COLOURS,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    data_uri,
    display_shape,
    draw_overlay,
    edge_distance,
    encode_jpeg,
    encode_png,
    to_rgb,
)

WHOLE = {"legend": False, "min_side": 1, "max_side": 4096}


def asymmetric(height: int, width: int) -> np.ndarray:
    """A mask that no flip or transposition maps to itself: an L that touches the left border, and one dot."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 5 : height // 2, : width // 3] = 1
    mask[height // 2 : height * 3 // 4, : width // 8] = 1
    mask[height - 8 : height - 4, width - 20 : width - 14] = 1
    return mask


def near_edge(mask: np.ndarray, reach: int) -> np.ndarray:
    """Pixels within ``reach`` 8-neighbour steps of a pair of pixels with different labels."""
    padded = np.pad(mask, 1)
    pair = np.zeros(padded.shape, bool)
    pair[1:] |= padded[1:] != padded[:-1]
    pair[:-1] |= padded[1:] != padded[:-1]
    pair[:, 1:] |= padded[:, 1:] != padded[:, :-1]
    pair[:, :-1] |= padded[:, 1:] != padded[:, :-1]
    grown = binary_dilation(pair, np.ones((3, 3)), iterations=reach) if reach else pair
    return grown[1:-1, 1:-1]


@pytest.mark.parametrize("shape", [(90, 160), (160, 90)])
@pytest.mark.parametrize("kind", ["truth", "pred"])
def test_lines_lie_on_the_edges_of_the_mask(shape: tuple[int, int], kind: str) -> None:
    image, mask = np.full((*shape, 3), 0.5, np.float32), asymmetric(*shape)
    drawn = draw_overlay(image, **{kind: mask}, **WHOLE)
    changed = (drawn != 128).any(-1)
    assert drawn.shape == (*shape, 3)
    assert changed[near_edge(mask, 0)].all(), "every pixel beside an edge is marked"
    assert not changed[~near_edge(mask, 2)].any(), "nothing is marked away from the edges"
    colour = TRUTH_COLOUR if kind == "truth" else PREDICTION_COLOUR
    beside = drawn[near_edge(mask, 0)].astype(int)
    assert (np.abs(beside - colour).sum(-1) < np.abs(beside - 128).sum(-1)).all()


def test_alignment_survives_enlarging_and_reducing() -> None:
    mask = asymmetric(60, 44)
    for factor, options in ((7, {"min_side": 400}), (8, {"min_side": 480})):
        large = draw_overlay(mask * 200, truth=mask, legend=False, **options)
        assert large.shape == (60 * factor, 44 * factor, 3)
        changed = (np.abs(large.astype(int) - TRUTH_COLOUR).sum(-1)) < 60
        blocks = np.kron(mask, np.ones((factor, factor), np.uint8))
        assert changed.any() and not changed[~near_edge(blocks, 2)].any()
    big = np.kron(asymmetric(100, 200), np.ones((10, 10), np.uint8))
    small = draw_overlay(big * 100, truth=big, legend=False, max_side=200)
    changed = (np.abs(small.astype(int) - TRUTH_COLOUR).sum(-1)) < 60
    assert small.shape == (100, 200, 3) and changed.any()
    assert not changed[~near_edge(asymmetric(100, 200), 1)].any()


def test_picture_and_mask_are_enlarged_to_the_same_place() -> None:
    mask = asymmetric(30, 40)
    plain = draw_overlay(mask * 255, legend=False, min_side=400)
    bright = plain[..., 0] > 127
    blocks = np.kron(mask, np.ones((10, 10))) > 0
    deep = edge_distance(blocks, 20) > 3
    assert bright[deep & blocks].all() and not bright[deep & ~blocks].any()


def test_prediction_is_drawn_over_the_truth_and_empty_masks_change_nothing() -> None:
    mask, empty = asymmetric(64, 64), np.zeros((64, 64), int)
    both = draw_overlay(np.zeros((64, 64)), mask, mask, **WHOLE)
    assert (np.abs(both.astype(int) - PREDICTION_COLOUR).sum(-1) < 20).any()
    assert (draw_overlay(np.zeros((64, 64)), empty, empty, **WHOLE) == 0).all()
    full = draw_overlay(np.zeros((64, 64)), np.ones((64, 64), int), None, **WHOLE)
    assert full[0].any() and full[:, -1].any() and not full[8:-8, 8:-8].any()


def test_fill_mixes_the_colour_inside_only() -> None:
    mask = asymmetric(120, 120)
    drawn = draw_overlay(np.zeros((120, 120)), pred=mask, fill=0.5, **WHOLE)
    deep = (edge_distance(mask > 0, 9) > 4) & (mask > 0)
    assert deep.any()
    np.testing.assert_allclose(
        drawn[deep].astype(float), np.tile(np.array(PREDICTION_COLOUR) / 2, (deep.sum(), 1)), atol=1
    )
    assert not drawn[~near_edge(mask, 2) & (mask == 0)].any()


def test_several_classes_keep_their_colours() -> None:
    mask = np.zeros((100, 100), int)
    mask[10:40, 10:40], mask[50:90, 50:90] = 1, 3
    names = {1: "one", 2: "two", 3: "three"}
    drawn = draw_overlay(np.zeros((100, 100)), mask, mask, class_names=names, fill=1.0, **WHOLE)
    assert tuple(drawn[25, 25]) == CLASS_COLOURS[0] and tuple(drawn[70, 70]) == CLASS_COLOURS[2]
    alone = draw_overlay(np.zeros((100, 100)), None, mask * (mask == 3), class_names=names, fill=1.0, **WHOLE)
    assert tuple(alone[70, 70]) == CLASS_COLOURS[2], "a class keeps its colour when others are absent"


def test_edge_distance_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    mask = binary_dilation(rng.random((23, 31)) < 0.02, iterations=3)
    padded = np.pad(mask, 1)
    points = np.argwhere(np.ones_like(padded))
    inside, outside = points[padded.ravel()], points[~padded.ravel()]
    expected = np.empty(padded.shape)
    for r, c in points:
        other = outside if padded[r, c] else inside
        expected[r, c] = np.sqrt(((other - (r, c)) ** 2).sum(1)).min() - 0.5
    found = edge_distance(mask, limit=5)
    near = expected[1:-1, 1:-1] <= 5
    np.testing.assert_allclose(found[near], expected[1:-1, 1:-1][near])
    assert (found[~near] > 5).all()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((512, 400), (512, 400)),
        ((64, 48), (384, 288)),
        ((3000, 1500), (1024, 512)),
        ((1, 1), (384, 384)),
        ((5000, 1), (1024, 1)),
    ],
)
def test_display_shape(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert display_shape(shape) == expected


def test_legend_adds_rows_and_wraps() -> None:
    image = np.zeros((400, 400))
    plain = draw_overlay(image, legend=False)
    one = draw_overlay(image, image.astype(int), image.astype(int))
    names = {i: f"a rather long class name {i}" for i in range(1, 8)}
    many = draw_overlay(image, image.astype(int), None, class_names=names)
    assert plain.shape[0] == 400 < one.shape[0] < many.shape[0]
    assert one[400:].std() > 0


def _simulate(colour: tuple[int, int, int], matrix: list[list[float]]) -> np.ndarray:
    """How a colour looks to a dichromat: a published 3 x 3 matrix on linear RGB."""
    linear = (np.array(colour) / 255) ** 2.2
    return np.clip(np.array(matrix) @ linear, 0, 1) ** (1 / 2.2) * 255


# Machado, Oliveira, Fernandes 2009, severity 1.0.
_PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
_DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
_TRITAN = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]


@pytest.mark.parametrize("matrix", [_PROTAN, _DEUTAN, _TRITAN], ids=["protan", "deutan", "tritan"])
def test_colours_differ_for_colour_blind_readers(matrix: list[list[float]]) -> None:
    truth, prediction = (_simulate(c, matrix) for c in (TRUTH_COLOUR, PREDICTION_COLOUR))
    assert np.abs(truth - prediction).max() > 90
    seen = [_simulate(c, matrix) for c in CLASS_COLOURS]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(seen, 2)) > 20


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, bool])
def test_to_rgb_scales_every_type(dtype: type) -> None:
    image = (np.array([[0, 1]]) * (255 if dtype is np.uint8 else 1)).astype(dtype)
    assert to_rgb(image).tolist() == [[[0] * 3, [255] * 3]]
    assert to_rgb(np.array([[2.0, -1.0, np.nan]])).tolist() == [[[255] * 3, [0] * 3, [0] * 3]]


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(BlosamError, match=r"truth of shape \(4, 5\)"):
        draw_overlay(np.zeros((5, 4)), np.zeros((4, 5)))
    for wrong in (np.zeros((4, 4, 2)), np.zeros(4), np.zeros((4, 4), np.int16)):
        with pytest.raises(BlosamError, match="cannot be drawn"):
            to_rgb(wrong)


def test_encoding_round_trip() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(encode_png(picture)))) == picture).all()
    assert Image.open(io.BytesIO(encode_jpeg(picture))).size == (30, 20)
    assert data_uri(b"abc", "png") == "data:image/png;base64,YWJj"
