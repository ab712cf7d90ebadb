"""DICOM greyscale and geometry against the formulas of the standard (PS3.3), worked out here with NumPy."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from blosam.dicom import ClinicalReader
from blosam.errors import BlosamError


@pytest.fixture
def deep() -> np.ndarray:
    """12-bit values, 20 rows x 30 columns."""
    return np.random.default_rng(3).integers(0, 4096, (20, 30)).astype(np.uint16)


def image(path):
    """Array and metadata."""
    return ClinicalReader().get_data(path)


def window(values, centre, width):
    """PS3.3 C.11.2.1.2.1, output 0..1."""
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def percentile_scaled(values):
    low, high = np.percentile(values, [0.5, 99.5])
    return np.clip((values - low) / (high - low), 0, 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_monochrome1_is_the_inverse_of_monochrome2(tmp_path, deep, write_dicom, bits):
    stored = (deep >> 4).astype(np.uint8) if bits == 8 else deep
    write_dicom(tmp_path / "1.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    write_dicom(tmp_path / "2.dcm", stored)
    first, second = image(tmp_path / "1.dcm")[0], image(tmp_path / "2.dcm")[0]
    np.testing.assert_allclose(first, 1 - second, atol=1e-6)
    expected = stored / 255 if bits == 8 else percentile_scaled(stored)
    np.testing.assert_allclose(second, expected.T, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_rescale_then_window_then_inversion(tmp_path, deep, write_dicom, photometric):
    write_dicom(
        tmp_path / "a.dcm", deep, PhotometricInterpretation=photometric, BitsStored=12, HighBit=11,
        RescaleSlope="2", RescaleIntercept="-1024", WindowCenter=["1500", "10"], WindowWidth=["3000", "20"],
    )  # fmt: skip
    values, meta = image(tmp_path / "a.dcm")
    expected = window(deep.astype(float) * 2 - 1024, 1500, 3000).T
    np.testing.assert_allclose(values, 1 - expected if photometric == "MONOCHROME1" else expected, atol=1e-5)
    assert meta["intensity"] == "DICOM window"


def test_signed_values(tmp_path, deep, write_dicom):
    signed = deep.astype(np.int16) - 2048
    write_dicom(tmp_path / "a.dcm", signed, WindowCenter="-100", WindowWidth="900")
    np.testing.assert_allclose(image(tmp_path / "a.dcm")[0], window(signed, -100, 900).T, atol=1e-5)
    write_dicom(tmp_path / "b.dcm", signed)
    np.testing.assert_allclose(image(tmp_path / "b.dcm")[0], percentile_scaled(signed).T, atol=1e-6)


def test_bits_above_bits_stored_are_ignored(tmp_path, deep, write_dicom):
    garbage = deep | np.uint16(0xA000)
    write_dicom(tmp_path / "a.dcm", garbage, BitsStored=12, HighBit=11)
    np.testing.assert_allclose(image(tmp_path / "a.dcm")[0], percentile_scaled(deep).T, atol=1e-6)
    signed = ((deep.astype(np.int16) - 2048) & 0x0FFF).astype(np.int16)  # sign bit is bit 11
    write_dicom(tmp_path / "b.dcm", signed, BitsStored=12, HighBit=11)
    expected = percentile_scaled(deep.astype(np.int16) - 2048)
    np.testing.assert_allclose(image(tmp_path / "b.dcm")[0], expected.T, atol=1e-6)


def test_voi_table(tmp_path, write_dicom):
    stored = np.arange(16, dtype=np.uint16).repeat(4).reshape(8, 8)
    table = Dataset()
    entries = [(k * k * 4) for k in range(16)]
    table.LUTDescriptor = [16, 0, 10]
    table.LUTData = entries
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    write_dicom(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11, VOILUTSequence=[table])
    expected = np.array(entries)[stored] / 1023
    np.testing.assert_allclose(image(tmp_path / "a.dcm")[0], expected.T, atol=1e-6)


def test_padding_does_not_count_for_percentiles(tmp_path, deep, write_dicom):
    padded = deep.copy()
    padded[:, :10] = 0
    padded[0, 20:] = 0
    write_dicom(tmp_path / "a.dcm", padded, PixelPaddingValue=0)
    low, high = np.percentile(padded[padded != 0], [0.5, 99.5])
    expected = np.clip((padded.astype(float) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(image(tmp_path / "a.dcm")[0], expected.T, atol=1e-6)


@pytest.mark.parametrize("centre, width", [("100", "0"), ("900000", "10")])
def test_an_unusable_window_falls_back_with_a_warning(tmp_path, deep, write_dicom, caplog, centre, width):
    write_dicom(tmp_path / "a.dcm", deep, WindowCenter=centre, WindowWidth=width)
    with caplog.at_level(logging.WARNING):
        values, _ = image(tmp_path / "a.dcm")
    np.testing.assert_allclose(values, percentile_scaled(deep).T, atol=1e-6)
    assert "percentiles are used" in caplog.text


def test_empty_window_elements_count_as_absent(tmp_path, deep, write_dicom):
    write_dicom(tmp_path / "a.dcm", deep, WindowCenter="", WindowWidth="")
    np.testing.assert_allclose(image(tmp_path / "a.dcm")[0], percentile_scaled(deep).T, atol=1e-6)


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb(tmp_path, write_dicom, planar):
    rgb = np.random.default_rng(0).integers(0, 256, (10, 14, 3)).astype(np.uint8)
    data = rgb if planar == 0 else np.moveaxis(rgb, -1, 0)
    write_dicom(tmp_path / "a.dcm", rgb, PlanarConfiguration=planar, PixelData=data.tobytes())
    values, meta = image(tmp_path / "a.dcm")
    np.testing.assert_allclose(values, np.swapaxes(rgb, 0, 1) / 255, atol=1e-6)
    assert tuple(meta["spatial_shape"]) == (14, 10)


def test_affine_follows_the_standard(tmp_path, deep, write_dicom):
    row, column, position = [0, 1, 0], [0, 0, -1], [10, 20, 30]  # a sagittal plane, head up
    write_dicom(
        tmp_path / "a.dcm", deep, PixelSpacing=[0.5, 0.25],
        ImageOrientationPatient=row + column, ImagePositionPatient=position,
    )  # fmt: skip
    meta = image(tmp_path / "a.dcm")[1]
    assert meta["spacing"] == (0.5, 0.25)
    for i, j in [(0, 0), (7, 0), (0, 9), (5, 11)]:
        lps = np.array(position) + np.array(row) * 0.25 * i + np.array(column) * 0.5 * j
        np.testing.assert_allclose((meta["affine"] @ [i, j, 0, 1])[:3], lps * [-1, -1, 1])
    np.testing.assert_array_equal(meta["affine"], meta["original_affine"])


def test_spacing_without_orientation(tmp_path, deep, write_dicom):
    write_dicom(tmp_path / "a.dcm", deep, ImagerPixelSpacing=[0.3, 0.2])
    meta = image(tmp_path / "a.dcm")[1]
    assert meta["spacing"] == (0.3, 0.2)
    np.testing.assert_allclose(meta["affine"], np.diag([0.2, 0.3, 1, 1]))
    write_dicom(tmp_path / "b.dcm", deep, ImagerPixelSpacing=[0.3, 0.2], PixelSpacing=[0.15, 0.1])
    assert image(tmp_path / "b.dcm")[1]["spacing"] == (0.15, 0.1)
    write_dicom(tmp_path / "c.dcm", deep, PixelSpacing=[0, 0])
    assert "spacing" not in image(tmp_path / "c.dcm")[1]


def test_a_file_without_the_preamble(tmp_path, deep, write_dicom):
    write_dicom(tmp_path / "a.dcm", deep)
    content = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[132:])
    np.testing.assert_array_equal(image(tmp_path / "b.dcm")[0], image(tmp_path / "a.dcm")[0])


@pytest.mark.parametrize(
    "attributes, match",
    [
        ({"NumberOfFrames": 4}, "4 frames"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "YBR_FULL"),
        ({"PixelData": None}, "no pixel data"),
        ({"Rows": None}, "cannot be read"),
        ({"BitsStored": 12, "HighBit": 10}, "HighBit 10"),
        ({"BitsStored": 17}, "BitsStored 17"),
        ({"NumberOfFrames": 2_000_000_000}, "NumberOfFrames is 2000000000"),
        ({"Rows": 40}, "cannot be read"),  # fewer pixels than the header says
    ],
)
def test_what_is_not_supported_is_refused(tmp_path, deep, write_dicom, attributes, match):
    write_dicom(tmp_path / "a.dcm", deep, **attributes)
    with pytest.raises(BlosamError, match=match) as caught:
        image(tmp_path / "a.dcm")
    assert "\n" not in str(caught.value)


def test_an_unknown_transfer_syntax_is_refused(tmp_path, deep, write_dicom):
    content = write_dicom(tmp_path / "a.dcm", deep).read_bytes()
    explicit = ExplicitVRLittleEndian.encode() + b"\0"
    (tmp_path / "a.dcm").write_bytes(content.replace(explicit, b"1.2.3.4.5.6".ljust(len(explicit), b"\0"), 1))
    with pytest.raises(BlosamError, match="unknown or private syntax, which is not read"):
        image(tmp_path / "a.dcm")


def test_big_endian(tmp_path, deep, write_dicom):
    little = write_dicom(tmp_path / "a.dcm", deep)
    turned = deep.astype(">u2").tobytes()
    big = write_dicom(tmp_path / "b.dcm", deep, TransferSyntaxUID=ExplicitVRBigEndian, PixelData=turned)
    np.testing.assert_array_equal(image(big)[0], image(little)[0])
