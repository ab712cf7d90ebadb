"""Padding, presentation tables and palettes; values worked out here or by pydicom."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from blosam.dicom.frames import open_frames

from .mutations import COLUMNS, EXPLICIT, JPEG, ROWS, compressed, dicom_dataset, draw, pillow, to_bytes


def picture(tmp_path, dataset: Dataset):
    path = tmp_path / "a.dcm"
    path.write_bytes(to_bytes(dataset))
    return open_frames(path)[0]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": "1200", "WindowWidth": "2000"}])
def test_padding_up_to_the_range_limit_is_black(tmp_path, photometric, window):
    stored = draw(1, np.uint16)
    stored[:3], stored[3:5] = 5000, 5005
    shown = picture(
        tmp_path,
        dicom_dataset(stored, EXPLICIT, PhotometricInterpretation=photometric, PixelPaddingValue=5000,
                      PixelPaddingRangeLimit=5010, **window),
    ).unit_range().T  # fmt: skip
    assert (shown[:5] == 0).all()
    low, high = np.percentile(stored[5:], [0.5, 99.5])
    expected = np.clip((stored[5:] - 1199.5) / 1999 + 0.5, 0, 1) if window else np.clip(
        (stored[5:] - low) / (high - low), 0, 1
    )  # fmt: skip
    np.testing.assert_allclose(shown[5:], 1 - expected if photometric == "MONOCHROME1" else expected, atol=1e-6)


def test_padding_written_as_the_other_sign(tmp_path):
    stored = draw(1, np.int16) - 500
    stored[:4] = -2000
    dataset = dicom_dataset(stored, EXPLICIT, PixelPaddingValue=63536)  # -2000 as unsigned
    dataset["PixelPaddingValue"].VR = "US"
    assert ((stored == -2000) == picture(tmp_path, dataset).padding.T).all()


def test_a_presentation_table_comes_last_and_replaces_the_inversion(tmp_path):
    table = Dataset()
    curve = [round(4095 * (k / 255) ** 2) for k in range(256)]
    table.LUTDescriptor, table.LUTData = [256, 0, 12], curve
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    window = {"WindowCenter": "1200", "WindowWidth": "2000", "PresentationLUTSequence": [table]}
    stored = draw(1, np.uint16)
    shown = picture(tmp_path, dicom_dataset(stored, EXPLICIT, PhotometricInterpretation="MONOCHROME1", **window))
    grey = np.clip((stored - 1199.5) / 1999 + 0.5, 0, 1)
    expected = np.array(curve)[np.round(grey * 255).astype(int)] / 4095
    assert np.abs(shown.unit_range().T - expected).max() < 0.01  # a value at the edge of two entries may take either


def segmented(indirect: bool) -> bytes:
    """3 entries, a line of 100 to 60000, that segment again (flat now), a line of 53 to 0. The second line is written
    out, or as a reference to byte 10 (PS3.3 C.7.9.2.3; pydicom takes the number for one of words)."""
    again = [2, 1, 10, 0] if indirect else [1, 100, 60000]
    words = [0, 3, 10, 20, 30, 1, 100, 60000, *again, 1, 53, 0]
    return struct.pack(f"<{len(words)}H", *words)


def test_palettes_plain_and_segmented_are_those_of_pydicom(tmp_path):
    indices = draw(1, np.uint8)
    names = ("Red", "Green", "Blue")
    plain = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in names}
    for k, name in enumerate(names):
        plain[f"{name}PaletteColorLookupTableData"] = (np.arange(256, dtype="<u2") * (100 + k)).tobytes()
    size = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in names}
    packed, indirect = (
        size | {f"Segmented{name}PaletteColorLookupTableData": segmented(way) for name in names}
        for way in (False, True)
    )  # fmt: skip
    for elements, reference in ((plain, plain), (packed, packed), (indirect, packed)):
        dataset = dicom_dataset(indices, EXPLICIT, PhotometricInterpretation="PALETTE COLOR", **elements)
        known = dicom_dataset(indices, EXPLICIT, PhotometricInterpretation="PALETTE COLOR", **reference)
        expected = apply_color_lut(indices, known).astype(int)
        found = picture(tmp_path, dataset)
        assert found.white == 65535
        # Linear segments may be rounded either way.
        assert np.abs(np.swapaxes(found.values.astype(int), 0, 1) - expected).max() <= 1


def test_signed_and_narrow_values_in_jpeg_2000(tmp_path):
    """Codestreams carry 12 or 13 bits unsigned; the header says that they are signed."""
    stored = draw(1, np.uint16) + np.uint16(3000)  # 13 bits: values from 4096 on are negative
    content = compressed(
        stored, JPEG + "90", [pillow(stored, "JPEG2000", no_jp2=True)],
        PixelRepresentation=1, WindowCenter="0", WindowWidth="60000",
    )  # fmt: skip
    (tmp_path / "a.dcm").write_bytes(content)
    shown = open_frames(tmp_path / "a.dcm")[0].unit_range().T
    np.testing.assert_allclose(shown, np.clip((stored.view(np.int16) + 0.5) / 59999 + 0.5, 0, 1), atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_ybr_full_is_converted_by_the_formula(tmp_path, bits):
    ybr = np.random.default_rng(1).integers(0, 2**bits, (ROWS, COLUMNS, 3)).astype(f"u{bits // 8}")
    found = picture(tmp_path, dicom_dataset(ybr, EXPLICIT, PhotometricInterpretation="YBR_FULL")).unit_range()
    y, cb, cr = (ybr[..., k].astype(float) - (0 if k == 0 else 2 ** (bits - 1)) for k in range(3))
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1) / (2**bits - 1)
    np.testing.assert_allclose(np.swapaxes(found, 0, 1), np.clip(rgb, 0, 1), atol=0.6 / (2**8 - 1))
