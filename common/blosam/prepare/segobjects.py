"""DICOM SEG objects, matched with the images they reference (PS3.3 A.51 and C.8.20)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from blosam.dicom.functional_groups import frame_header
from blosam.errors import BlosamError

from .found import Found, Labelled, Layers, Problem
from .place import affine_of, header_affine, same_place

_BROKEN = (
    AttributeError, KeyError, ValueError, TypeError, IndexError, EOFError, RuntimeError, NotImplementedError, OSError,
    InvalidDicomError,
)  # fmt: skip
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # the latter for label maps


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
        segmentations: files of the SEG storage classes.
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
            found.labelled.append(Labelled(image, labels[0], functools.partial(_layers, labels, uid, image)))
    for path in sorted({path for paths in owners.values() for path in paths}):
        found.problems.append(Problem(path, "an image it references is not here. Add the image or remove the SEG."))
    return found


def _layers(paths: list[Path], uid: str, image: Path, shape: tuple[int, int]) -> Layers:
    """Segments of one image from all SEG objects that reference it; a segment without a frame is empty."""
    layers: Layers = {}
    place = affine_of(image)
    for path in paths:
        try:
            frames = list(_frames(path, uid, place))
        except BlosamError:
            raise
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


def _frames(path: Path, uid: str, place: np.ndarray | None) -> Iterator[tuple[str, np.ndarray]]:
    """Segment name and Rows x Columns bool of every frame that belongs to one source image.

    highdicom's own reader asks for a slice thickness, which segmentations of radiographs rightly lack.

    Args:
        path: the SEG object.
        uid: SOP instance UID of the image.
        place: affine of the image, where its file tells it.
    """
    dataset = pydicom.dcmread(path)
    names = _segments(dataset)
    kind = str(dataset.SegmentationType)
    shape = int(dataset.Rows), int(dataset.Columns)
    frames = np.asarray(dataset.pixel_array).reshape(-1, *shape)
    threshold = float(dataset.MaximumFractionalValue) / 2 if kind == "FRACTIONAL" else 0.5
    for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        if not _belongs(path, dataset, index, uid, place):
            continue
        if kind == "LABELMAP":
            yield from ((name, frames[index] == number) for number, name in names.items())
            continue
        holder = groups if "SegmentIdentificationSequence" in groups else dataset.SharedFunctionalGroupsSequence[0]
        number = int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        yield names[number], frames[index] >= threshold


def _belongs(path: Path, dataset: pydicom.Dataset, index: int, uid: str, place: np.ndarray | None) -> bool:
    """Whether a frame is of this image: as its references say, else its place, else when there is no other image.

    Raises:
        BlosamError: when nothing tells, or the frame lies elsewhere than the image it refers to.
    """
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    groups = [dataset.PerFrameFunctionalGroupsSequence[index], *shared[:1]]
    named = next(filter(None, map(_frame_sources, groups)), [])
    if named and uid not in named:
        return False
    own = header_affine(frame_header(dataset, index))
    there = same_place(place, own, (int(dataset.Rows), int(dataset.Columns)))
    alone = _sources(dataset) == [uid]
    if there and not named and not alone and (place is None or own is None):
        raise BlosamError(f"{path}: frame {index + 1} does not say which image it belongs to. Export it again.")
    if not there and (named or alone):
        raise BlosamError(
            f"{path}: frame {index + 1} is turned, mirrored or shifted against the image it refers to. "
            "Export the SEG on the grid of the image."
        )
    return there


def _segments(dataset: pydicom.Dataset) -> dict[int, str]:
    """Segment number -> label; 0 is the background of label maps."""
    named = ((int(item.SegmentNumber), str(item.get("SegmentLabel") or "")) for item in dataset.SegmentSequence)
    return {number: label or f"segment_{number}" for number, label in named if number > 0}


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
