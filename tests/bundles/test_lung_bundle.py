"""The lung bundle through MONAI's own commands, from a foreign working directory, on every input format."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from blosam.bundle import Bundle
from blosam.data.phantoms.write import write_dataset
from blosam.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]
QUICK = {
    "num_views": 2,
    "train#trainer#max_epochs": 3,
    "val_interval": 1,
    "base_weights": "random",
    "device": "$torch.device('cpu')",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A copy of the bundle trained for a moment on four phantoms, and the folder of six phantoms."""
    folder = tmp_path_factory.mktemp("lung")
    bundle, data = folder / "blosam_lung", folder / "data"
    shutil.copytree(ROOT / "bundles" / "blosam_lung", bundle, ignore=shutil.ignore_patterns("models", "results"))
    write_dataset("chest", data, 6, seed=3, size=160, image_format="png")
    run(
        "run",
        "training",
        "--config_file",
        f"{bundle}/configs/train.json",
        bundle=bundle,
        dataset_dir=data,
        num_shots=4,
        **QUICK,
    )
    return bundle, data


def run(*words: str, bundle: Path, cwd: str = "/", **overrides) -> subprocess.CompletedProcess:
    """``python -m monai.bundle`` as users call it."""
    command = [sys.executable, "-m", "monai.bundle", *words, "--bundle_root", str(bundle)]
    for key, value in overrides.items():
        command += [f"--{key}", str(value)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_training_writes_complete_flat_weights_an_adapter_and_a_split(trained):
    bundle, _ = trained
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert (bundle / "models" / "adapter.safetensors").is_file()
    assert (bundle / "models" / "last.pt").is_file()
    split = json.loads((bundle / "results" / "split.json").read_text())
    assert len(split["training"]) == 4 and len(split["test"]) == 2
    history = (bundle / "results" / "history.csv").read_text().splitlines()
    assert len(history) > 3


def test_evaluating_writes_a_table_of_the_images_that_did_not_train(trained):
    bundle, data = trained
    configs = f"['{bundle}/configs/train.json','{bundle}/configs/evaluate.json']"
    run(
        "run",
        "evaluating",
        "--config_file",
        configs,
        bundle=bundle,
        dataset_dir=data,
        num_shots=4,
        device="$torch.device('cpu')",
    )
    rows = (bundle / "results" / "metrics.csv").read_text().splitlines()
    split = json.loads((bundle / "results" / "split.json").read_text())
    assert len(rows) == 1 + 2
    names = {Path(item["image"]).stem for item in split["test"]}
    assert {row.split(",")[0].split(".")[0] for row in rows[1:]} == names


@pytest.mark.parametrize("image_format", ["png", "jpeg", "nifti", "dicom"])
def test_bundle_run_and_predictor_give_one_mask_on_the_source_grid(trained, tmp_path, image_format):
    bundle, _ = trained
    items = write_dataset("chest", tmp_path / "new", 2, seed=9, size=150, image_format=image_format)
    out = tmp_path / "out"
    run(
        "run",
        "--config_file",
        f"{bundle}/configs/inference.json",
        bundle=bundle,
        dataset_dir=tmp_path / "new" / "images",
        output_dir=out,
        device="$torch.device('cpu')",
    )
    predictor = Predictor(bundle)
    for item in items:
        expected = predictor.predict(item["image"]).mask
        stem = Path(item["image"]).name.split(".")[0]
        (written,) = [path for path in out.rglob("*") if path.is_file() and stem in path.name]
        if written.suffix == ".png":
            mask = np.asarray(Image.open(written))
        else:
            mask = np.asarray(nibabel.load(written).dataobj).squeeze().T
        assert mask.shape == expected.shape
        assert np.array_equal(mask, expected)


@pytest.mark.parametrize("trace", [False, True], ids=["scripted", "traced"])
def test_exported_torchscript_predicts_the_same_masks(trained, tmp_path, trace):
    bundle, data = trained
    words = ["--use_trace", "True", "--input_shape", "[1,3,256,256]"] if trace else []
    target = tmp_path / "model.ts"
    run(
        "ckpt_export",
        "--config_file",
        f"{bundle}/configs/inference.json",
        "--filepath",
        str(target),
        *words,
        bundle=bundle,
    )
    image = sorted((data / "images").iterdir())[0]
    assert np.array_equal(Predictor(target).predict(image).mask, Predictor(bundle).predict(image).mask)


def test_required_properties_are_all_there(trained):
    bundle, data = trained
    for kind, config in (("training", "train"), ("inference", "inference")):
        flow = ConfigWorkflow(
            config_file=str(bundle / "configs" / f"{config}.json"),
            meta_file=str(bundle / "configs" / "metadata.json"),
            workflow_type=kind,
            bundle_root=str(bundle),
            dataset_dir=str(data),
            output_dir=str(bundle / "results"),
            logging_file=None,
        )
        flow.initialize()
        assert flow.check_properties() == []


def test_weights_of_another_image_size_are_refused(trained, tmp_path):
    bundle, data = trained
    image = sorted((data / "images").iterdir())[0]
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{bundle}/configs/inference.json"]
    words += ["--bundle_root", str(bundle), "--dataset_dir", str(image), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run([*words, "--labels", "{'lung': 1, 'heart': 2}"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "do not fit this network" in done.stdout + done.stderr
    assert not list((tmp_path / "out").rglob("*.png"))


def test_the_word_false_turns_a_setting_off(trained, tmp_path):
    """MONAI's command line passes ``--resume false`` on as a word, which would count as true."""
    bundle, _ = trained
    for word, expected in (("false", False), ("true", True)):
        parser = Bundle(bundle).parser("train", resume=word, amp=word)
        handlers = parser.get("train")["handlers"]
        (last,) = [handler for handler in handlers if handler["_target_"].endswith("LastCheckpoint")]
        assert parser.get_parsed_content("train#handlers#" + str(handlers.index(last))).resume is expected
