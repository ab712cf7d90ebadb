"""A complete sample report from arrays drawn here: pictures with lungs-like shapes, curves and a table."""

from __future__ import annotations

import numpy as np
import pytest

from blosam.evaluation.metrics import image_metrics
from blosam.evaluation.report_data import (
    CAVEATS,
    PHANTOM_CAVEAT,
    Case,
    Curves,
    Headline,
    ReportData,
    Table,
    TrainingImage,
    metric_headlines,
)
from blosam.evaluation.table import summarise


def picture(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey size x size picture in [0, 1] with two dark, noisy ellipses, and their mask (1 = inside)."""
    rows, columns = np.mgrid[:size, :size] / size
    mask = np.zeros((size, size), np.uint8)
    for centre in (0.3, 0.7):
        x, y = centre + rng.normal(0, 0.02), 0.5 + rng.normal(0, 0.03)
        a, b = 0.14 + rng.normal(0, 0.01), 0.3 + rng.normal(0, 0.03)
        mask |= (((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 < 1).astype(np.uint8)
    image = 0.75 - 0.45 * mask + 0.06 * np.sin(40 * rows + 8 * (columns - 0.5) ** 2) + rng.normal(0, 0.03, mask.shape)
    return np.clip(image, 0, 1).astype(np.float32), mask


def sample_report(cases: int = 20, size: int = 128, seed: int = 0) -> ReportData:
    """Every part filled in, one class."""
    rng = np.random.default_rng(seed)
    rows, shown = [], []
    for i in range(cases):
        image, truth = picture(rng, size)
        shift = int(rng.integers(0, size // 16))
        pred = np.roll(truth, (shift, shift // 2), (0, 1))
        name = f"chest_{i:03d}"
        shown.append(Case(name, image, truth, pred))
        rows += [{"image": name, **row, "class": "lung"} for row in image_metrics(pred, truth, [1], (1.4, 1.4))]
    time = np.arange(200)
    steps = rng.normal(0, 1, (200, 256)) * np.exp(-time / 60)[:, None]
    training = [TrainingImage(f"chest_t{i}", *picture(rng, size), role=f"D{i % 2 + 1}") for i in range(4)]
    return ReportData(
        title="Lung segmentation from four labelled images",
        lead="Phantom chest X-rays, BLO-SAM with the small embedded encoder.",
        headlines=metric_headlines(summarise(rows), 41.3, ("U-Net", 0.897, 0.005)) + [Headline("Seeds", "1")],
        steps=[
            "Drew 24 phantom chest X-rays with exact masks.",
            "Trained on 4 of them.",
            "Measured the other 20.",
        ],
        training=training,
        curves=Curves(
            iterations=list(time),
            d1_loss=list(np.exp(-time / 40) + 0.1 + rng.normal(0, 0.03, 200) ** 2),
            d2_loss=list(np.exp(-time / 45) + 0.16 + rng.normal(0, 0.04, 200) ** 2),
            learning_rate=list(5e-3 * (1 - time / 200) ** 0.9),
            prompt=np.cumsum(steps + 0.3 * np.exp(-time / 50)[:, None], axis=0) * 1e-3,
            validation=[(t, float(0.93 - 0.5 * np.exp(-t / 30))) for t in range(20, 201, 20)],
        ),
        rows=rows,
        cases=shown,
        class_names={1: "lung"},
        tables=[
            Table(
                "Beside a U-Net",
                ["Model", "Dice", "Seconds"],
                [["BLO-SAM", "0.931", "41"], ["U-Net", "0.897", "41"]],
            )
        ],
        dicom=Case("phantom.dcm", shown[0].image, None, shown[0].pred),
        dicom_facts={"Modality": "DX", "Rows x columns": f"{size} x {size}", "Pixel spacing": "1.4 mm"},
        facts={
            "Versions": {"blosam": "0.1.0", "torch": "2.13.0", "monai": "1.6.1"},
            "Settings": {"seed": "0", "method": "blo-sam", "encoder": "tiny"},
            "Timings": {"drawing": "1.2 s", "training": "41 s", "evaluation": "3 s"},
        },
        command="blosam demo --seed 0",
        caveats=[PHANTOM_CAVEAT, *CAVEATS],
    )


@pytest.fixture(scope="session")
def complete_report() -> ReportData:
    return sample_report(cases=6, size=64)
