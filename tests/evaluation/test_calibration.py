"""Calibration against NumPy loops, and the files it writes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from blosam.evaluation.calibration import Calibration, failure_ranking, row, spearman, table_lines


@pytest.fixture
def sample() -> Calibration:
    """Thirty images, confidence and Dice related, some values tied."""
    random = np.random.default_rng(4)
    dice = np.round(random.uniform(0.4, 1, 30), 2)
    sure = np.round(np.clip(dice + random.normal(0, 0.1, 30), 0, 1), 1)
    return Calibration([f"i{k}" for k in range(30)], sure.tolist(), dice.tolist(), "views")


def test_rank_correlation_is_that_of_scipy(sample):
    assert sample.rank_correlation == pytest.approx(spearmanr(sample.confidence, sample.dice).statistic)
    assert spearman([1, 1, 1], [1, 2, 3]) is None and spearman([1, 2], [1, 2]) is None


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.8, 1.1])
def test_thresholds_against_a_loop(sample, threshold):
    kept, flagged, caught, failures, alarms = [], [], 0, 0, 0
    for sure, dice in zip(sample.confidence, sample.dice, strict=True):
        (flagged if sure < threshold else kept).append(dice)
        failures += dice < 0.8
        caught += dice < 0.8 and sure < threshold
        alarms += dice >= 0.8 and sure < threshold
    found = row(sample.confidence, sample.dice, threshold)
    assert found["flagged"] == pytest.approx(len(flagged) / 30)
    assert found["kept_dice"] == (pytest.approx(sum(kept) / len(kept)) if kept else None)
    assert found["flagged_dice"] == (pytest.approx(sum(flagged) / len(flagged)) if flagged else None)
    assert found["failures_caught"] == pytest.approx(caught / failures)
    assert found["false_alarms"] == (pytest.approx(alarms / len(flagged)) if flagged else None)


def test_no_failures_and_one_image_are_no_errors():
    single = Calibration(["a"], [0.9], [0.95], "views")
    assert single.rank_correlation is None
    assert row([0.9], [0.95], 0.5)["failures_caught"] is None
    assert "not defined" in table_lines(single)[0]
    assert failure_ranking([0.9], [0.95]) is None


def test_failure_ranking_against_pairs():
    sure, dice = [0.2, 0.5, 0.5, 0.9], [0.3, 0.7, 0.9, 0.95]
    pairs = [(a, b) for a, x in zip(sure, dice, strict=True) for b, y in zip(sure, dice, strict=True) if x < 0.8 <= y]
    expected = sum(1.0 if a < b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert failure_ranking(sure, dice) == pytest.approx(expected)


def test_files(sample, tmp_path):
    sample.write(tmp_path)
    with open(tmp_path / "calibration.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["dice"]) for r in rows] == pytest.approx(sample.dice)
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert content["images"] == 30 and len(content["thresholds"]) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.csv", "calibration.json"]
