"""From files through the real reader, transforms and inverses to the table: orientation, grid and millimetres."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd, LoadImaged
from PIL import Image

from blosam.data.transforms import Canonical2Dd, ResizeLongestPadd
from blosam.evaluation import NativeDice, PerImageTable

SIZE = 128
HEIGHT, WIDTH = 70, 120


class Threshold(torch.nn.Module):
    """Calls foreground whatever is bright in the padded picture: B x 3 x S x S -> B x 2 x S x S."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bright = 20 * (image.mean(1, keepdim=True) - 0.7)
        return torch.cat([-bright, bright], 1)


def rectangle(shift: int = 0) -> np.ndarray:
    """H x W mask of one off-centre rectangle, moved right by ``shift`` columns."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 60 + shift : 100 + shift] = 1
    return mask


def write(folder: Path, kind: str) -> dict[str, str]:
    """An image that is bright where the prediction shall be, and a mask 8 columns to the left of it."""
    picture = (60 + 160 * rectangle(8)).astype(np.uint8)
    names = {key: str(folder / f"{key}.{kind}") for key in ("image", "label")}
    for key, array in (("image", picture), ("label", rectangle())):
        if kind == "nii.gz":  # x is the first axis there: 0.5 mm between columns, 2 mm between rows
            nib.save(nib.Nifti1Image(array.T[..., None], np.diag([0.5, 2.0, 1.0, 1.0])), names[key])
        else:
            Image.fromarray(array * (255 if key == "label" else 1)).save(names[key])
    return names


@pytest.mark.parametrize(("kind", "unit", "step"), [("png", "pixels", 1.0), ("nii.gz", "mm", 0.5)])
def test_table_from_files(tmp_path: Path, kind: str, unit: str, step: float) -> None:
    reader = {"reader": "blosam.dicom.ClinicalReader", "image_only": True}
    preprocessing = Compose(
        [
            LoadImaged(keys="image", **reader),
            LoadImaged(keys="label", mode="label", num_classes=1, **reader),
            Canonical2Dd(keys=["image", "label"]),
            ResizeLongestPadd(keys="image", size=SIZE, mode="image"),
        ]
    )
    inverse = {"orig_keys": ["image", "label"], "transform": preprocessing, "nearest_interp": False}
    postprocessing = Compose(
        [
            Invertd(keys=["pred", "label"], **inverse),
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
        ]
    )
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([write(tmp_path, kind)], preprocessing), batch_size=1),
        network=Threshold(),
        postprocessing=postprocessing,
        key_val_metric={"val_mean_dice": NativeDice(2)},
        val_handlers=[PerImageTable(tmp_path / "out", {"box": 1}, save_overlays=True)],
    )
    evaluator.run()
    (row,) = evaluator.state.table["rows"]
    assert (row["image"], row["class"], row["unit"]) == ("image", "box", unit)
    assert row["dice"] == pytest.approx(32 / 40, abs=0.03), "40 columns wide, 8 of them missed"
    assert row["hd95"] == pytest.approx(8 * step, abs=1.01 * step)
    assert evaluator.state.metrics["val_mean_dice"] == pytest.approx(row["dice"], abs=1e-6)
    with Image.open(evaluator.state.table["overlays"]["image"]) as picture:
        drawn = np.asarray(picture)
    factor = picture.width // WIDTH
    assert picture.width == WIDTH * factor and picture.height > HEIGHT * factor
    inside, outside = drawn[20 * factor, 85 * factor], drawn[50 * factor, 30 * factor]
    assert inside.mean() > 200 and outside.mean() < 80, "the picture lies under its mask"
