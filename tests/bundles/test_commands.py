"""The commands of the documentation as real processes, started from a folder that is not the bundle's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blosam.predictor import Predictor


def monai_process(*words: object, cwd: Path) -> str:
    """``python -m monai.bundle WORDS``; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_training_evaluating_and_inference_as_documented(trained, tmp_path):
    root = ("--bundle_root", trained.root, "--device", "$torch.device('cpu')")
    data = ("--dataset_dir", trained.data, "--output_dir", tmp_path / "results", "--num_shots", 4)
    quick = ("--num_views", 2, "--train#trainer#max_epochs", 2, "--base_weights", "random")
    train, evaluate, inference = (trained.config(name) for name in ("train", "evaluate", "inference"))
    before = (trained.root / "models" / "model.pt").stat().st_mtime_ns
    monai_process("run", "training", "--config_file", train, *root, *data, *quick, cwd=tmp_path)
    assert (trained.root / "models" / "model.pt").stat().st_mtime_ns > before
    monai_process("run", "evaluating", "--config_file", f"['{train}','{evaluate}']", *root, *data, cwd=tmp_path)
    assert len((tmp_path / "results" / "metrics.csv").read_text().splitlines()) == 1 + 2
    new = ("--dataset_dir", trained.data, "--output_dir", tmp_path / "masks")
    monai_process("run", "--config_file", inference, *root, *new, cwd=tmp_path)
    predictor = Predictor(trained.root)
    for image in trained.images:
        (mask,) = (tmp_path / "masks").rglob(f"{image.stem}*.png")
        assert np.array_equal(np.asarray(Image.open(mask)), predictor.predict(image).mask)
    monai_process("ckpt_export", "--config_file", inference, *root[:2], cwd=tmp_path)
    assert (trained.root / "models" / "model.ts").is_file()
