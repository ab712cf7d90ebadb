from __future__ import annotations

import numpy as np
import pydicom
import pytest

from blosam.dicom.codes import segment_codes
from blosam.dicom.seg import Algorithm, segmentation, write_dicom

ALGORITHM = Algorithm("blosam_lung", "0.1.0")
OBJECTS = [
    ("chest", "DX", "MONOCHROME2"),
    ("chest", "DX", "MONOCHROME1"),
    ("chest", "CR", "MONOCHROME2"),
    ("dental", "PX", "MONOCHROME1"),
    ("dental", "IO", "MONOCHROME2"),
    ("chest", "OT", "MONOCHROME2"),
    ("colonoscopy", "ES", "RGB"),
    ("colonoscopy", "XC", "RGB"),
    ("colonoscopy", "OT", "RGB"),
]


@pytest.mark.parametrize(("kind", "modality", "photometric"), OBJECTS)
def test_a_binary_segmentation_is_valid_and_reads_back(
    source_header, asymmetric_mask, dciodvfy, tmp_path, kind, modality, photometric
):
    header = source_header(kind, modality, photometric)
    mask = asymmetric_mask(header.Rows, header.Columns, 2)
    codes = segment_codes({}, {"lung": 1, "my class": 2})
    write_dicom(segmentation([header], mask, codes, ALGORITHM), tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read.pixel_array, [mask == 1, mask == 2])
    assert read.SourceImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert read.StudyInstanceUID == header.StudyInstanceUID
    assert read.SeriesInstanceUID != header.SeriesInstanceUID
