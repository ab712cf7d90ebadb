"""The demo's comparison of confidence and Dice, and how the report shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blosam.bundle import Bundle
from blosam.data.phantoms.write import write_dataset
from blosam.demo_quality import phantom_calibration
from blosam.evaluation.calibration import Calibration
from blosam.evaluation.plots import calibration_plot, calibration_png
from blosam.evaluation.report import ReportData, render_report
from blosam.weightsio import save_state_dict

ROOT = Path(__file__).resolve().parents[1]


def test_every_image_is_measured_as_drawn_and_changed(tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(ROOT / "bundles" / "blosam_lung", bundle, ignore=shutil.ignore_patterns("models"))
    config = bundle / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"image_size": 256', '"image_size": 64'))
    network = Bundle(bundle).parser().get_parsed_content("network_def")
    save_state_dict(network.state_dict(), bundle / "models" / "model.pt")
    pairs = write_dataset("chest", tmp_path / "data", 3, seed=5, size=64, image_format="png")
    found = phantom_calibration(bundle, pairs, tmp_path / "scratch")
    assert len(found.names) == 6 and found.source == "views"
    assert all(0 <= value <= 1 for value in (*found.confidence, *found.dice))
    first = np.asarray(Image.open(tmp_path / "scratch" / "000_as_drawn.png"))
    assert np.array_equal(first, np.asarray(Image.open(pairs[0]["image"]).convert("L")))
    assert (np.asarray(Image.open(tmp_path / "scratch" / "000_exposure.png")) != first).mean() > 0.5


@pytest.mark.parametrize("dice", [[0.9, 0.95, 0.3], [0.95, 0.95, 0.95]], ids=["a failure", "none"])
def test_report_shows_scatter_and_thresholds(dice):
    found = Calibration(["a", "b", "c"], [0.9, 0.97, 0.4], dice, "views", "A <b>note</b>.")
    page = render_report(ReportData("T", calibration=found))
    assert "How sure is it?" in page and page.count("<svg") == 1 and "&lt;b&gt;note" in page
    assert ("0.300" in page) is (0.3 in dice)
    assert "var(--first)" in calibration_plot(found) and calibration_png(found).startswith(b"\x89PNG")
    assert "How sure" not in render_report(ReportData("T"))
