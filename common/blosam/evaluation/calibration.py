"""Does the confidence tell good masks from bad ones? Rank correlation, and what a threshold would have caught."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from blosam.atomicio import atomic_write
from blosam.evaluation.names import unique_names
from blosam.evaluation.table import write_rows

if TYPE_CHECKING:
    from blosam.predictor import Predictor

FAILURE = 0.8  # a Dice below it counts as a failure
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
COLUMNS = ("image", "confidence", "dice", "source")


@dataclass(frozen=True)
class Calibration:
    """Confidence and true Dice of images that trained nothing.

    Args:
        names: of the images.
        confidence: in [0, 1], one per image.
        dice: in [0, 1], one per image, the mean over its classes.
        source: of the confidence, ``views`` or ``iou``.
        note: what a reader must know about the images.
    """

    names: Sequence[str]
    confidence: Sequence[float]
    dice: Sequence[float]
    source: str
    note: str = ""

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's correlation of confidence and Dice; None when one of them does not vary."""
        return spearman(self.confidence, self.dice)

    def summary(self) -> dict[str, Any]:
        """Everything but the single images, for JSON."""
        return {
            "images": len(self.names),
            "source": self.source,
            "rank_correlation": self.rank_correlation,
            "failures": int((np.asarray(self.dice) < FAILURE).sum()),
            "failure_below_dice": FAILURE,
            "thresholds": [row(self.confidence, self.dice, threshold) for threshold in THRESHOLDS],
        }

    def write(self, folder: Path) -> None:
        """Write ``calibration.csv`` (one row per image) and ``calibration.json``.

        Raises:
            BlosamError: when they cannot be written.
        """
        rows = [
            {"image": name, "confidence": float(sure), "dice": float(dice), "source": self.source}
            for name, sure, dice in zip(self.names, self.confidence, self.dice, strict=True)
        ]
        write_rows(folder / "calibration.csv", rows, COLUMNS)
        with atomic_write(folder / "calibration.json", "w") as file:
            file.write(json.dumps(self.summary(), indent=2) + "\n")


def calibrate(predictor: Predictor, paths: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Calibration:
    """Confidence of images whose Dice is known.

    Args:
        predictor: with a judge.
        paths: of the images, all those of ``rows``.
        rows: of the table of metrics, one per image and class.

    Raises:
        BlosamError: when an image cannot be read.
    """
    dice: dict[str, list[float]] = {}
    for entry in rows:
        dice.setdefault(entry["image"], []).append(float(entry["dice"]))
    names, sure = [], []
    for name, path in zip(unique_names(list(paths)), paths, strict=True):
        if name in dice:
            item = predictor.prepare(predictor.load({"image": str(path)}))
            names.append(name)
            sure.append(predictor.judge(item["image"]).value)
    return Calibration(names, sure, [float(np.mean(dice[name])) for name in names], predictor.judge.source)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlation of the ranks, ties sharing theirs; None when one side does not vary."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def row(confidence: Sequence[float], dice: Sequence[float], threshold: float) -> dict[str, float | int | None]:
    """What ``--min-confidence threshold`` would have done.

    Args:
        confidence: one per image.
        dice: one per image.
        threshold: images with a lower confidence are flagged.

    Returns:
        ``threshold``, ``flagged`` (share of the images), ``kept_dice`` and ``flagged_dice`` (means, None without
        any), ``failures_caught`` (share of the failures that are flagged, None without a failure) and
        ``false_alarms`` (share of the flagged that are no failure, None without any).
    """
    sure, truth = np.asarray(confidence, float), np.asarray(dice, float)
    flagged, failed = sure < threshold, truth < FAILURE
    return {
        "threshold": threshold,
        "flagged": _mean(flagged),
        "kept_dice": _mean(truth[~flagged]),
        "flagged_dice": _mean(truth[flagged]),
        "failures_caught": _mean(flagged[failed]),
        "false_alarms": _mean(~failed[flagged]),
    }


def failure_ranking(confidence: Sequence[float], dice: Sequence[float]) -> float | None:
    """Probability that a failure has a lower confidence than a good image (area under the ROC curve).

    None without a failure or without a good image.
    """
    sure, failed = np.asarray(confidence, float), np.asarray(dice, float) < FAILURE
    good, bad = sure[~failed], sure[failed]
    if not len(good) or not len(bad):
        return None
    lower = (bad[:, None] < good[None]).mean() + 0.5 * (bad[:, None] == good[None]).mean()
    return float(lower)


def table_lines(calibration: Calibration) -> list[str]:
    """The table for a terminal."""
    summary = calibration.summary()
    rank = summary["rank_correlation"]
    lines = [
        f"confidence ({calibration.source}) against Dice on {summary['images']} images: rank correlation "
        f"{'not defined' if rank is None else format(rank, '.2f')}, {summary['failures']} with a Dice below {FAILURE}",
        "below    flagged  Dice kept  Dice flagged  failures caught",
    ]
    for item in summary["thresholds"]:
        cells = [share(item["flagged"]), number(item["kept_dice"]), number(item["flagged_dice"])]
        caught = share(item["failures_caught"])
        lines.append(f"{item['threshold']:<7.2f}  {cells[0]:>7}  {cells[1]:>9}  {cells[2]:>12}  {caught:>15}")
    return lines


def share(value: float | None) -> str:
    """A share as whole per cent; a dash for None."""
    return "-" if value is None else f"{100 * value:.0f} %"


def number(value: float | None) -> str:
    """Three digits; a dash for None."""
    return "-" if value is None else f"{value:.3f}"


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None
