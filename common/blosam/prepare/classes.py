"""From named layers or mask values to one mask of class numbers 0..K."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from blosam.errors import BlosamError

from .found import Layers

MOST_UNNAMED = 32  # more different values than this are no classes but a picture
_LISTED = 8


def parse_classes(text: str) -> dict[str, int | None]:
    """``lung,heart`` or ``left=50,right=100``: class names in order, each with the mask value that means it.

    Raises:
        BlosamError: for an empty name, a name or value used twice, or a value outside 1..255.
    """
    classes: dict[str, int | None] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"([^=]+?)\s*(?:=\s*(\d+))?", part)
        if match is None or match[1] in classes:
            raise BlosamError(f"--classes {text}: '{part}' is no new class. Write names like lung,heart or left=50.")
        classes[match[1]] = None if match[2] is None else int(match[2])
    values = [value for value in classes.values() if value is not None]
    if len(set(values)) < len(values) or any(not 1 <= value <= 255 for value in values):
        raise BlosamError(f"--classes {text}: the values must differ and lie in 1 to 255.")
    if values and len(values) < len(classes):
        raise BlosamError(f"--classes {text}: give every class a value, or none.")
    return classes


def value_classes(found: Iterable[int], wanted: Mapping[str, int | None]) -> tuple[list[str], dict[int, int]]:
    """Names of the classes of mask images, and mask value -> class number.

    Args:
        found: all values of all masks.
        wanted: what ``parse_classes`` gave; empty names the classes after their values.

    Raises:
        BlosamError: when the values are not those of masks.
    """
    values = sorted(set(found) - {0})
    if any(value is not None for value in wanted.values()):
        return list(wanted), {value: number for number, value in enumerate(wanted.values(), start=1)}
    if len(wanted) == 1 or (not wanted and values in ([], [1], [255])):
        names = list(wanted) or ["foreground"]
        return names, {1: 1, 255: 1} if set(values) != {1, 255} else {255: 1}
    if len(values) > MOST_UNNAMED:
        raise BlosamError(
            f"the masks have {len(values)} different values, so they are pictures, not classes. "
            "Save one value per class as PNG."
        )
    if not wanted:
        return [f"class_{value}" for value in values], {value: number for number, value in enumerate(values, start=1)}
    return list(wanted), {number: number for number in range(1, len(wanted) + 1)}


def from_values(file: Path, values: np.ndarray, numbers: Mapping[int, int]) -> np.ndarray:
    """Class numbers of a mask image.

    Args:
        file: named in the message.
        values: Rows x Columns.
        numbers: mask value -> class number; 0 is the background.

    Raises:
        BlosamError: naming the values that mean nothing.
    """
    present = np.unique(values)
    unknown = [value for value in present.tolist() if value != 0 and value not in numbers]
    if unknown:
        listed = ", ".join(f"{value:g}" for value in unknown[:_LISTED]) + (", ..." if len(unknown) > _LISTED else "")
        known = ", ".join(map(str, sorted(numbers)))
        raise BlosamError(
            f"{file}: the mask has the value(s) {listed}, expected 0 and {known}. "
            "Correct it, or name the values: --classes NAME=VALUE,..."
        )
    mask = np.zeros(values.shape, np.uint8)
    for value, number in numbers.items():
        mask[values == value] = number
    return mask


def from_layers(layers: Layers, classes: list[str], shape: tuple[int, int]) -> np.ndarray:
    """Class numbers from one layer a class; where layers overlap the later class is on top.

    Args:
        layers: class name to Rows x Columns bool; classes that are not wanted are left out.
        classes: names in the order of their numbers.
        shape: (rows, columns).
    """
    mask = np.zeros(shape, np.uint8)
    for number, name in enumerate(classes, start=1):
        if name in layers:
            mask[layers[name]] = number
    return mask
