"""Release zips: complete, the same bytes every time, and usable with nothing but what is inside."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from blosam.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("build_bundles", ROOT / "tools" / "build_bundles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Path:
    """A copy of the template and the tasks, with a stand-in for the weights of the lungs."""
    folder = tmp_path_factory.mktemp("bundles")
    for part in ("_template", "_tasks"):
        shutil.copytree(ROOT / "bundles" / part, folder / part)
    (folder / "blosam_lung" / "models").mkdir(parents=True)
    (folder / "blosam_lung" / "models" / "model.pt").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="module")
def zips(tool, bundles, tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("zips")
    return {name: tool.write_zip(name, bundles, out) for name in tool.task_names(bundles)}


def test_all_zips_ship_the_same_package_byte_by_byte(zips):
    source = ROOT / "common" / "blosam"
    expected = {
        f"blosam/{path.relative_to(source).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(zips) == 3 and "blosam/predictor.py" in expected and "blosam/assets/tiny.safetensors" in expected
    for name, path in zips.items():
        with zipfile.ZipFile(path) as archive:
            shipped = {
                inner: hashlib.sha256(archive.read(f"blosam_{name}/{inner}")).hexdigest()
                for inner in (entry.removeprefix(f"blosam_{name}/") for entry in archive.namelist())
                if inner.startswith("blosam/")
            }
        assert shipped == expected


def test_zips_hold_the_generated_bundle_and_its_weights(zips, tool, bundles):
    for name, path in zips.items():
        with zipfile.ZipFile(path) as archive:
            for inner, text in tool.bundle_files(name, bundles).items():
                assert archive.read(f"blosam_{name}/{inner}").decode() == text
            large = archive.read(f"blosam_{name}/large_files.yml").decode()
            weights = [entry for entry in archive.namelist() if "/models/" in entry]
        assert weights == (["blosam_lung/models/model.pt"] if name == "lung" else [])
        assert yaml.safe_load(large) == {"large_files": []}
        assert (hashlib.sha256(b"weights").hexdigest() in large) == (name == "lung")


def test_the_same_files_give_the_same_bytes(zips, tool, bundles, tmp_path):
    os.utime(bundles / "blosam_lung" / "models" / "model.pt", (0, 0))
    again = tool.write_zip("lung", bundles, tmp_path)
    assert again.read_bytes() == zips["lung"].read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [zips["lung"].name]


def test_with_an_address_the_weights_stay_out(tool, bundles, tmp_path):
    path = tool.write_zip("lung", bundles, tmp_path, url="https://example.org/blosam_lung")
    with zipfile.ZipFile(path) as archive:
        assert not [entry for entry in archive.namelist() if "/models/" in entry]
        (entry,) = yaml.safe_load(archive.read("blosam_lung/large_files.yml"))["large_files"]
    assert entry == {
        "path": "models/model.pt",
        "url": "https://example.org/blosam_lung/model.pt",
        "hash_val": hashlib.sha256(b"weights").hexdigest(),
        "hash_type": "sha256",
    }


def test_an_unpacked_zip_segments_with_its_own_copy_of_the_package(tool, lung, bundles, tmp_path):
    """The trained 64-pixel bundle, zipped, unpacked elsewhere and run by MONAI's command from a third folder."""
    shutil.copy(lung.root / "models" / "model.pt", bundles / "blosam_lung" / "models" / "model.pt")
    with zipfile.ZipFile(tool.write_zip("lung", bundles, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked")
    root, elsewhere = tmp_path / "unpacked" / "blosam_lung", tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "import blosam; print(blosam.__file__)"]
    found = subprocess.run(where, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == root / "blosam" / "__init__.py"
    words = ["run", "--config_file", f"{root}/configs/inference.json", "--bundle_root", str(root), "--image_size", "64"]
    words += ["--dataset_dir", str(lung.images[0]), "--output_dir", str(elsewhere / "masks")]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (mask,) = (elsewhere / "masks").rglob("*.png")
    assert np.array_equal(np.asarray(Image.open(mask)), Predictor(lung.root).predict(lung.images[0]).mask)
