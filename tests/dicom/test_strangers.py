"""pydicom's own test files as strangers' input, and our own files, against decoders and viewers of other projects."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from pydicom.data import data_manager
from pydicom.dataset import Dataset

from blosam.dicom.frames import open_frames
from blosam.dicom.pixels import DicomImage
from blosam.dicom.reader import as_image
from blosam.errors import BlosamError

from .mutations import dicom_dataset, dicom_seeds, draw, to_bytes

FOLDER = Path(data_manager.__file__).parent / "test_files"  # those inside the wheel: nothing is downloaded
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
# Frames x columns x rows (x 3) of the images among them.
SHAPES = {
    "693_J2KI.dcm": (1, 512, 512), "CT_small.dcm": (1, 128, 128), "ExplVR_BigEnd.dcm": (1, 80, 60, 3),
    "GDCMJ2K_TextGBR.dcm": (1, 400, 400, 3), "J2K_pixelrep_mismatch.dcm": (1, 512, 512),
    "JPEG-lossy.dcm": (1, 256, 1024), "JPEG2000.dcm": (1, 256, 1024), "JPEGLSNearLossless_08.dcm": (1, 10, 45),
    "JPEGLSNearLossless_16.dcm": (1, 10, 50), "JPGExtended.dcm": (1, 256, 1024), "MR_small.dcm": (1, 64, 64),
    "MR_small_RLE.dcm": (1, 64, 64), "MR_small_bigendian.dcm": (1, 64, 64), "MR_small_expb.dcm": (1, 64, 64),
    "MR_small_implicit.dcm": (1, 64, 64), "MR_small_jp2klossless.dcm": (1, 64, 64),
    "MR_small_jpeg_ls_lossless.dcm": (1, 64, 64), "MR_small_padded.dcm": (1, 64, 64),
    "SC_jpeg_no_color_transform.dcm": (1, 256, 256, 3), "SC_jpeg_no_color_transform_2.dcm": (1, 256, 256, 3),
    "SC_rgb_dcmtk_+eb+cr.dcm": (1, 100, 100, 3), "SC_rgb_dcmtk_+eb+cy+n1.dcm": (1, 100, 100, 3),
    "SC_rgb_dcmtk_+eb+cy+n2.dcm": (1, 100, 100, 3), "SC_rgb_dcmtk_+eb+cy+np.dcm": (1, 100, 100, 3),
    "SC_rgb_dcmtk_+eb+cy+s2.dcm": (1, 100, 100, 3), "SC_rgb_dcmtk_+eb+cy+s4.dcm": (1, 100, 100, 3),
    "SC_rgb_gdcm_KY.dcm": (1, 100, 100, 3), "SC_rgb_jls_lossy_line.dcm": (1, 100, 100, 3),
    "SC_rgb_jls_lossy_sample.dcm": (1, 100, 100, 3), "SC_rgb_jpeg.dcm": (1, 256, 256, 3),
    "SC_rgb_jpeg_app14_dcmd.dcm": (1, 256, 256, 3), "SC_rgb_jpeg_dcmd.dcm": (1, 256, 256, 3),
    "SC_rgb_jpeg_dcmtk.dcm": (1, 100, 100, 3), "SC_rgb_jpeg_gdcm.dcm": (1, 100, 100, 3),
    "SC_rgb_jpeg_lossy_gdcm.dcm": (1, 100, 100, 3), "SC_rgb_rle.dcm": (1, 100, 100, 3),
    "SC_rgb_rle_16bit.dcm": (1, 100, 100, 3), "SC_rgb_rle_16bit_2frame.dcm": (2, 100, 100, 3),
    "SC_rgb_rle_2frame.dcm": (2, 100, 100, 3), "SC_rgb_small_odd.dcm": (1, 3, 3, 3),
    "SC_rgb_small_odd_big_endian.dcm": (1, 3, 3, 3), "SC_rgb_small_odd_jpeg.dcm": (1, 3, 3, 3),
    "SC_ybr_full_422_uncompressed.dcm": (1, 100, 100, 3), "examples_jpeg2k.dcm": (1, 640, 480, 3),
    "examples_overlay.dcm": (1, 484, 300), "examples_palette.dcm": (1, 800, 350, 3),
    "examples_rgb_color.dcm": (1, 320, 240, 3), "examples_ybr_color.dcm": (30, 320, 240, 3),
    "image_dfl.dcm": (1, 512, 512), "rtdose.dcm": (15, 10, 10), "rtdose_1frame.dcm": (1, 10, 10),
    "rtdose_expb.dcm": (15, 10, 10), "rtdose_expb_1frame.dcm": (1, 10, 10), "rtdose_rle.dcm": (15, 10, 10),
    "rtdose_rle_1frame.dcm": (1, 10, 10),
}  # fmt: skip
# DICOMDIR's CT, MR and XA pictures: thumbnails of 16 x 16 pixels.
THUMBNAILS = ("77654033", "98892001", "98892003")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_a_strangers_file_is_read_or_refused_in_one_line(path):
    expected = SHAPES.get(path.name)
    if expected is None and path.relative_to(FOLDER).parts[1:2] and path.parts[-3] in THUMBNAILS:
        expected = (1, 16, 16)
    try:
        frames = open_frames(path)
        values, _ = as_image(path, frames[len(frames) - 1])
    except BlosamError as error:
        assert expected is None and str(path) in str(error) and "\n" not in str(error)
        return
    assert (len(frames), *values.shape) == expected
    assert values.min() >= 0 and values.max() <= 1


# Files that ITK decodes too, stored in every compression: the grey ones with their rescaling.
GREY = [
    "693_J2KI.dcm", "CT_small.dcm", "JPEG2000.dcm", "JPGExtended.dcm", "MR_small.dcm", "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "image_dfl.dcm",
]  # fmt: skip


@pytest.mark.parametrize("name", GREY)
def test_grey_values_are_those_that_itk_reads(name):
    image = DicomImage(FOLDER / name)
    stored = image.picture(0, label=True).values.T.astype(float)
    slope, intercept = (float(image.header.get(key) or 0) for key in ("RescaleSlope", "RescaleIntercept"))
    reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(FOLDER / name)))[0]
    np.testing.assert_allclose(stored * (slope or 1) + intercept, reference)


def test_every_drawn_kind_of_file_shows_the_drawn_picture(tmp_path):
    """No flip, shift or transposition, whatever the transfer syntax, photometric interpretation and planes."""
    for name, content in dicom_seeds().items():
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(content)
        shown = as_image(path, open_frames(path)[0])[0]
        # Some files hold other colours than those drawn; their first channel still has the drawing.
        seen = np.swapaxes(shown, 0, 1)
        drawn = draw(1, np.uint8).astype(float)
        found = seen[..., 0] if seen.ndim == 3 else seen
        correlation = [
            np.corrcoef(np.ravel(drawn), np.ravel(turned))[0, 1]
            for turned in (found, found[::-1], found[:, ::-1], np.roll(found, 2, 0), np.roll(found, 2, 1))
        ]
        assert correlation[0] > 0.6 and max(correlation[1:]) < 0.95 * correlation[0], (name, correlation)


ORIENTATIONS = [
    ([1, 0, 0, 0, 1, 0], "axial"), ([0, 1, 0, 0, 0, -1], "sagittal"), ([1, 0, 0, 0, 0, -1], "coronal"),
    ([-1, 0, 0, 0, 1, 0], "mirrored"), ([0.8, 0.6, 0, 0, 0, -1], "oblique"),
]  # fmt: skip


@pytest.mark.parametrize("orientation", [item[0] for item in ORIENTATIONS], ids=[item[1] for item in ORIENTATIONS])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_pixels_lie_where_itk_puts_them(tmp_path, orientation, photometric):
    """The place of the brightest corner, in the patient, is the same in ITK (LPS) and here (RAS)."""
    stored = draw(1, np.uint16)
    dataset = dicom_dataset(
        stored, "1.2.840.10008.1.2.1", PhotometricInterpretation=photometric, PixelSpacing=[0.5, 0.25],
        ImageOrientationPatient=orientation, ImagePositionPatient=[10, -20, 30], Modality="MR",
    )  # fmt: skip
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    path = tmp_path / "a.dcm"
    path.write_bytes(to_bytes(dataset))
    picture = open_frames(path)[0]
    shown = picture.unit_range()
    assert (np.corrcoef(shown.ravel(), stored.T.ravel())[0, 1] > 0) == (photometric == "MONOCHROME2")
    reference = SimpleITK.ReadImage(str(path))
    for column, row in ((0, 0), (7, 0), (0, 9), (31, 23)):
        lps = np.array(reference.TransformIndexToPhysicalPoint((column, row, 0)))
        np.testing.assert_allclose((picture.affine @ [column, row, 0, 1])[:3], lps * [-1, -1, 1], atol=1e-6)


def lut(entries, bits, first=0) -> list[Dataset]:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [len(entries), first, bits], list(entries)
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    return [table]


WINDOW = {"WindowCenter": "1500", "WindowWidth": "2000"}
RENDERED = {
    "linear": WINDOW,
    "exact": WINDOW | {"VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": WINDOW | {"VOILUTFunction": "SIGMOID"},
    "monochrome1": WINDOW | {"PhotometricInterpretation": "MONOCHROME1"},
    "inverse": WINDOW | {"PresentationLUTShape": "INVERSE"},
    "monochrome1 identity": WINDOW | {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
    "monochrome1 inverse": WINDOW | {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    "rescale": {"RescaleSlope": "2.5", "RescaleIntercept": "-1000", "WindowCenter": "3000", "WindowWidth": "4000"},
    "voi table": {"VOILUTSequence": lut([k * k // 300 for k in range(3000)], 15)},
    "high bit": WINDOW | {"BitsStored": 12, "HighBit": 15},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RENDERED)
def test_windows_are_rendered_as_by_dcmtk(tmp_path, name):
    """dcm2pnm's 8-bit picture; its rounding down makes up to one grey value of 255."""
    pixels = draw(1, np.uint16)
    elements = {"BitsStored": 13, "HighBit": 12} | RENDERED[name]
    if elements["HighBit"] == 15:
        pixels = (pixels & 0xFFF) << 4
    (tmp_path / "a.dcm").write_bytes(to_bytes(dicom_dataset(pixels, "1.2.840.10008.1.2.1", **elements)))
    option = ["+Wl", "1"] if "VOILUTSequence" in elements else ["+Wi", "1"]
    command = ["dcm2pnm", "+on", *option, str(tmp_path / "a.dcm"), str(tmp_path / "a.png")]
    subprocess.run(command, check=True, capture_output=True)
    rendered = np.asarray(Image.open(tmp_path / "a.png")).astype(float)
    np.testing.assert_allclose(open_frames(tmp_path / "a.dcm")[0].unit_range().T * 255, rendered, atol=1.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_ybr_full_422_uncompressed.dcm", "examples_palette.dcm", "SC_rgb_rle.dcm"]
)
def test_colours_are_those_of_dcmtk(tmp_path, name):
    tool = "dcmj2pnm" if pydicom.dcmread(FOLDER / name).file_meta.TransferSyntaxUID.is_compressed else "dcm2pnm"
    source = FOLDER / name
    if name == "SC_rgb_rle.dcm":
        tool, source = "dcm2pnm", tmp_path / "plain.dcm"
        subprocess.run(["dcmdrle", str(FOLDER / name), str(source)], check=True, capture_output=True)
    subprocess.run([tool, "+on", str(source), str(tmp_path / "a.png")], check=True, capture_output=True)
    rendered = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(float)
    shown = np.swapaxes(open_frames(FOLDER / name)[0].unit_range(), 0, 1) * 255
    np.testing.assert_allclose(shown, rendered, atol=1.51)
