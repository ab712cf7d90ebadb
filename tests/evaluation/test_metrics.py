"""The metrics against brute force over all pairs of boundary pixels, MONAI's functions and values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from blosam.errors import BlosamError
from blosam.evaluation.metrics import NativeDice, image_metrics


def brute_force(pred: np.ndarray, truth: np.ndarray, step: tuple[float, float]) -> tuple[float, float, float]:
    """Dice, HD95 and surface Dice of two non-empty masks by loops and a full distance matrix."""
    both = sum(1 for p, t in zip(pred.flat, truth.flat, strict=True) if p and t)
    dice = 2 * both / (np.count_nonzero(pred) + np.count_nonzero(truth))
    a, b = boundary(pred) * np.array(step), boundary(truth) * np.array(step)
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    forth, back = distance.min(1), distance.min(0)
    hd95 = max(np.percentile(forth, 95), np.percentile(back, 95))
    close = (forth <= 2 + 1e-9).sum() + (back <= 2 + 1e-9).sum()
    return dice, hd95, close / (len(forth) + len(back))


def boundary(mask: np.ndarray) -> np.ndarray:
    """N x 2 (row, column) of the mask pixels with a 4-neighbour outside the mask or outside the image."""
    height, width = mask.shape
    found = []
    for r in range(height):
        for c in range(width):
            around = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
            inside = [0 <= y < height and 0 <= x < width and bool(mask[y, x]) for y, x in around]
            if mask[r, c] and not all(inside):
                found.append((r, c))
    return np.array(found, float)


def blob(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A random ellipse, often cut by the image border, with a few loose pixels."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centre, radius = rng.uniform(0, 1, 2) * shape, rng.uniform(0.1, 0.6, 2) * shape
    mask = ((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2 < 1
    return mask | (rng.random(shape) < 0.01) | (np.arange(mask.size).reshape(shape) == 5)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0), (0.25, 1.7), (3.0, 0.4)])
@pytest.mark.parametrize("shape", [(12, 9), (9, 31), (40, 33)])
def test_equals_brute_force_and_monai(shape: tuple[int, int], spacing: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(7)
    for _ in range(5):
        pred, truth = blob(rng, shape), blob(rng, shape)
        (row,) = image_metrics(pred.astype(np.uint8) * 3, truth.astype(np.int64) * 3, [3], spacing)
        dice, hd95, surface = brute_force(pred, truth, spacing or (1.0, 1.0))
        assert row["dice"] == pytest.approx(dice, abs=1e-12)
        assert row["hd95"] == pytest.approx(hd95, rel=1e-5)
        assert row["surface_dice"] == pytest.approx(surface, abs=1e-9)
        assert row["class"] == 3 and row["unit"] == ("pixels" if spacing is None else "mm")
        y_pred, y = (torch.from_numpy(m)[None, None].float() for m in (pred, truth))
        options = {"include_background": True, "spacing": spacing}
        assert row["hd95"] == pytest.approx(compute_hausdorff_distance(y_pred, y, percentile=95, **options).item())
        assert row["surface_dice"] == pytest.approx(compute_surface_dice(y_pred, y, [2.0], **options).item())


def test_empty_masks() -> None:
    empty, some = np.zeros((30, 40), int), np.zeros((30, 40), int)
    some[3, 4] = 1
    assert image_metrics(empty, empty, [1])[0] == {
        "class": 1, "dice": 1.0, "hd95": 0.0, "surface_dice": 1.0, "unit": "pixels",
    }  # fmt: skip
    for pred, truth in ((empty, some), (some, empty)):
        row = image_metrics(pred, truth, [1], (2.0, 0.5))[0]
        assert (row["dice"], row["surface_dice"], row["unit"]) == (0.0, 0.0, "mm")
        assert row["hd95"] == pytest.approx(math.hypot(60.0, 20.0))


def test_single_pixels_in_both_directions() -> None:
    pred, truth = np.zeros((8, 20), int), np.zeros((8, 20), int)
    pred[1, 2], truth[1, 12] = 1, 1
    assert image_metrics(pred, truth, [1])[0]["hd95"] == 10
    assert image_metrics(pred, truth, [1], (7.0, 0.1))[0]["hd95"] == pytest.approx(1.0)
    assert image_metrics(pred, truth, [1], (7.0, 0.1))[0]["surface_dice"] == 1.0
    assert image_metrics(pred.T, truth.T, [1], (7.0, 0.1))[0]["hd95"] == pytest.approx(70.0)


@pytest.mark.parametrize(("shift", "expected"), [(2, 1.0), (3, 0.0)])
def test_tolerance_is_two_pixels_and_inclusive(shift: int, expected: float) -> None:
    pred, truth = np.zeros((8, 20), int), np.zeros((8, 20), int)
    pred[4, 5], truth[4, 5 + shift] = 1, 1
    assert image_metrics(pred, truth, [1])[0]["surface_dice"] == expected


def test_full_image_has_its_border_as_boundary() -> None:
    full, inner = np.ones((9, 9), int), np.zeros((9, 9), int)
    inner[3:6, 3:6] = 1
    assert image_metrics(full, full, [1])[0]["surface_dice"] == 1.0
    row = image_metrics(full, inner, [1])[0]
    assert row["dice"] == pytest.approx(18 / 90)
    assert row["hd95"] == pytest.approx(brute_force(full == 1, inner == 1, (1, 1))[1])


def test_classes_do_not_mix_and_keep_their_order() -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[:4], truth[6:] = 1, 2
    pred = np.where(truth == 2, 1, truth)
    rows = image_metrics(pred, truth, [2, 1, 5])
    assert [r["class"] for r in rows] == [2, 1, 5]
    assert [r["dice"] for r in rows] == [0.0, pytest.approx(2 * 40 / (80 + 40)), 1.0]


def test_refuses_other_shapes_and_senseless_spacing() -> None:
    with pytest.raises(BlosamError, match=r"\(4, 5\).*\(5, 4\)"):
        image_metrics(np.zeros((4, 5)), np.zeros((5, 4)), [1])
    with pytest.raises(BlosamError, match="not positive"):
        image_metrics(np.ones((4, 4)), np.ones((4, 4)), [1], (0.0, 1.0))


def _evaluate(pairs: list[tuple[np.ndarray, np.ndarray]], num_classes: int) -> SupervisedEvaluator:
    """Run MONAI's evaluator on ready-made predictions, one image a batch, with NativeDice as key metric."""

    def step(engine: SupervisedEvaluator, batch: tuple[np.ndarray, np.ndarray]) -> list[dict]:
        return [{"pred": torch.from_numpy(batch[0])[None], "label": torch.from_numpy(batch[1])[None]}]

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=pairs,
        network=torch.nn.Identity(),
        iteration_update=step,
        key_val_metric={"val_mean_dice": NativeDice(num_classes)},
    )
    evaluator.run()
    return evaluator


def test_native_dice_is_the_mean_of_image_metrics() -> None:
    rng = np.random.default_rng(3)
    pairs = [(rng.integers(0, 3, shape), rng.integers(0, 3, shape)) for shape in ((8, 5), (5, 8), (11, 11))]
    empty, second = np.zeros((6, 7), int), np.full((6, 7), 2)
    pairs += [(empty, empty), (second, empty), (empty, second), (second, second)]
    evaluator = _evaluate(pairs, 3)
    values = [[r["dice"] for r in image_metrics(p, t, [1, 2])] for p, t in pairs]
    assert values[3:] == [[1, 1], [1, 0], [1, 0], [1, 1]]
    assert evaluator.state.metrics["val_mean_dice"] == pytest.approx(np.mean(values), abs=1e-6)
    np.testing.assert_allclose(evaluator.state.metric_details["val_mean_dice"].numpy(), values, atol=1e-6)


def test_native_dice_refuses_background_alone() -> None:
    with pytest.raises(BlosamError, match="Count the background"):
        NativeDice(1)
