"""A small trained bundle, images in the three formats, and a MONAI Label server with its client."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

from blosam.bundle import Bundle
from blosam.data.phantoms.write import write_dataset

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-label" / "bin" / "python"
KINDS = ("chest_00000", "chest_00010", "chest_00020")  # PNG, NIfTI, MONOCHROME1 DICOM
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "common"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def blosam(*arguments: object) -> subprocess.CompletedProcess:
    """The command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "blosam.cli", *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True
    )


def predicted(bundle: Path, images: Sequence[Path], out: Path) -> list[np.ndarray]:
    """Masks of `blosam predict`, Rows x Columns, in the order of the images."""
    arguments = ("--bundle", bundle, "--out", out, "--format", "nifti", "--device", "cpu", "--force")
    done = blosam("predict", *images, *arguments)
    assert done.returncode == 0, done.stderr
    names = []
    for image, record in zip(images, json.loads((out / "run.json").read_text())["inputs"], strict=True):
        names.append(record["outputs"]["nifti"][0].replace("{stem}", re.sub(r"\..*", "", image.name)))
    volumes = [np.asarray(nibabel.load(out / name).dataobj) for name in names]
    return [volume.reshape(volume.shape[:2]).T for volume in volumes]  # a third axis only where the source has one


def bundle_copy(to: Path) -> Bundle:
    """The lung bundle without weights, with one view of an image, which makes training quick."""
    shutil.copytree(ROOT / "bundles" / "blosam_lung", to, ignore=shutil.ignore_patterns("models", "results"))
    bundle = Bundle(to)
    bundle.config("train").write_text(json.dumps(bundle.read("train") | {"num_views": 1}, indent=4))
    return bundle


@pytest.fixture(scope="session")
def label_environment() -> Path:
    """Python of .venv-label."""
    if not (ROOT / ".venv-label" / "installed").is_file():
        pytest.skip("MONAI Label is not installed: run `make label`")
    return PYTHON


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Bundle:
    """A bundle trained for a moment."""
    folder = tmp_path_factory.mktemp("trained")
    write_dataset("chest", folder / "data", 4, seed=40, size=128)
    bundle = bundle_copy(folder / "lung")
    done = blosam("train", folder / "data", "--bundle", bundle.root, "--epochs", 6, "--views", 1, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return bundle


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> dict[str, Path]:
    """A folder with images: four PNG, one NIfTI, one MONOCHROME1 DICOM; name to path. Masks lie beside the folder."""
    folder = tmp_path_factory.mktemp("images")
    studies = folder / "studies"
    studies.mkdir()
    found = {}
    for kind, seed, count in (("png", 0, 4), ("nifti", 10, 1), ("dicom", 20, 1)):
        items = write_dataset(
            "chest", folder / kind, count, seed=seed, size=160, image_format=kind, photometric="MONOCHROME1"
        )
        for item in items:
            path = Path(shutil.copy(item["image"], studies))
            found[re.sub(r"\..*", "", path.name)] = path
    return found


@pytest.fixture(scope="session")
def expected(trained, images, tmp_path_factory) -> dict[str, np.ndarray]:
    """Name to mask of `blosam predict` with the trained bundle: one PNG, one NIfTI, one MONOCHROME1 DICOM."""
    chosen = [images[name] for name in KINDS]
    return dict(zip(KINDS, predicted(trained.root, chosen, tmp_path_factory.mktemp("expected")), strict=True))


@pytest.fixture(scope="session")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Client:
    """MONAI Label's client in the other environment."""

    def __init__(self, url: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [str(PYTHON), str(Path(__file__).with_name("client.py")), url, str(folder)],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, method: str, *arguments: object) -> dict:
        """``{"result": ...}`` or ``{"error": what the client was told}``."""
        self.process.stdin.write(json.dumps([method, arguments]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __call__(self, method: str, *arguments: object):
        answer = self.ask(method, *arguments)
        assert "error" not in answer, answer
        return answer["result"]

    def refused(self, method: str, *arguments: object) -> str:
        """The message of a request that must fail; the server must still answer afterwards."""
        answer = self.ask(method, *arguments)
        assert "error" in answer, answer
        assert self("info")["models"]
        return answer["error"]
