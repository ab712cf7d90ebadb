"""A mask comes back on the grid of its image: rows, columns, orientation and affine, for every source."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, decollate_batch
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    CastToTyped,
    Compose,
    Invertd,
    LoadImaged,
    SqueezeDimd,
)
from PIL import Image

from blosam.data import Canonical2Dd, ResizeLongestPadd, SaveImaged

AFFINE = np.array([[0, -0.5, 0, 7], [0.8, 0, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1]], float)
SIZE = 64
SHAPES = [(72, 40), (30, 96), (64, 64)]  # rows, columns: portrait, landscape, square; one of them is enlarged


def preprocessing() -> Compose:
    """The chain of the inference configs."""
    return Compose(
        [
            LoadImaged(keys="image", reader="blosam.dicom.ClinicalReader", image_only=True),
            Canonical2Dd(keys="image"),
            ResizeLongestPadd(keys="image", size=SIZE, mode="image"),
        ]
    )


def threshold_network(image: torch.Tensor) -> torch.Tensor:
    """Logits B x 2 x S x S of a network that finds everything brighter than one half."""
    bright = (image[:, :1] - 0.5) * 50
    return torch.cat([-bright, bright], 1)


def segment(path: Path, out: Path, **options) -> tuple[torch.Tensor, Path]:
    """Run one file through a data loader, the network and the working chain of MONAI Label."""
    before = preprocessing()
    after = Compose(
        [
            Invertd(keys="pred", orig_keys="image", transform=before, nearest_interp=False, to_tensor=True),
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            CastToTyped(keys="pred", dtype=torch.uint8),
            SaveImaged(keys="pred", output_dir=out, savepath_in_metadict=True, **options),
            SqueezeDimd(keys="pred", dim=0),
        ]
    )
    (batch,) = DataLoader(Dataset([{"image": str(path)}], before), batch_size=1)
    assert batch["image"].shape == (1, 3, SIZE, SIZE)
    batch["pred"] = threshold_network(batch["image"])
    result = after(decollate_batch(batch)[0])
    return result["pred"], Path(result["pred"].meta["saved_to"])


def rows_by_columns(path: Path) -> np.ndarray:
    """A written mask, upright."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    return np.asarray(nib.load(path).dataobj).reshape(nib.load(path).shape[:2]).T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_png(tmp_path, half_bright, shape, mode):
    picture = half_bright(*shape)
    Image.fromarray(picture).convert(mode).save(tmp_path / "a.png")
    pred, saved = segment(tmp_path / "a.png", tmp_path / "out")
    assert saved == tmp_path / "out" / "a_seg.png"
    assert tuple(pred.shape) == shape[::-1] and pred.dtype == torch.uint8
    compare(rows_by_columns(saved), picture > 127)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("third_axis", [(), (1,)])
def test_nifti(tmp_path, half_bright, shape, third_axis):
    picture = half_bright(*shape)
    source = nib.Nifti1Image(picture.T.reshape(shape[::-1] + third_axis), AFFINE)
    nib.save(source, tmp_path / "a.nii.gz")
    pred, saved = segment(tmp_path / "a.nii.gz", tmp_path / "out")
    assert saved == tmp_path / "out" / "a_seg.nii.gz"
    written = nib.load(saved)
    assert written.shape == source.shape == tuple(pred.shape) and written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, source.affine)
    compare(rows_by_columns(saved), picture > 127)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom(tmp_path, half_bright, write_dicom, shape, photometric):
    picture = half_bright(*shape)
    stored = 255 - picture if photometric == "MONOCHROME1" else picture
    write_dicom(
        tmp_path / "a.dcm", stored, PhotometricInterpretation=photometric, PixelSpacing=[0.4, 0.2],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1], ImagePositionPatient=[5, 6, 7],
    )  # fmt: skip
    _, saved = segment(tmp_path / "a.dcm", tmp_path / "out")
    written = nib.load(saved)
    assert saved.name == "a_seg.nii.gz" and written.shape == shape[::-1]
    corner = written.affine @ [written.shape[0] - 1, written.shape[1] - 1, 0, 1]
    lps = [5 + 0.2 * (shape[1] - 1), 6, 7 - 0.4 * (shape[0] - 1)]
    np.testing.assert_allclose(corner[:3], [-lps[0], -lps[1], lps[2]], atol=1e-4)
    compare(rows_by_columns(saved), picture > 127)


def compare(mask: np.ndarray, expected: np.ndarray) -> None:
    """Same grid, and the same mask but for the rounding of a resized edge."""
    assert mask.shape == expected.shape
    wrong = mask.astype(bool) != expected
    assert wrong.mean() < 0.03
    edge = np.abs(np.arange(mask.shape[0]) - (mask.shape[0] // 2 - 0.5)) < 2
    assert not wrong[~edge].any()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(2, 300), columns=st.integers(2, 300), size=st.sampled_from([16, 64, 256]))
def test_any_size_comes_back(tmp_path, rows, columns, size):
    picture = np.zeros((rows, columns), np.uint8)
    picture[0, 0], picture[: (rows + 1) // 2] = 1, 200
    Image.fromarray(picture).save(tmp_path / "a.png")
    before = Compose(
        [
            LoadImaged(keys="image", reader="blosam.dicom.ClinicalReader", image_only=True),
            Canonical2Dd(keys="image"),
            ResizeLongestPadd(keys="image", size=size),
        ]
    )
    item = before({"image": str(tmp_path / "a.png")})
    assert item["image"].shape == (3, size, size)
    item["pred"] = threshold_network(item["image"][None])[0]
    restored = Invertd(keys="pred", orig_keys="image", transform=before, nearest_interp=False)(item)["pred"]
    assert restored.shape == (2, columns, rows)
    # The first and last row are as far from the edge as can be.
    if max(rows, columns) <= 2 * size and rows >= 8:
        assert (restored.argmax(0)[:, 0] == 1).all() and (restored.argmax(0)[:, -1] == 0).all()


def test_one_mask_type_for_all_and_several_channels(tmp_path, half_bright):
    picture = half_bright(40, 60)
    nib.save(nib.Nifti1Image(picture.T[..., None], AFFINE), tmp_path / "a.nii.gz")
    _, saved = segment(tmp_path / "a.nii.gz", tmp_path / "out", output_ext="png", scale=255)
    assert saved.name == "a_seg.png" and set(np.unique(rows_by_columns(saved))) == {0, 255}


def test_validation_chain_brings_the_label_to_the_same_grid(tmp_path, half_bright):
    """Labels stay at native resolution; undoing their transposition puts both on the source grid (B12)."""
    picture = half_bright(40, 90)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray((picture > 127).astype(np.uint8)).save(tmp_path / "m.png")
    before = Compose(
        [
            LoadImaged(keys="image", reader="blosam.dicom.ClinicalReader", image_only=True),
            LoadImaged(keys="label", reader="blosam.dicom.ClinicalReader", mode="label", image_only=True),
            Canonical2Dd(keys=["image", "label"]),
            ResizeLongestPadd(keys="image", size=SIZE),
        ]
    )
    item = before({"image": str(tmp_path / "a.png"), "label": str(tmp_path / "m.png")})
    assert item["label"].shape == (1, 40, 90)
    item["pred"] = threshold_network(item["image"][None])[0]
    undo = Invertd(keys=["pred", "label"], orig_keys=["image", "label"], transform=before, nearest_interp=False)
    item = undo(item)
    assert item["pred"].shape == (2, 90, 40) and item["label"].shape == (1, 90, 40)
    compare(item["pred"].argmax(0).T.numpy(), item["label"][0].T.numpy() > 0)
