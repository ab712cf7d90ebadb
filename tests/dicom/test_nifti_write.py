"""Masks keep the header fields that place voxels, byte for byte, and hold nothing else of the source."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from blosam.data import SaveImaged
from blosam.dicom.frames import open_frames
from blosam.dicom.nifti_write import save_mask, save_with_affine
from blosam.dicom.reader import ClinicalReader
from blosam.errors import BlosamError

# Offset and length in a NIfTI-1 header: dim, pixdim, xyzt_units, qform_code..srow_z.
GEOMETRY = {"dim": (40, 16), "pixdim": (76, 32), "xyzt_units": (123, 1), "forms": (252, 76)}
GEOMETRY_2 = {"dim": (16, 64), "pixdim": (104, 64), "forms": (344, 152), "xyzt_units": (500, 4)}


def source(path, dtype=np.int16, shape=(5, 6, 7), big=False, kind=nib.Nifti1Image, codes=(1, 4)):
    """A volume whose numbers do not survive a round trip through an affine."""
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    affine = np.array([[0.1, -0.7, 0.02, 7], [0.83, 0.11, 0, -3.3], [0.01, 0.1, 3.1, 2], [0, 0, 0, 1]])
    header = kind.header_class(endianness=">" if big else "<")
    image = kind(values, affine, header)
    image.set_qform(np.diag([-0.3, 0.4, 3.3, 1]), codes[0])  # disagrees with the sform on purpose
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units("micron", "sec")
    image.header["descrip"], image.header["aux_file"] = b"Smith John 1970", b"smith"
    image.header["intent_name"] = b"smith"
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, path)
    return values * 1.0


def content(path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 4), (0, 2), (3, 0), (0, 0)])
def test_geometry_is_kept_byte_for_byte(tmp_path, suffix, big, kind, codes):
    path, out = tmp_path / f"a{suffix}", tmp_path / f"m{suffix}"
    source(path, big=big, kind=kind, codes=codes)
    frames = open_frames(path, 1)
    mask = (np.arange(5 * 6 * 7).reshape(5, 6, 7) % 3).astype(np.uint8)
    save_mask(out, mask, frames.volume)
    before, after = content(path), content(out)
    for name, (start, length) in (GEOMETRY if kind is nib.Nifti1Image else GEOMETRY_2).items():
        assert before[start : start + length] == after[start : start + length], name
    assert b"mith" in before and b"mith" not in after
    written = nib.load(out)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask)
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)


def test_another_program_reads_the_mask_on_the_grid_of_the_source(tmp_path):
    path, out = tmp_path / "a.nii.gz", tmp_path / "m.nii.gz"
    image = nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.diag([-0.5, 0.7, 2, 1]) + np.eye(4, k=3) * 9)
    nib.save(image, path)
    mask = np.zeros((5, 6, 7), np.uint8)
    mask[1, 2:, 3:5] = 1
    save_mask(out, mask, open_frames(path).volume)
    first, second = SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(out))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(second).transpose(2, 1, 0), mask)
    for name in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        assert getattr(first, name)() == getattr(second, name)()


def test_the_same_mask_gives_the_same_bytes(tmp_path):
    source(tmp_path / "a.nii")
    volume = open_frames(tmp_path / "a.nii").volume
    for name in ("m.nii.gz", "n.nii.gz"):
        save_mask(tmp_path / name, np.ones((5, 6, 7), np.uint8), volume)
    assert (tmp_path / "m.nii.gz").read_bytes() == (tmp_path / "n.nii.gz").read_bytes()
    with pytest.raises(BlosamError, match="the mask is 5 x 6 x 6, but its source is 5 x 6 x 7"):
        save_mask(tmp_path / "x.nii", np.ones((5, 6, 6), np.uint8), volume)


def test_masks_of_other_sources_get_their_affine(tmp_path):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    affine = np.diag([0.5, 0.7, 1, 1])
    save_with_affine(tmp_path / "m.nii.gz", mask, affine, "mm")
    written = nib.load(tmp_path / "m.nii.gz")
    np.testing.assert_allclose(written.affine, affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask)
    assert written.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1)])
def test_the_bundle_writes_with_the_header_of_the_source(tmp_path, shape):
    path = tmp_path / "a.nii.gz"
    source(path, shape=shape)
    from monai.data import MetaTensor

    values, meta = ClinicalReader().get_data(path)
    SaveImaged("pred", output_dir=tmp_path)({"pred": MetaTensor(values[None] > 0.5, meta=meta)})
    before, after = content(path), content(tmp_path / "a_seg.nii.gz")
    for name, (start, length) in GEOMETRY.items():
        assert before[start : start + length] == after[start : start + length], name


def test_scaled_values_are_read_slice_by_slice(tmp_path):
    values = source(tmp_path / "a.nii.gz") * 0.5 - 10
    for picture in (frames := open_frames(tmp_path / "a.nii.gz", 2)):
        np.testing.assert_allclose(picture.values, values[..., picture.frame])
    assert len(frames) == 7 and frames[0].unit == "micron"


def test_a_large_volume_is_not_loaded(tmp_path):
    """Slices of a sparse 1 GiB file are read in a few megabytes."""
    import tracemalloc

    header = nib.Nifti1Header()
    header.set_data_shape((1024, 1024, 512))
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "big.nii"
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.seek(352 + 300 * 2**21)
        file.write(np.arange(2**20, dtype="<i2").tobytes())
        file.truncate(352 + 2**30)
    frames = open_frames(path, 2)
    tracemalloc.start()
    try:
        picture = frames[300]
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert picture.values[5, 0] == 5 and picture.values[0, 1] == 1024 and frames[3].blank
