"""DICOM SEG objects, matched with the images they reference (PS3.3 A.51 and C.8.20)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from blosam.errors import BlosamError

from .found import Found, Labelled, Layers, Problem

_BROKEN = (
    AttributeError, KeyError, ValueError, TypeError, IndexError, EOFError, RuntimeError, NotImplementedError, OSError,
    InvalidDicomError,
)  # fmt: skip
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def sop_class(path: Path) -> str:
    """SOP class of a DICOM file; empty for other files."""
    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return ""
        header = pydicom.dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    except (OSError, InvalidDicomError, ValueError, EOFError):
        return ""
    return str(header.get("SOPClassUID", ""))


def find_segmentations(images: list[Path], segmentations: list[Path]) -> Found:
    """Pair DICOM images with the SEG objects that reference them.

    Args:
        images: all other DICOM files.
        segmentations: files of the SEG storage class.
    """
    found = Found("DICOM images with DICOM SEG")
    owners: dict[str, list[Path]] = {}
    names: dict[str, None] = {}
    for path in segmentations:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            sources = _sources(header)
            names |= dict.fromkeys(_segments(header).values())
        except _BROKEN as error:
            found.problems.append(Problem(path, f"the SEG object cannot be read ({_words(error)}). Export it again."))
            continue
        for uid in sources:
            owners.setdefault(uid, []).append(path)
    found.classes = list(names)
    for image in images:
        uid = str(pydicom.dcmread(image, specific_tags=["SOPInstanceUID"], force=True).get("SOPInstanceUID", ""))
        labels = owners.pop(uid, None)
        if labels is None:
            found.unlabelled.append(image)
        else:
            found.labelled.append(Labelled(image, labels[0], functools.partial(_layers, labels, uid)))
    for path in sorted({path for paths in owners.values() for path in paths}):
        found.problems.append(Problem(path, "an image it references is not here. Add the image or remove the SEG."))
    return found


def _layers(paths: list[Path], uid: str, shape: tuple[int, int]) -> Layers:
    """Segments of one image from all SEG objects that reference it; a segment without a frame is empty."""
    layers: Layers = {}
    for path in paths:
        try:
            frames = list(_frames(pydicom.dcmread(path), uid))
        except _BROKEN as error:
            raise BlosamError(
                f"{path}: the SEG object cannot be decoded ({_words(error)}). Export it again."
            ) from error
        for name, mask in frames:
            if mask.shape != shape:
                raise BlosamError(
                    f"{path}: the segments are {mask.shape[1]} x {mask.shape[0]} pixels, but the image is {shape[1]} x "
                    f"{shape[0]}. Export the SEG on the grid of the image."
                )
            layers[name] = layers.get(name, np.zeros(shape, bool)) | mask
    return layers


def _frames(dataset: pydicom.Dataset, uid: str) -> Iterator[tuple[str, np.ndarray]]:
    """Segment name and Rows x Columns bool of every frame that belongs to one source image.

    highdicom's own reader asks for a slice thickness, which segmentations of radiographs rightly lack.
    """
    names = _segments(dataset)
    kind = str(dataset.SegmentationType)
    frames = np.asarray(dataset.pixel_array).reshape(-1, int(dataset.Rows), int(dataset.Columns))
    threshold = float(dataset.MaximumFractionalValue) / 2 if kind == "FRACTIONAL" else 0.5
    only_source = _sources(dataset) == [uid]
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        if uid not in _frame_sources(groups) and not only_source:
            continue
        if kind == "LABELMAP":
            yield from ((name, frame == number) for number, name in names.items())
            continue
        holder = groups if "SegmentIdentificationSequence" in groups else dataset.SharedFunctionalGroupsSequence[0]
        number = int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        yield names[number], frame >= threshold


def _segments(dataset: pydicom.Dataset) -> dict[int, str]:
    """Segment number -> label."""
    return {int(item.SegmentNumber): str(item.SegmentLabel) for item in dataset.SegmentSequence}


def _sources(dataset: pydicom.Dataset) -> list[str]:
    """SOP instance UIDs of the images that were segmented."""
    series = dataset.get("ReferencedSeriesSequence") or []
    found = [str(item.ReferencedSOPInstanceUID) for s in series for item in s.ReferencedInstanceSequence]
    found += [uid for groups in dataset.get("PerFrameFunctionalGroupsSequence") or [] for uid in _frame_sources(groups)]
    return list(dict.fromkeys(found))


def _frame_sources(groups: pydicom.Dataset) -> list[str]:
    """The same for one frame."""
    return [
        str(source.ReferencedSOPInstanceUID)
        for derivation in groups.get("DerivationImageSequence") or []
        for source in derivation.get("SourceImageSequence") or []
    ]


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
