"""What a search for labelled images gives, whatever the labels are kept in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Layers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: the file to look at.
        text: what is wrong with it and what mends it, one sentence.
    """

    file: Path
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass(frozen=True)
class Labelled:
    """An image and where its mask comes from.

    Attributes:
        image: the image file.
        label: the file that holds the label: a mask, a DICOM SEG or polygons.
        read: (rows, columns) of the image -> class name to Rows x Columns bool; raises BlosamError when the label
            cannot be used. Mask images give the one entry ``""`` with their values.
        values: the distinct values of a mask image; empty for labels that name their classes.
    """

    image: Path
    label: Path
    read: Callable[[tuple[int, int]], Layers]
    values: Callable[[], Iterable[float]] = tuple


@dataclass
class Found:
    """Everything a folder holds.

    Attributes:
        kind: in words, for the summary.
        labelled: images with a label.
        unlabelled: images without one.
        problems: labels without an image, unreadable annotation files and the like.
        classes: class names in the order of their numbers, when the annotations name them.
    """

    kind: str
    labelled: list[Labelled] = field(default_factory=list)
    unlabelled: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
