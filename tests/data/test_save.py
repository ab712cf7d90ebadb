"""Saving: refuses what is not on the source grid, and never leaves half a file."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged as MonaiSaveImaged
from PIL import Image

from blosam.data import SaveImaged
from blosam.data.save import source_extension
from blosam.dicom import ClinicalReader
from blosam.errors import BlosamError


def mask(shape, **meta) -> MetaTensor:
    """A 1 x W x H (x 1) mask with metadata."""
    values = torch.zeros((1, *shape), dtype=torch.uint8)
    values[:, : shape[0] // 2] = 1
    return MetaTensor(values, meta={"filename_or_obj": "/some/where/a.png", "spatial_shape": shape, **meta})


def test_it_is_a_monai_save_imaged(tmp_path):
    """MONAI Label and MONAI Deploy take saving out of a chain by this class and this name."""
    saver = SaveImaged("pred", output_dir=tmp_path)
    assert isinstance(saver, MonaiSaveImaged) and type(saver).__name__ == "SaveImaged"


def test_the_value_passes_through_unchanged(tmp_path):
    item = {"pred": mask((8, 6)), "other": 3}
    out = SaveImaged("pred", output_dir=tmp_path, output_postfix="mask")(item)
    assert torch.equal(out["pred"], item["pred"]) and out["other"] == 3
    assert np.asarray(Image.open(tmp_path / "a_mask.png")).shape == (6, 8)


def test_another_grid_is_refused(tmp_path):
    wrong = mask((8, 6))
    wrong.meta["spatial_shape"] = (60, 80)
    with pytest.raises(BlosamError, match="a.png: the result is 8 x 6, but the image is 60 x 80. Put Invertd"):
        SaveImaged("pred", output_dir=tmp_path)({"pred": wrong})
    assert list(tmp_path.iterdir()) == []


def test_extension_follows_the_source():
    assert source_extension({"source_kind": "dicom"}) == source_extension({"source_kind": "nifti"}) == ".nii.gz"
    assert source_extension({"source_kind": "raster"}) == ".png"
    assert source_extension({"filename_or_obj": "x/Y.NII.gz"}) == ".nii.gz"
    assert source_extension({}) == ".png"


def test_several_channels_go_to_the_last_axis_of_nifti(tmp_path):
    probabilities = MetaTensor(torch.rand(3, 8, 6), meta=dict(mask((8, 6)).meta, source_kind="nifti"))
    SaveImaged("pred", output_dir=tmp_path, output_dtype=np.float32)({"pred": probabilities})
    saved = nib.load(tmp_path / "a_seg.nii.gz")
    assert saved.shape == (8, 6, 1, 3)
    np.testing.assert_allclose(np.asarray(saved.dataobj)[:, :, 0, 1], probabilities[1].numpy())
    four = MetaTensor(torch.zeros(4, 8, 6), meta=mask((8, 6)).meta)
    with pytest.raises(BlosamError, match="cannot hold 4 channels"):
        SaveImaged("pred", output_dir=tmp_path)({"pred": four})


def test_options(tmp_path):
    saver = SaveImaged("pred", tmp_path, separate_folder=True, output_ext="PNG", scale=255)
    saver({"pred": mask((8, 6))})
    assert np.unique(np.asarray(Image.open(tmp_path / "a" / "a_seg.png"))).tolist() == [0, 255]
    with pytest.raises(BlosamError, match="cannot be saved as .docx"):
        SaveImaged("pred", tmp_path, output_ext="docx")
    SaveImaged("pred", tmp_path, allow_missing_keys=True)({"image": 1})
    plain = SaveImaged("pred", tmp_path)
    for _ in range(2):
        plain({"pred": torch.zeros(1, 8, 6)})
    assert (tmp_path / "0_seg.png").is_file() and (tmp_path / "1_seg.png").is_file()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BlosamError, match="cannot write"):
        SaveImaged("pred", output_dir=tmp_path / "file" / "out")({"pred": mask((8, 6))})


def test_nifti_keeps_the_unit_of_its_source(tmp_path):
    source = nib.Nifti1Image(np.arange(20, dtype=np.float32).reshape(5, 4), np.diag([25.0, 40.0, 1.0, 1.0]))
    source.header.set_xyzt_units("micron")
    nib.save(source, tmp_path / "slide.nii")
    _, meta = ClinicalReader().get_data(tmp_path / "slide.nii")
    assert meta["spacing"] == pytest.approx((0.040, 0.025))
    SaveImaged("pred", output_dir=tmp_path / "out")({"pred": MetaTensor(torch.zeros(1, 5, 4), meta=meta)})
    written = nib.load(tmp_path / "out" / "slide_seg.nii.gz")
    assert written.header.get_xyzt_units()[0] == "micron"
    assert np.array_equal(written.affine, source.affine)
