"""Which images belong to one patient, and the division of patients into training, validation and test.

Two images of one patient look alike; on both sides of a split they make a model look better than it is.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom

from blosam.data.datalist import file_stem
from blosam.errors import BlosamError

logger = logging.getLogger(__name__)


def patient_groups(
    source: Path, images: Sequence[Path], names: Sequence[str], pattern: str = ""
) -> tuple[list[str], str]:
    """A group for each image, called ``p001``, ``p002``, ... so that no identity is passed on.

    Tried in this order: ``pattern`` on the file name, ``index.csv`` (columns ``name`` and ``patient`` or ``group``),
    the PatientID of DICOM images. Images without any of these are groups of their own. Files with the same bytes
    always share a group.

    Args:
        source: folder that may hold ``index.csv``.
        images: the image files.
        names: their names in messages; names of DICOM files can hold those of patients.
        pattern: regular expression with one group in parentheses, searched in the file name.

    Returns:
        The groups, and in words where they come from.

    Raises:
        BlosamError: when the pattern is unusable or does not match an image, or ``index.csv`` lacks one.
    """
    if pattern:
        keys, origin = [_matched(pattern, path) for path in images], "the file names"
    elif (indexed := _indexed(source / "index.csv", images)) is not None:
        keys, origin = indexed, "index.csv"
    else:
        identities = [_patient_id(path) for path in images]
        keys = [f"id {key}" if key else f"file {path}" for key, path in zip(identities, images, strict=True)]
        known = sum(map(bool, identities))
        origin = "PatientID" if known else "nothing: every image counts as a patient of its own"
        if 0 < known < len(images):
            origin = f"PatientID of {known} of {len(images)} images; each of the others counts as a patient"
    keys = _join_copies(images, names, keys)
    numbers = {key: f"p{number:03d}" for number, key in enumerate(dict.fromkeys(keys), start=1)}
    return [numbers[key] for key in keys], origin


def divide(groups: Sequence[str], validation: float, test: float, seed: int, foreground: Sequence[bool]) -> list[str]:
    """Part of each image: ``training``, ``validation`` or ``test``; whole groups, drawn by ``seed``.

    Args:
        groups: of each image.
        validation: share of the groups, 0..1; rounded, at least one group when it is above 0.
        test: likewise.
        seed: of the draw.
        foreground: whether the image's mask has any.

    Raises:
        BlosamError: when fewer than two training images with foreground would be left.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise BlosamError(
            f"--validation {validation:g} and --test {test:g} leave nothing to train on. Give less than 1 in all."
        )
    names = sorted(set(groups))
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    counts = [max(1, round(share * len(names))) if share else 0 for share in (test, validation)]
    tested, validated = set(order[: counts[0]]), set(order[counts[0] : sum(counts)])
    parts = ["test" if g in tested else "validation" if g in validated else "training" for g in groups]
    useful = sum(part == "training" and full for part, full in zip(parts, foreground, strict=True))
    if useful < 2:
        raise BlosamError(
            f"{useful} training image(s) with foreground would be left of {len(groups)} in {len(names)} patient(s); "
            "two are needed. Label more images, or lower --test and --validation."
        )
    return parts


def _matched(pattern: str, path: Path) -> str:
    try:
        match = re.search(pattern, path.name)
    except re.error as error:
        raise BlosamError(f"--patients {pattern}: not a regular expression ({error}). Example: '^(\\w+?)_'") from error
    if match is None or not match.groups() or not match[1]:
        raise BlosamError(
            f"--patients {pattern}: finds no patient in {path.name}. Put the patient's part in parentheses."
        )
    return match[1]


def _indexed(index: Path, images: Sequence[Path]) -> list[str] | None:
    """Patients by ``index.csv``; None without one, or when it tells no patients."""
    if not index.is_file():
        return None
    try:
        with index.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BlosamError(f"{index}: the file cannot be read ({error}). Save it as CSV in UTF-8.") from error
    column = next((name for name in ("patient", "group") if rows and name in rows[0]), None)
    if column is None:
        return None
    if "name" not in rows[0]:
        raise BlosamError(f"{index}: there is no column name. Add it, with the file names of the images.")
    known = {file_stem((row["name"] or "").strip()): (row[column] or "").strip() for row in rows}
    missing = [path.name for path in images if not known.get(file_stem(path))]
    if missing:
        raise BlosamError(f"{index}: {len(missing)} images have no {column} ({missing[0]}, ...). Add their rows.")
    return [known[file_stem(path)] for path in images]


def _patient_id(path: Path) -> str:
    """PatientID of a DICOM file; empty for other files and without one."""
    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return ""
        return str(pydicom.dcmread(path, specific_tags=["PatientID"], stop_before_pixels=True).get("PatientID") or "")
    except (OSError, ValueError, EOFError, AttributeError):
        return ""


def _join_copies(images: Sequence[Path], names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Keys in which groups that share a file with equal bytes have become one."""
    first_of: dict[str, int] = {}
    joined = list(keys)
    for position, path in enumerate(images):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        first = first_of.setdefault(digest, position)
        if joined[first] != joined[position]:
            logger.warning("%s and %s are the same image; they stay on one side.", names[first], names[position])
            old, new = joined[position], joined[first]
            joined = [new if key == old else key for key in joined]
    return joined
