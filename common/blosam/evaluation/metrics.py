"""Dice, HD95 and surface Dice of one predicted label map at the resolution of the source image.

The conventions for empty masks are fixed here and nowhere else: a class that is absent from both maps was
segmented perfectly, a class that is present in only one of them was missed completely. Distances are in
millimetres when the pixel spacing is known and in pixels otherwise, and every result carries its unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import DiceMetric
from monai.metrics.utils import do_metric_reduction, get_mask_edges, get_surface_distance

from blosam import processes
from blosam.engines.distributed import is_padding
from blosam.errors import BlosamError

SURFACE_TOLERANCE = 2.0
"""Largest distance at which surface Dice counts a boundary pixel as correct (mm; pixels without spacing)."""

PERCENTILE = 95
"""Percentile of the surface distances that HD95 takes, in each direction separately."""


def image_metrics(
    pred: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[int],
    spacing: tuple[float, float] | None = None,
) -> list[dict[str, Any]]:
    """Compare a predicted label map with the true one, class by class.

    The boundary of a mask is the set of its pixels with a 4-neighbour outside it; pixels at the image border
    are boundary too. HD95 is the larger of the two directed 95th percentiles (MONAI's convention). Surface
    Dice is the share of both boundaries that lies within ``SURFACE_TOLERANCE`` of the other one (Nikolov et
    al. 2018, arXiv:1809.04430, counted in boundary pixels).

    Args:
        pred: H x W label map, values are class indices.
        truth: H x W label map on the same grid.
        classes: the class indices to compare; the background (0) is usually left out.
        spacing: (row, column) distance of neighbouring pixel centres in mm; None when unknown.

    Returns:
        One dict per class, in the given order: ``class`` (int), ``dice`` and ``surface_dice`` in [0, 1],
        ``hd95`` >= 0 and ``unit`` ("mm" or "pixels", of ``hd95`` and of the tolerance). Class absent from
        both maps: 1, 1, 0. Class absent from one of them: 0, 0 and the diagonal of the image.

    Raises:
        BlosamError: the maps are not two-dimensional or differ in shape, or the spacing is not positive.
    """
    pred, truth = np.asarray(pred), np.asarray(truth)
    if pred.ndim != 2 or pred.shape != truth.shape:
        raise BlosamError(
            f"prediction of shape {pred.shape} cannot be compared with a mask of shape {truth.shape}. "
            "Bring both to the rows x columns of the source image."
        )
    if spacing is not None and not all(math.isfinite(s) and s > 0 for s in spacing):
        raise BlosamError(f"pixel spacing {tuple(spacing)} is not positive. Pass None when it is unknown.")
    unit = "pixels" if spacing is None else "mm"
    step = (1.0, 1.0) if spacing is None else (float(spacing[0]), float(spacing[1]))
    diagonal = math.hypot(pred.shape[0] * step[0], pred.shape[1] * step[1])
    results = []
    for index in classes:
        dice, hd95, surface = _mask_metrics(pred == index, truth == index, step, diagonal)
        results.append({"class": int(index), "dice": dice, "hd95": hd95, "surface_dice": surface, "unit": unit})
    return results


def _mask_metrics(
    pred: np.ndarray, truth: np.ndarray, step: tuple[float, float], diagonal: float
) -> tuple[float, float, float]:
    """Dice, HD95 and surface Dice of two H x W bool masks; ``step`` is the (row, column) pixel distance."""
    pixels_pred, pixels_truth = int(pred.sum()), int(truth.sum())
    if pixels_pred == 0 and pixels_truth == 0:
        return 1.0, 0.0, 1.0
    if pixels_pred == 0 or pixels_truth == 0:
        return 0.0, diagonal, 0.0
    dice = 2.0 * int((pred & truth).sum()) / (pixels_pred + pixels_truth)
    # MONAI's compute_hausdorff_distance and compute_surface_dice would each compute these distances again.
    box = _bounding_box(pred | truth)
    edges = get_mask_edges(torch.from_numpy(pred[box]), torch.from_numpy(truth[box]))
    distances = [np.asarray(get_surface_distance(one, other, spacing=step)) for one, other in (edges, reversed(edges))]
    hd95 = max(float(np.percentile(d, PERCENTILE)) for d in distances)
    close = sum(int((d <= SURFACE_TOLERANCE).sum()) for d in distances)
    return dice, hd95, close / sum(d.size for d in distances)


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest (rows, columns) window that holds every True of a non-empty H x W mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


class NativeDice(IgniteMetricHandler):
    """Key metric of a MONAI evaluator: mean Dice over images and foreground classes, with our rules for
    empty masks.

    ``monai.handlers.MeanDice`` leaves out every image whose true mask is empty, so a model that paints lungs
    into empty images is not punished. Here both empty counts 1 and one empty counts 0, as in `image_metrics`.
    The engine's output must hold argmaxed predictions and labels, 1 x W x H (or 1 x H x W) class indices
    each, of any size, as decollated lists; the value per image and class is kept in
    ``engine.state.metric_details``. Several processes that share the images by ``ShardSampler`` all get the value of
    the whole set.
    """

    def __init__(self, num_classes: int, keys: Sequence[str] = ("pred", "label"), save_details: bool = True) -> None:
        """Set the number of classes.

        Args:
            num_classes: number of classes with the background, K + 1 >= 2.
            keys: names of the prediction and of the label in the engine's output.
            save_details: keep the images x K values in ``engine.state.metric_details`` under the metric's
                name.

        Raises:
            BlosamError: ``num_classes`` is smaller than 2.
        """
        if num_classes < 2:
            raise BlosamError(f"num_classes is {num_classes}, at least 2 are needed. Count the background too.")
        super().__init__(
            metric_fn=DiceMetric(include_background=False, num_classes=num_classes, ignore_empty=False),
            output_transform=from_engine(list(keys)),
            save_details=save_details,
        )

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._own: list[torch.Tensor] = []

    def update(self, output: Sequence[torch.Tensor]) -> None:
        """Measure the images of one batch."""
        if processes.world_size() == 1:
            super().update(output)
        elif not is_padding(self._engine):
            pred, label = output
            self._own.extend(self.metric_fn(pred, label).cpu())

    def compute(self) -> float:
        """Mean over all images; of several processes, over the images of all, in the order of the data set."""
        if processes.world_size() == 1:
            return super().compute()
        # MONAI's own gathering would wait forever for a process that has no image.
        scores = torch.stack(processes.interleaved(processes.gathered(self._own)))
        if self.save_details:
            self._engine.state.metric_details[self._name] = scores
        return float(do_metric_reduction(scores, "mean")[0])
