"""Names and units of the masks that ``blosam predict`` writes."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from blosam.predictor import Prediction
from blosam.writers import output_names, write_prediction


def test_names_stay_distinct_whatever_the_inputs_are_called():
    names = output_names([Path("x/a.png"), Path("x/a_0003.png"), Path("y/a.png"), Path("y/a_overlay.png")])
    files = [f"{name}{ending}" for name in names for ending in (".png", "_overlay.png")]
    assert len(files) == len(set(files))


def test_dicom_names_hold_nothing_of_the_source_name(tmp_path):
    paths = [tmp_path / "DOE_JOHN.dcm", tmp_path / "1.2.840.777"]
    for path in paths:
        path.write_bytes(path.name.encode())
    for name in output_names(paths):
        assert re.fullmatch(r"image_000[12]_[0-9a-f]{8}", name)


@pytest.mark.parametrize("unit", ["micron", "mm", "unknown"])
def test_nifti_keeps_the_affine_and_its_unit(tmp_path, unit):
    affine = np.array([[0, -40.0, 0, 3], [25.0, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]])
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 5] = 1
    empty = np.zeros((2, 4, 6), np.float32)
    prediction = Prediction(Path("a"), mask, empty, empty[0], affine, (0.04, 0.025), 0.0, unit)
    write_prediction(prediction, "a", tmp_path, ["nifti"], {"lung": 1})
    written = nibabel.load(tmp_path / "a.nii.gz")
    assert written.header.get_xyzt_units()[0] == unit
    assert np.array_equal(written.affine, affine)
    assert np.argwhere(np.asarray(written.dataobj)).tolist() == [[5, 1, 0]]
