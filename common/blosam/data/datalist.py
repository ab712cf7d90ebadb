"""Which images train, validate and test: from a folder of pairs or from MONAI's ``dataset.json``.

Images of one patient or scene never stand on both sides of the split, and the files are sorted before the
seeded shuffle, so a seed means the same images on every computer.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import Dataset

from blosam import processes
from blosam.atomicio import atomic_write
from blosam.data.split import d1_d2_split
from blosam.dicom.reader import SUFFIXES
from blosam.errors import BlosamError

logger = logging.getLogger(__name__)

Pair = dict[str, str]
Split = dict[str, list[Pair]]
PARTS = ("training", "validation", "test")
_NAMED = 3  # how many offending files an error names


def load_split(
    dataset_dir: str | os.PathLike,
    num_shots: int = 0,
    split_seed: int = 0,
    save_to: str | os.PathLike | None = None,
) -> Split:
    """Divide a data set into training, validation and test images.

    A folder holds ``images/`` and ``masks/``, paired by file name without extension, and may hold
    ``index.csv`` with the columns ``name`` and ``patient`` or ``group``. The groups are shuffled by
    ``split_seed``, whole groups are taken until there are at least ``num_shots`` images, and the first
    ``num_shots`` of them train; the images of all other groups test. A folder with ``dataset.json`` has its
    parts listed there; ``num_shots`` then picks among its training images, and what is left tests only if the
    file lists no test images.

    Args:
        dataset_dir: the folder.
        num_shots: number of training images; 0 takes all of them, which leaves none of a plain folder for
            testing.
        split_seed: seed of the shuffle.
        save_to: folder for a ``split.json`` with the result; None saves nothing.

    Returns:
        ``training``, ``validation`` and ``test``, each a list of ``{"image": path, "label": path}`` with
        absolute paths.

    Raises:
        BlosamError: when the folder or files are missing, files do not pair up, or there are too few images.
    """
    folder = Path(os.path.abspath(dataset_dir))
    if not folder.is_dir():
        raise BlosamError(f"{dataset_dir}: there is no such folder. Give the folder of your data.")
    listed = (folder / "dataset.json").is_file()
    split, groups = _listed_parts(folder) if listed else _paired_files(folder)
    available = len(split["training"])
    if not 0 <= num_shots <= available:
        raise BlosamError(
            f"{dataset_dir}: num_shots is {num_shots}, but there are {available} labelled images. "
            f"Set num_shots to 0 (all) or 1 to {available}."
        )
    if split_seed < 0:
        raise BlosamError(f"split_seed is {split_seed}, but seeds are 0 or more. Set split_seed.")
    if num_shots > 0:
        training, others = _draw_groups(split["training"], groups, num_shots, split_seed)
        split = {**split, "training": training, "test": split["test"] or others}
    if save_to is not None and processes.is_main():
        save_split(split, save_to, dataset_dir, num_shots, split_seed)
    return split


def save_split(
    split: Mapping[str, Sequence[Pair]],
    folder: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    num_shots: int,
    split_seed: int,
) -> Path:
    """Write ``split.json``: the three lists and what they were made from.

    Returns:
        Path of the file.

    Raises:
        BlosamError: when it cannot be written.
    """
    path = Path(folder) / "split.json"
    record = {
        "dataset_dir": os.path.abspath(dataset_dir),
        "num_shots": num_shots,
        "split_seed": split_seed,
        **split,
    }
    with atomic_write(path, "w") as file:
        json.dump(record, file, indent=4)
        file.write("\n")
    return path


class SelectionDataset(Dataset):
    """The images on which the best checkpoint is chosen: the validation images or, without any, those of D2.

    Args:
        data: validation items; may be empty.
        transform: preprocessing; labels stay at native resolution.
        fallback: the training set, whose D2 half is used when ``data`` is empty.
        seed: seed of the D1/D2 split, the same as the feature bank's.

    Raises:
        BlosamError: when D2 is needed and cannot be formed.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable | None = None,
        fallback: Dataset | None = None,
        seed: int = 0,
    ) -> None:
        items = list(data or [])
        self.uses_d2 = not items and fallback is not None
        if fallback is not None and not items:
            _, d2 = d1_d2_split(fallback.data, seed)
            items = [fallback.data[i] for i in d2]
            logger.info(
                "There are no validation images: the best checkpoint is chosen on the %d image(s) of "
                "D2, which also trained the prompt.", len(items),
            )  # fmt: skip
        super().__init__(data=items, transform=transform)


def _paired_files(folder: Path) -> tuple[Split, list[str]]:
    """All pairs of ``images/`` and ``masks/`` as training images, and the group of each."""
    images = _by_stem(folder / "images", folder)
    masks = _by_stem(folder / "masks", folder)
    if not images:
        raise BlosamError(f"{folder / 'images'}: there are no images. Put PNG, JPEG, NIfTI or DICOM files there.")
    alone = sorted(set(images) - set(masks))
    if alone:
        raise BlosamError(
            f"{folder / 'masks'}: {len(alone)} of {len(images)} images have no mask of the same name "
            f"({_some(alone)}). Add the masks or remove the images."
        )
    stems = sorted(images)
    pairs = [{"image": str(images[stem]), "label": str(masks[stem])} for stem in stems]
    groups = _read_groups(folder / "index.csv", stems)
    return {"training": pairs, "validation": [], "test": []}, groups


def _by_stem(folder: Path, parent: Path) -> dict[str, Path]:
    """Image files of a folder by name without extension."""
    if not folder.is_dir():
        raise BlosamError(
            f"{parent}: there is no folder {folder.name}/. Make images/ and masks/ with files of equal "
            "names, or a dataset.json."
        )
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name
        if name.startswith(".") or not path.is_file():
            continue
        if not is_image(path) and path.suffix:
            continue
        stem = file_stem(path)
        if stem in files:
            raise BlosamError(f"{path}: {files[stem].name} has the same name. Rename or remove one of the two.")
        files[stem] = path
    return files


def is_image(path: Path) -> bool:
    """Whether a file is an image by its name or, as scanners name DICOM files by UIDs, by the mark DICOM puts in it.

    Raises:
        BlosamError: when the file cannot be opened.
    """
    if path.name.lower().endswith(SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise BlosamError(f"{path}: the file cannot be opened ({error.strerror}). Check its permissions.") from error


def file_stem(path: str | os.PathLike) -> str:
    """File name without its extension, where ``.nii.gz`` counts as one extension."""
    name = Path(path).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _read_groups(index: Path, stems: list[str]) -> list[str]:
    """Group of each image by ``index.csv``; without one each image is a group."""
    alone = [f"image {stem}" for stem in stems]
    if not index.is_file():
        return alone
    try:
        with index.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BlosamError(f"{index}: the file cannot be read ({error}). Save it as CSV in UTF-8.") from error
    columns = set(rows[0]) if rows else set()
    column = next((name for name in ("patient", "group") if name in columns), None)
    if column is None:
        return alone
    if "name" not in columns:
        raise BlosamError(f"{index}: there is no column name. Add it, with the file names of the images.")
    known: dict[str, str] = {}
    for row in rows:
        stem, group = file_stem((row["name"] or "").strip()), (row[column] or "").strip()
        if known.setdefault(stem, group) != group:
            raise BlosamError(f"{index}: {stem} is in the groups {known[stem]} and {group}. Keep one of the rows.")
    missing = [stem for stem in stems if not known.get(stem)]
    if missing:
        raise BlosamError(
            f"{index}: {len(missing)} images have no {column} ({_some(missing)}). Add their rows, "
            f"or images of one {column} may both train and test."
        )
    return [known[stem] for stem in stems]


def _listed_parts(folder: Path) -> tuple[Split, list[str]]:
    """The parts of ``dataset.json``, and the ``patient`` or ``group`` of each training image."""
    path = folder / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BlosamError(f"{path}: the file cannot be read as JSON ({error}). Correct it.") from error
    if not isinstance(content, dict) or not content.get("training"):
        raise BlosamError(f"{path}: there is no list 'training'. Add it, with an 'image' and a 'label' each.")
    split: Split = {}
    for part in PARTS:
        entries = [e for e in content.get(part) or [] if isinstance(e, dict)]
        # Challenges list test images without masks; these cannot be measured.
        if part == "test":
            entries = [e for e in entries if e.get("label")]
        split[part] = [_listed_pair(path, part, entry) for entry in entries]
    groups = []
    for number, entry in enumerate(content["training"]):
        group = entry.get("patient", entry.get("group")) if isinstance(entry, dict) else None
        groups.append(f"image {number}" if group is None else str(group))
    if len(groups) != len(split["training"]):
        raise BlosamError(f"{path}: a training entry is not an object. Give each an 'image' and a 'label'.")
    return split, groups


def _listed_pair(path: Path, part: str, entry: Mapping[str, Any]) -> Pair:
    """One entry of ``dataset.json`` with absolute paths of existing files."""
    pair = {}
    for key in ("image", "label"):
        value = entry.get(key)
        if not isinstance(value, str):
            raise BlosamError(f"{path}: an entry of '{part}' has no '{key}' file name. Add it.")
        file = path.parent / value  # an absolute value stays as it is
        if not file.exists():
            raise BlosamError(f"{path}: the {key} {value} of '{part}' does not exist. Correct the path.")
        pair[key] = os.path.abspath(file)
    return pair


def _draw_groups(pairs: list[Pair], groups: list[str], count: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """The first ``count`` images of shuffled groups, and all images of the groups that were not needed."""
    members: dict[str, list[Pair]] = {}
    for pair, group in zip(pairs, groups, strict=True):
        members.setdefault(group, []).append(pair)
    names = sorted(members)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    taken: list[Pair] = []
    while len(taken) < count:
        taken += members[order.pop(0)]
    left = set(order)
    others = [pair for pair, group in zip(pairs, groups, strict=True) if group in left]
    return taken[:count], others


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
