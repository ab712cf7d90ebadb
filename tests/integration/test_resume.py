"""Killing the real training command and resuming it gives, bit for bit, the weights of an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from blosam.data.phantoms.write import write_dataset

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "data"
    write_dataset("chest", folder, 4, seed=5, size=64, image_format="png")
    return folder


def _command(bundle: Path, data: Path, resume: bool) -> list[str]:
    settings = {
        "bundle_root": bundle,
        "dataset_dir": data,
        "image_size": 64,
        "num_views": 2,
        "base_weights": "random",
        "method": "blo-sam",
        "train#trainer#max_epochs": EPOCHS,
        "val_interval": 5,
        "resume": resume,
        "device": "$torch.device('cpu')",
    }
    words = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", f"{bundle}/configs/train.json"]
    return words + [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def _bundle(folder: Path) -> Path:
    target = folder / "blosam_lung"
    shutil.copytree(ROOT / "bundles" / "blosam_lung", target, ignore=shutil.ignore_patterns("models", "results"))
    return target


def _finish(bundle: Path, data: Path, resume: bool = False) -> dict[str, torch.Tensor]:
    done = subprocess.run(_command(bundle, data, resume), capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return torch.load(bundle / "models" / "model.pt", weights_only=True)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _epochs_recorded(bundle: Path) -> int:
    history = bundle / "results" / "history.csv"
    return len(history.read_text().splitlines()) if history.is_file() else 0


def _hear_ctrl_c() -> None:
    """A test run started in the background ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _kill_midway(bundle: Path, data: Path, sign: int) -> None:
    process = subprocess.Popen(
        _command(bundle, data, False),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        preexec_fn=_hear_ctrl_c,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (bundle / "models" / "last.pt").is_file() and _epochs_recorded(bundle) > 8:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be stopped; raise EPOCHS"
    process.send_signal(sign)
    assert process.wait(60) != 0
    assert not (bundle / "models" / "model.pt").is_file(), "the run had finished before it was stopped"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_resumed_run_equals_an_undisturbed_one(data, tmp_path, tmp_path_factory, sign):
    whole = tmp_path_factory.getbasetemp() / "undisturbed.pt"
    if not whole.is_file():
        torch.save(_finish(_bundle(tmp_path / "whole"), data), whole)
    bundle = _bundle(tmp_path / "stopped")
    _kill_midway(bundle, data, sign)
    resumed = _finish(bundle, data, resume=True)
    expected = torch.load(whole, weights_only=True)
    assert resumed.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(resumed[name], tensor), name
    iterations = [row.split(",")[0] for row in (bundle / "results" / "history.csv").read_text().splitlines()[1:]]
    assert len(iterations) == len(set(iterations)), "history.csv repeats iterations after a resume"
