"""A bundle that was trained with another method than its configs say, in the classes that MONAI Label's server runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from blosam.data.phantoms.write import write_dataset

from .conftest import ENVIRONMENT, blosam, bundle_copy, predicted

pytestmark = pytest.mark.label


def test_segments_and_trains_on_with_the_method_of_the_weights(label_environment, tmp_path):
    """A training anew takes the method of the bundle's configs again."""
    data = tmp_path / "data"
    write_dataset("chest", data, 4, seed=40, size=128, image_format="png")
    bundle = bundle_copy(tmp_path / "lung")
    words = ("--method", "s-sam", "--epochs", 2, "--views", 1, "--device", "cpu")
    done = blosam("train", data, "--bundle", bundle.root, *words)
    assert done.returncode == 0, done.stderr
    assert bundle.read("train")["method"] == "recommended"

    script, out = Path(__file__).with_name("train_there.py"), tmp_path / "out.json"
    command = [label_environment, script, bundle.root, data / "images", data / "masks", out]
    done = subprocess.run(list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == {"before": "s-sam", "continued": "s-sam", "anew": "all-layers"}
    weights = [(tmp_path / f"{name}.pt").read_bytes() for name in ("before", "continued", "anew")]
    assert len(set(weights)) == 3
    image = sorted((data / "images").iterdir())[0]
    for name in ("continued", "anew"):
        shutil.copy(tmp_path / f"{name}.pt", bundle.weights)
        (mask,) = predicted(bundle.root, [image], tmp_path / f"predicted_{name}")
        np.testing.assert_array_equal(mask, np.load(tmp_path / f"{name}.npy"))
