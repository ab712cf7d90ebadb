"""How sure the numbers of a comparison are: confidence intervals, and paired tests between methods.

The unit is the test image, which counts once with the mean of its classes. An image is tested by every seed that does
not train on it, so one number of shots gives a table of images by seeds with gaps, the same for every method.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from blosam.evaluation.table import write_rows

METRICS = ("dice", "hd95", "surface_dice")
REFERENCES = ("blo-sam", "unet")
"""What every method is tested against, besides the best one."""

RESAMPLES = 5000
LEVEL = 0.05

STATISTICS_COLUMNS = (
    "method", "shots", "metric", "unit", "images", "seeds", "mean", "std_over_seeds", "ci_low", "ci_high",
    "ranked", "rank", "p_best", "p_blo_sam", "p_unet",
)  # fmt: skip
TEST_COLUMNS = (
    "shots", "reference", "method", "images", "seeds", "difference", "ci_low", "ci_high", "p", "p_holm",
)  # fmt: skip

EXPLANATION = (
    "Every test image counts once in each seed, with the mean of its classes; a mean is over the images of a seed and "
    "then over seeds, and the number after ± is the sample standard deviation over seeds (other training images).",
    f"95 % intervals: {RESAMPLES} bootstrap samples of the test images; an image is drawn with its values in all "
    "seeds, the same draws for every method (percentiles 2.5 and 97.5). They tell how the mean would move with other "
    "test images. How it moves with other training images is told by ± only.",
    "Tests: Wilcoxon's signed-rank test, two-sided, on the differences of the Dice of two methods per test image, "
    "averaged over the seeds both have; Holm's correction over all methods tested against the same reference with the "
    "same number of training images. The best method was chosen on the same images, so tests against it lean towards "
    "a difference. Images of one patient are counted as independent.",
)
"""How the numbers are made, in words, for the report."""

Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Scores:
    """One metric of one method with one number of shots.

    Args:
        images: names, sorted.
        seeds: sorted.
        values: images x seeds; NaN where the seed trained on the image.
        unit: of the values; empty for shares. ``None`` when images have different units, which cannot be averaged;
            nor can surface Dice, whose tolerance is in that unit.
    """

    images: tuple[str, ...]
    seeds: tuple[int, ...]
    values: np.ndarray
    unit: str | None

    @property
    def seed_means(self) -> np.ndarray:
        """Mean over images of each seed."""
        return np.nanmean(self.values, axis=0)

    @property
    def mean(self) -> float:
        """Mean over seeds of the mean over images."""
        return float(self.seed_means.mean())


def scores(runs: Runs, metric: str) -> Scores:
    """Values of some runs of one method with one number of shots.

    Args:
        runs: one per seed.
        metric: one of :data:`METRICS`.
    """
    found: dict[tuple[str, int], list[float]] = {}
    units = set()
    for run in runs:
        for row in run["rows"]:
            if row["split"] == "test":
                found.setdefault((row["image"], run["seed"]), []).append(row[metric])
                units.add(row["unit"] if metric != "dice" else "")
    images, seeds = (tuple(sorted({key[i] for key in found})) for i in (0, 1))
    values = np.full((len(images), len(seeds)), np.nan)
    places = {name: i for i, name in enumerate(images)}, {seed: i for i, seed in enumerate(seeds)}
    for (image, seed), classes in found.items():
        values[places[0][image], places[1][seed]] = sum(classes) / len(classes)
    if len(units) != 1:
        return Scores(images, seeds, values, None)
    return Scores(images, seeds, values, units.pop() if metric == "hd95" else "")


@functools.lru_cache(maxsize=16)
def _draws(images: int) -> np.ndarray:
    """How often each image is drawn in each bootstrap sample; the same for all methods, which pairs them."""
    return np.random.default_rng(images).multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(float)


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """95 % bootstrap interval of the mean over seeds of the mean over images.

    Args:
        values: images x seeds, NaN where there is none.

    Returns:
        Lower and upper end; None with fewer than two images.
    """
    if len(values) < 2:
        return None
    known = np.isfinite(values)
    draws = _draws(len(values))
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a sample may miss all images of a seed
        means = np.nanmean((draws @ np.where(known, values, 0.0)) / (draws @ known), axis=1)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p of the signed-rank test; 1 when nothing differs."""
    rounded = np.round(differences, 9)  # values are stored with six digits: what is smaller comes from averaging
    return float(stats.wilcoxon(rounded).pvalue) if np.any(rounded != 0) else 1.0


def paired_test(one: Scores, other: Scores) -> dict[str, Any] | None:
    """``one`` minus ``other`` on the images and seeds that both have.

    Returns:
        ``images``, ``seeds``, ``difference``, ``ci_low``, ``ci_high`` and ``p``; None when they share no image.
    """
    seeds = sorted(set(one.seeds) & set(other.seeds))
    images = sorted(set(one.images) & set(other.images))
    if not seeds or not images:
        return None
    cut = [
        s.values[np.ix_([s.images.index(i) for i in images], [s.seeds.index(k) for k in seeds])] for s in (one, other)
    ]
    differences = cut[0] - cut[1]
    differences = differences[np.isfinite(differences).any(axis=1)]
    if not len(differences):
        return None
    ends = interval(differences) or (None, None)
    return {
        "images": len(differences),
        "seeds": len(seeds),
        "difference": float(np.nanmean(differences, axis=0).mean()),
        "ci_low": ends[0],
        "ci_high": ends[1],
        "p": wilcoxon(np.nanmean(differences, axis=1)),
    }


def by_method(runs: Runs) -> dict[tuple[int, str], list[Mapping[str, Any]]]:
    """Runs by (shots, method), shots ascending, methods in the order in which they come."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["shots"], run["method"]), []).append(run)
    return dict(sorted(groups.items(), key=lambda item: item[0][0]))


def ranking(runs: Runs) -> dict[int, list[str]]:
    """For each number of shots the methods that can be compared, best mean Dice first."""
    found: dict[int, list[tuple[float, str]]] = {}
    for (shots, method), group in by_method(runs).items():
        ranked = found.setdefault(shots, [])
        if not group[0].get("caveat"):
            ranked.append((-scores(group, "dice").mean, method))
    return {shots: [method for _, method in sorted(ranked)] for shots, ranked in found.items()}


def tests(runs: Runs) -> list[dict[str, Any]]:
    """Every ranked method against the best, and against each of :data:`REFERENCES`, with :data:`TEST_COLUMNS`."""
    groups, found = by_method(runs), []
    for shots, methods in ranking(runs).items():
        dice = {method: scores(groups[shots, method], "dice") for method in methods}
        for name in ("best", *REFERENCES):
            reference = methods[0] if name == "best" and methods else name
            if reference not in dice:
                continue
            pairs = {m: paired_test(dice[m], dice[reference]) for m in methods if m != reference}
            family = {method: result for method, result in pairs.items() if result is not None}
            corrected = holm([result["p"] for result in family.values()])
            label = f"best ({reference})" if name == "best" else reference
            for (method, result), p in zip(family.items(), corrected, strict=True):
                found.append({"shots": shots, "reference": label, "method": method, **result, "p_holm": p})
    return found


def statistics(runs: Runs, tested: Runs) -> list[dict[str, Any]]:
    """Mean, deviation and interval of every metric, and the corrected p values of Dice; :data:`STATISTICS_COLUMNS`.

    Args:
        runs: all of a comparison.
        tested: what :func:`tests` gives for them.
    """
    places = {(shots, m): i + 1 for shots, methods in ranking(runs).items() for i, m in enumerate(methods)}
    columns = {"best": "p_best", "blo-sam": "p_blo_sam", "unet": "p_unet"}
    p_values = {(t["shots"], t["method"], columns[t["reference"].split(" (")[0]]): t["p_holm"] for t in tested}
    found = []
    for (shots, method), group in by_method(runs).items():
        for metric in METRICS:
            values = scores(group, metric)
            if values.unit is None or not values.images:
                continue
            ends = interval(values.values) or (None, None)
            spread = float(values.seed_means.std(ddof=1)) if len(values.seeds) > 1 else None
            place = places.get((shots, method))
            row = {"method": method, "shots": shots, "metric": metric, "unit": values.unit}
            row |= {"images": len(values.images), "seeds": len(values.seeds), "mean": values.mean}
            row |= {"std_over_seeds": spread, "ci_low": ends[0], "ci_high": ends[1]}
            row |= {"ranked": "no" if place is None else "yes", "rank": place}
            if metric == "dice":
                row |= {name: p_values.get((shots, method, name)) for name in columns.values()}
            found.append(row)
    return found


def write_statistics(folder: Path, numbers: Runs, tested: Runs) -> None:
    """Write ``statistics.csv`` and ``tests.csv``; small p values keep their digits."""
    write_rows(folder / "statistics.csv", map(_exact, numbers), STATISTICS_COLUMNS)
    write_rows(folder / "tests.csv", map(_exact, tested), TEST_COLUMNS)


def _exact(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: f"{value:.4g}" if key.startswith("p") and value is not None else value for key, value in row.items()}


def p_text(p: float | None) -> str:
    """A p value for reading."""
    if p is None or not math.isfinite(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"


def missing_seeds(runs: Runs) -> dict[tuple[int, str], list[int]]:
    """Seeds that other methods have with this number of shots, for the methods that lack some."""
    groups = by_method(runs)
    seeds: dict[int, set[int]] = {}
    for (shots, _), group in groups.items():
        seeds.setdefault(shots, set()).update(run["seed"] for run in group)
    lacking = {key: sorted(seeds[key[0]] - {run["seed"] for run in group}) for key, group in groups.items()}
    return {key: missing for key, missing in lacking.items() if missing}


def mean_or_none(values: Iterable[float | None]) -> float | None:
    """Mean of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
