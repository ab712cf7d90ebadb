"""MONAI's own experiment tracking: runs offline, writes beside the results, logs no image's name."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

# Any attempt to leave the computer fails.
OFFLINE = """
import socket, sys, runpy
def refuse(self, address, *rest):
    raise OSError(f"no network in this test: {address}")
socket.socket.connect = refuse
sys.argv = ["monai.bundle", *sys.argv[1:]]
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_tracking_mlflow_logs_the_run_offline_and_no_image_names(lung, tmp_path):
    results = tmp_path / "results"
    words = ["run", "training", "--config_file", lung.config("train"), "--bundle_root", str(lung.root)]
    words += ["--dataset_dir", str(lung.data), "--output_dir", str(results), "--ckpt_dir", str(tmp_path / "models")]
    words += ["--num_shots", "4", "--num_views", "2", "--train#trainer#max_epochs", "2", "--val_interval", "1"]
    words += ["--base_weights", "random", "--device", "$torch.device('cpu')"]
    words += ["--tracking", "mlflow", "--experiment_name", "phantoms", "--save_execute_config", "False"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *words],
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with closing(sqlite3.connect(results / "mlruns.db")) as database:
        metrics = {key for (key,) in database.execute("select key from metrics")}
        params = dict(database.execute("select key, value from params"))
        (names,) = zip(*database.execute("select name from experiments"), strict=True)
        text = "\n".join(database.iterdump())
    assert {"train_loss", "val_mean_dice"} <= metrics and "phantoms" in names
    assert params["max_epochs"] == "2"
    assert str(lung.data) not in text and not [image for image in lung.images if image.stem in text]
    assert not list(results.glob("config_*.json"))
