"""Files as sequences of pictures: frames of DICOM objects and slices of volumes, in the right place and order."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from blosam.dicom import ClinicalReader
from blosam.dicom.frames import open_frames
from blosam.errors import BlosamError

AFFINE = np.array([[0, -0.5, 0.1, 7], [0.8, 0, 0, -3], [0, 0.1, 3, 2], [0, 0, 0, 1]], float)


@pytest.fixture
def stack() -> np.ndarray:
    """5 frames of 12 rows x 20 columns, 8-bit noise."""
    return np.random.default_rng(4).integers(0, 256, (5, 12, 20)).astype(np.uint8)


def test_a_multi_frame_object_gives_its_frames(tmp_path, stack, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", stack[0], NumberOfFrames=5, PixelData=stack.tobytes())
    frames = open_frames(path)
    assert (frames.kind, len(frames), frames.volume) == ("dicom", 5, None)
    assert "PixelData" not in frames.header and frames.header.Rows == 12
    for number, picture in enumerate(frames):
        np.testing.assert_array_equal(picture.unit_range(), stack[number].T.astype(np.float32) / np.float32(255))
        assert picture.frame == number
    np.testing.assert_array_equal(frames[-1].values, stack[4].T)
    with pytest.raises(IndexError):
        frames[5]
    with pytest.raises(BlosamError, match="5 frames. Use `blosam predict`"):
        ClinicalReader().get_data(path)


def test_missing_frames_are_an_error_of_that_frame(tmp_path, stack, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", stack[0], NumberOfFrames=5, PixelData=stack[:3].tobytes())
    frames = open_frames(path)
    np.testing.assert_array_equal(frames[2].values, stack[2].T)
    with pytest.raises(BlosamError, match="end after 720 bytes, 960 are needed"):
        frames[3]


def group(**sequences) -> Dataset:
    """A functional group: one item per named sequence."""
    dataset = Dataset()
    for name, elements in sequences.items():
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        setattr(dataset, name, [item])
    return dataset


def test_functional_groups_apply_to_their_frame(tmp_path, stack, write_dicom):
    shared = group(
        PixelMeasuresSequence={"PixelSpacing": [0.5, 0.25]},
        PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    )
    own = [
        group(
            PlanePositionSequence={"ImagePositionPatient": [0, 0, 3 * k]},
            FrameVOILUTSequence={"WindowCenter": 100 + k, "WindowWidth": 50},
        )
        for k in range(5)
    ]
    path = write_dicom(
        tmp_path / "a.dcm", stack[0], NumberOfFrames=5, PixelData=stack.tobytes(),
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=own,
    )  # fmt: skip
    frames = open_frames(path)
    for number, picture in enumerate(frames):
        expected = np.clip((stack[number].T - (100 + number - 0.5)) / 49 + 0.5, 0, 1)
        np.testing.assert_allclose(picture.unit_range(), expected, atol=1e-6)
        assert picture.spacing == (0.5, 0.25) and picture.affine[2, 3] == 3 * number
        assert picture.header.WindowCenter == 100 + number
        assert "PerFrameFunctionalGroupsSequence" not in picture.header


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_of_a_volume_lie_where_the_affine_says(tmp_path, axis, suffix):
    values = np.random.default_rng(0).integers(-900, 900, (6, 7, 8)).astype(np.int16)
    path = tmp_path / f"v{suffix}"
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    frames = open_frames(path, axis)
    assert (frames.kind, len(frames), frames.slice_axis) == ("nifti", values.shape[axis], axis)
    low, high = np.percentile(values, [0.5, 99.5])  # one window for the whole volume
    others = [k for k in range(3) if k != axis]
    for number, picture in enumerate(frames):
        raw = np.take(values, number, axis)
        np.testing.assert_array_equal(picture.values, raw)
        np.testing.assert_allclose(picture.unit_range(), np.clip((raw - low) / (high - low), 0, 1), atol=1e-6)
        voxel = np.array([0, 0, 0, 1])
        voxel[others[0]], voxel[others[1]], voxel[axis] = 3, 4, number
        np.testing.assert_allclose(picture.affine @ [3, 4, 0, 1], AFFINE @ voxel, rtol=1e-5)
    assert frames[0].spacing == pytest.approx(tuple(np.linalg.norm(AFFINE[:3, k]) for k in others[::-1]))
    masks = [picture.values.T > 0 for picture in frames]
    np.testing.assert_array_equal(frames.stack(masks), values > 0)


def test_the_automatic_axis_is_that_of_the_thickest_slices(tmp_path):
    for sizes, shape, expected in [((1, 1, 3), (9, 9, 4), 2), ((5, 1, 1), (4, 9, 9), 0), ((1, 1, 1), (9, 4, 9), 1)]:
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*sizes, 1])), tmp_path / "v.nii")
        assert open_frames(tmp_path / "v.nii").slice_axis == expected
    with pytest.raises(BlosamError, match="no slice axis '3'"):
        open_frames(tmp_path / "v.nii", 3)


def test_single_images_are_sequences_of_one(tmp_path, stack):
    Image.fromarray(stack[0]).save(tmp_path / "a.png")
    nib.save(nib.Nifti1Image(stack[0].T, AFFINE), tmp_path / "a.nii")
    for name in ("a.png", "a.nii"):
        frames = open_frames(tmp_path / name)
        assert len(frames) == 1 and frames.slice_axis is None and frames[0].frame is None
        np.testing.assert_array_equal(frames[0].values, stack[0].T)


def test_blank_slices_are_recognised(tmp_path):
    values = np.zeros((6, 7, 3), np.int16)
    values[2, 3, 1] = 9
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii")
    assert [picture.blank for picture in open_frames(tmp_path / "v.nii", 2)] == [True, False, True]
