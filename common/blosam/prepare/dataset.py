"""The whole preparation: find, check, divide, write."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from blosam.atomicio import atomic_write
from blosam.data.datalist import PARTS
from blosam.dicom.reader import ClinicalReader
from blosam.errors import BlosamError
from blosam.writers import make_folder, output_names

from .classes import from_layers, from_values, parse_classes, value_classes
from .found import Found, Labelled, Problem
from .layouts import find_labels
from .patients import divide, patient_groups
from .sheet import contact_sheet

logger = logging.getLogger(__name__)

_NEARLY_ALL = 0.95  # a mask that covers more is probably inverted
_ENOUGH_TO_TEST = 8  # patients


@dataclass(frozen=True)
class Options:
    """What ``blosam prepare`` is asked for.

    Attributes:
        images: folder of the images, or None to look for it.
        masks: folder of the masks, or None to look for it.
        classes: as ``parse_classes`` reads it.
        patients: regular expression for the patient in a file name; empty looks elsewhere.
        validation: share of the patients for validation.
        test: share of the patients for testing; None takes a quarter where there are enough, otherwise none.
        seed: of the division.
        skip_bad: leave out unusable pairs instead of stopping.
        copy: copy the images beside the masks; names of DICOM files become neutral, their headers stay as they are.
    """

    images: Path | None = None
    masks: Path | None = None
    classes: str = ""
    patients: str = ""
    validation: float = 0.0
    test: float | None = None
    seed: int = 0
    skip_bad: bool = False
    copy: bool = False


@dataclass(frozen=True)
class Checked:
    """One usable pair; its mask has been written, so that memory does not grow with the data set.

    Attributes:
        image: the image file.
        name: its name in the data set.
        mask: file of the mask, class numbers (255 instead of 1 when there is one class).
        values: class numbers in the mask, 0 included when there is background.
        share: of the image that is foreground, 0..1.
    """

    image: Path
    name: str
    mask: Path
    values: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class Summary:
    """What was made.

    Attributes:
        kind: of labels found.
        classes: names, numbers from 1.
        counts: images in each part.
        patients: number of groups, and where they come from.
        unlabelled: number of images without a label.
        problems: what is wrong; empty when all is well.
        warnings: what to look at.
    """

    kind: str
    classes: list[str]
    counts: Mapping[str, int]
    patients: tuple[int, str]
    unlabelled: int
    problems: list[Problem]
    warnings: list[str]


def prepare(source: Path, out: Path, options: Options) -> Summary:
    """Make a data set that ``blosam train`` takes: ``dataset.json``, ``masks/``, ``contact_sheet.png``.

    Args:
        source: folder with images and labels, or a COCO file.
        out: folder to write to; must not hold a ``dataset.json``.
        options: see :class:`Options`.

    Raises:
        BlosamError: when nothing usable is found or the folder is in use.
        Unusable: when pairs are wrong and ``skip_bad`` is not set; nothing is then written.
    """
    if (out / "dataset.json").exists():
        raise BlosamError(f"{out}: holds a dataset.json already. Give another --out.")
    found = find_labels(source, options.images, options.masks)
    classes, numbers = _classes(found, options)
    make_folder(out)
    with tempfile.TemporaryDirectory(prefix=".masks-", dir=out) as scratch:
        checked, problems = _check(found, classes, numbers, Path(scratch))
        problems = found.problems + problems
        if problems and not options.skip_bad:
            raise Unusable(problems)
        if not checked:
            raise BlosamError(f"{source}: none of {len(found.labelled)} labelled images is usable. Mend them first.")
        folder = source if source.is_dir() else source.parent
        images, names = [pair.image for pair in checked], [pair.name for pair in checked]
        groups, origin = patient_groups(folder, images, names, options.patients)
        count = len(set(groups))
        test = options.test if options.test is not None else (0.25 if count >= _ENOUGH_TO_TEST else 0.0)
        parts = divide(groups, options.validation, test, options.seed, [pair.share > 0 for pair in checked])
        contact_sheet(out / "contact_sheet.png", checked, parts, classes)
        _write(out, checked, groups, parts, classes, found, problems, options)
    return Summary(
        kind=found.kind,
        classes=classes,
        counts={part: parts.count(part) for part in PARTS},
        patients=(count, origin),
        unlabelled=len(found.unlabelled),
        problems=problems,
        warnings=_doubts(checked, classes),
    )


class Unusable(BlosamError):
    """Pairs that cannot be used.

    Args:
        problems: at least one.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(
            f"{len(problems)} problem(s) found, nothing was written. Mend them, or leave these out with --skip-bad."
        )
        self.problems = problems


def _classes(found: Found, options: Options) -> tuple[list[str], dict[int, int]]:
    """Class names in order and, for mask images, mask value -> class number."""
    wanted = parse_classes(options.classes)
    if not found.classes:
        values: set[int] = set()
        if not wanted:  # otherwise the names say what the values mean
            for pair in found.labelled:
                with contextlib.suppress(BlosamError):  # reported when the pair is checked
                    values |= {int(value) for value in pair.values()}
        return value_classes(values, wanted)
    unknown = [name for name in wanted if name not in found.classes]
    if unknown:
        raise BlosamError(
            f"--classes {options.classes}: there is no {unknown[0]}. The labels are: {', '.join(found.classes)}."
        )
    return list(wanted) or found.classes, {}


def _check(
    found: Found, classes: list[str], numbers: Mapping[int, int], folder: Path
) -> tuple[list[Checked], list[Problem]]:
    """Read every pair and write the masks of the usable ones to ``folder``."""
    problems: list[Problem] = []
    checked: list[Checked] = []
    reader = ClinicalReader()
    names = output_names([pair.image for pair in found.labelled])
    pairs = list(zip(found.labelled, names, strict=True))
    for pair, name in tqdm(pairs, desc="checking", unit="image", delay=1.0, leave=False, disable=None):
        try:
            columns, rows = reader.get_data(reader.read(pair.image))[0].shape[:2]
            layers = pair.read((rows, columns))
            values = layers.get("")
            if values is None:
                mask = from_layers(layers, classes, (rows, columns))
            else:
                mask = from_values(pair.label, values, numbers)
        except BlosamError as error:
            problems.append(_problem(pair, error))
            continue
        path = folder / f"{name}.png"
        Image.fromarray(mask * np.uint8(255 if len(classes) == 1 else 1)).save(path)
        present = tuple(int(value) for value in np.unique(mask))
        checked.append(Checked(pair.image, name, path, present, float((mask > 0).mean())))
    return checked, problems


def _problem(pair: Labelled, error: BlosamError) -> Problem:
    """An error of a pair without its leading file name, which the problem carries itself."""
    text = str(error)
    for file in (pair.label, pair.image):
        if text.startswith(f"{file}: "):
            return Problem(file, text[len(f"{file}: ") :])
    return Problem(pair.label, text)


def _doubts(checked: list[Checked], classes: list[str]) -> list[str]:
    """What is allowed, but rarely meant."""
    doubts = [f"{pair.name}: the mask is empty." for pair in checked if pair.share == 0]
    doubts += [
        f"{pair.name}: the mask covers {pair.share:.0%} of the image. Is it inverted?"
        for pair in checked
        if pair.share > _NEARLY_ALL
    ]
    seen = {value for pair in checked for value in pair.values}
    absent = [name for number, name in enumerate(classes, start=1) if number not in seen]
    if absent:
        doubts.append(f"no mask has the class(es) {', '.join(absent)}; they cannot be learned.")
    return doubts


def _write(
    out: Path,
    checked: list[Checked],
    groups: list[str],
    parts: list[str],
    classes: list[str],
    found: Found,
    problems: list[Problem],
    options: Options,
) -> None:
    """Masks, copies and lists; ``dataset.json`` comes last, so an interrupted run leaves no data set."""
    (out / "masks").mkdir(parents=True, exist_ok=True)
    entries: dict[str, list[dict[str, str]]] = {part: [] for part in PARTS}
    for pair, group, part in zip(checked, groups, parts, strict=True):
        pair.mask.replace(out / "masks" / pair.mask.name)
        image = os.path.relpath(pair.image, out)
        if options.copy:
            (out / "images").mkdir(exist_ok=True)
            image = (
                f"images/{pair.name}{''.join(pair.image.suffixes[-2:]) if _gzipped(pair.image) else pair.image.suffix}"
            )
            shutil.copyfile(pair.image, out / image)
        entries[part].append({"image": image, "label": f"masks/{pair.name}.png", "patient": group})
    if problems:
        with atomic_write(out / "problems.csv", "w") as file:
            csv.writer(file).writerows([("file", "problem"), *[(str(p.file), p.text) for p in problems]])
    content = {
        "name": out.name,
        "description": f"made by blosam prepare: {found.kind}",
        "labels": {str(number): name for number, name in enumerate(["background", *classes])},
        **entries,
        "unlabelled": [os.path.relpath(path, out) for path in found.unlabelled],
    }
    with atomic_write(out / "dataset.json", "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def _gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".nii.gz")
