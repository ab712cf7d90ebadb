"""What the bundles' configs ask for: the checked training set, the images to measure on, the images to segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

from blosam.data.checks import check_pairs
from blosam.data.datalist import is_image, load_split
from blosam.data.split import d1_d2_split
from blosam.dicom.reader import SUFFIXES
from blosam.errors import BlosamError

SUBSETS = ("training", "validation", "test")


class FewShotDataset(Dataset):
    """The few labelled images, checked before any time is spent on them.

    Args:
        data: ``{"image": path, "label": path}`` items.
        transform: applied to an item when it is asked for.
        num_classes: K, the foreground classes.
        seed: seed of the D1/D2 split.

    Raises:
        BlosamError: when a pair cannot be used, or D1 or D2 would hold no foreground.
    """

    def __init__(
        self,
        data: Sequence[dict[str, str]],
        transform: Callable | None = None,
        num_classes: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(data=data, transform=transform)
        check_pairs(data, num_classes)
        d1_d2_split(data, seed)


def evaluation_list(
    dataset_dir: str | Path, num_shots: int = 0, split_seed: int = 0, subset: str = "test"
) -> list[dict[str, str]]:
    """The pairs of one part of the split.

    Args:
        dataset_dir: as in training.
        num_shots: as in training.
        split_seed: as in training.
        subset: ``training``, ``validation``, ``test`` or ``all``.

    Raises:
        BlosamError: when the subset is unknown or empty.
    """
    if subset not in (*SUBSETS, "all"):
        raise BlosamError(f"unknown subset '{subset}'. Choose one of: {', '.join(SUBSETS)}, all.")
    split = load_split(dataset_dir, num_shots, split_seed)
    pairs: list[dict[str, Any]] = [pair for name in SUBSETS if subset in (name, "all") for pair in split[name]]
    if not pairs:
        raise BlosamError(
            f"{dataset_dir}: no {subset} images with num_shots {num_shots} (0 trains on all of them). "
            "Give the number of shots the training used, or subset all."
        )
    return pairs


def list_images(source: str | Path) -> list[Path]:
    """The image files of a folder (of its ``images/`` when it has one), sorted, or the one file itself.

    Files with any other name are taken as DICOM when they carry its mark.

    Raises:
        BlosamError: when there is nothing to segment.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    folder = source / "images" if (source / "images").is_dir() else source
    if not folder.is_dir():
        raise BlosamError(f"{source}: no such file or folder. Give an image or a folder of images.")
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != "." and is_image(path))
    if not found:
        raise BlosamError(f"{source}: no image found. Expected files ending in {', '.join(SUFFIXES)}.")
    return found
