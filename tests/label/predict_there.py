"""Segments images with blosam and with MONAI Label's own bundle task: run by the tests in .venv-label."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pydicom
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

from blosam.predictor import Predictor

bundle, out, *paths = sys.argv[1:]
assert np.__version__.startswith("1.26."), np.__version__
assert pydicom.__version__.startswith("2.4."), pydicom.__version__
assert find_spec("highdicom") is None
predictor = Predictor(bundle)
stock = BundleInferTask(bundle, {}, load_strict=True)
masks = {}
for path in paths:
    masks[f"blosam {path}"] = predictor.predict(path).mask
    request = {"image": path, "device": "cpu", "model_filename": "model.pt", "result_write_to_file": False}
    masks[f"stock {path}"] = np.asarray(stock(request)[0]).T  # MONAI's order is columns x rows
assert BundleTrainTask(bundle, {}).is_valid()
np.savez(out, **masks)
