"""The lung bundle under the real torchrun: the weights and table of one process, and an end when a process dies."""

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

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5  # of the weights after four epochs in float32; the largest are around 1
LONG = {"method": "blo-sam", "train#trainer#max_epochs": 40}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun") / "data"
    write_dataset("chest", folder, 8, seed=5, size=64, image_format="png")
    return folder


@pytest.fixture
def bundle(tmp_path):
    """Function (name) for a fresh copy of the lung bundle without weights."""

    def copy(name: str) -> Path:
        ignored = shutil.ignore_patterns("models", "results")
        return Path(shutil.copytree(ROOT / "bundles" / "blosam_lung", tmp_path / name, ignore=ignored))

    return copy


def start(bundle: Path, data: Path, processes: int, run: str = "training", **settings) -> subprocess.Popen:
    """The command a user types, from a foreign folder, with everything it says in ``log.txt`` of the bundle."""
    names = {"training": ["train"], "evaluating": ["train", "evaluate"]}[run]
    names += [f"multi_gpu_{names[-1]}"] if processes > 1 else []
    configs = ",".join(f"'{bundle}/configs/{name}.json'" for name in names)
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    words = [*launcher, "monai.bundle", "run", run, "--config_file", f"[{configs}]"]
    settings = {
        "bundle_root": bundle, "dataset_dir": data, "image_size": 64, "num_views": 2, "num_shots": 5,
        "base_weights": "random", "device": "$torch.device('cpu')", "train#trainer#max_epochs": 4, "val_interval": 2,
        **settings,
    }  # fmt: skip
    words += [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    with (bundle / "log.txt").open("w") as log:
        return subprocess.Popen(words, cwd="/", stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(bundle: Path, *words, **settings) -> dict[str, torch.Tensor]:
    """Run to the end; the weights."""
    process = start(bundle, *words, **settings)
    try:
        assert process.wait(400) == 0, (bundle / "log.txt").read_text()[-3000:]
    finally:
        process.kill()
    return torch.load(bundle / "models" / "model.pt", weights_only=True)


def test_two_processes_train_the_weights_of_one_and_measure_the_same_table(bundle, data):
    one, two = bundle("one"), bundle("two")
    expected, found = finish(one, data, 1), finish(two, data, 2)
    assert expected.keys() == found.keys()
    assert max(float((found[name] - tensor).abs().max()) for name, tensor in expected.items()) < TOLERANCE
    written = [sorted(str(p.relative_to(b)) for p in b.rglob("*") if "tensorboard" not in p.parts) for b in (one, two)]
    assert written[0] == written[1]
    assert len(list((two / "results" / "tensorboard").iterdir())) == 1

    finish(two, data, 1, "evaluating", output_dir=two / "alone")
    finish(two, data, 2, "evaluating", output_dir=two / "together")
    tables = [(two / folder / "metrics.csv").read_text() for folder in ("alone", "together")]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 1 + 3  # three images for two processes


def test_a_killed_process_ends_the_run_which_resumes_to_the_same_weights(bundle, data):
    expected = finish(bundle("whole"), data, 2, **LONG)
    stopped = bundle("stopped")
    launcher = start(stopped, data, 2, **LONG)
    try:
        history = stopped / "results" / "history.csv"
        while launcher.poll() is None and not (history.is_file() and len(history.read_text().splitlines()) > 8):
            time.sleep(0.05)
        assert launcher.poll() is None, (stopped / "log.txt").read_text()[-3000:]
        workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        assert len(workers) == 2
        os.kill(int(workers[1]), signal.SIGKILL)
        assert launcher.wait(60) != 0
    finally:
        launcher.kill()
    assert not (stopped / "models" / "model.pt").exists()
    found = finish(stopped, data, 2, resume=True, **LONG)
    assert "Resumed from" in (stopped / "log.txt").read_text()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
