"""Names of files made from images."""

from __future__ import annotations

import re
from pathlib import Path

from blosam.writers import output_names


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
