from __future__ import annotations

import pytest

from blosam.dicom.codes import segment_codes
from blosam.dicom.seg import Algorithm, segmentation, write_dicom
from blosam.dicom.sr import Measured, measurement_report

ALGORITHM = Algorithm("blosam_lung", "0.1.0")


@pytest.mark.parametrize("stored", [True, False])
def test_a_report_is_valid(source_header, asymmetric_mask, dciodvfy, tmp_path, stored):
    header = source_header()
    codes = segment_codes({}, {"lung": 1, "my class": 2})
    mask = asymmetric_mask(header.Rows, header.Columns, 2)
    seg = segmentation([header], mask, codes, ALGORITHM) if stored else None
    image = Measured.from_mask(header, mask, codes, seg, confidence=0.5, needs_review=True)
    write_dicom(measurement_report([image], codes, ALGORITHM, description="needs review"), tmp_path / "sr.dcm")
    assert dciodvfy(tmp_path / "sr.dcm") == []
