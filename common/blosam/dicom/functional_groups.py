"""Elements of one frame: those of the whole file, overruled by its functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from contextlib import suppress

import pydicom
from pydicom.datadict import tag_for_keyword

from blosam.dicom.container import DAMAGE

# Groups whose elements mean the same as those of single-frame images.
_GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "FrameVOILUTSequence",
    "PixelValueTransformationSequence",
)
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


def frame_header(header: pydicom.Dataset, index: int) -> pydicom.Dataset:
    """The elements that apply to frame ``index``; for single-frame images all of them, otherwise without the
    groups of the other frames."""
    shared, per_frame = _items(header, _SHARED), _items(header, _PER_FRAME)
    if not shared and not per_frame:
        return header
    merged = pydicom.Dataset()
    merged.file_meta = header.file_meta
    _take(merged, header)
    for groups in (shared[:1], per_frame[index : index + 1]):
        for group in groups:
            for keyword in _GROUPS:
                for item in _items(group, keyword)[:1]:
                    _take(merged, item)
    return merged


def _take(target: pydicom.Dataset, source: pydicom.Dataset) -> None:
    """Copy elements, leaving out the groups of all frames and what cannot be read."""
    left_out = [tag_for_keyword(keyword) for keyword in (_SHARED, _PER_FRAME)]
    for tag in source.keys():  # noqa: SIM118, a data set is no dictionary: iterating decodes its elements
        if tag not in left_out:
            with suppress(*DAMAGE):
                target[tag] = source[tag]


def _items(dataset: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    """Items of a sequence; none when it is absent or something else."""
    value = dataset.get(keyword)
    return list(value) if isinstance(value, pydicom.Sequence) else []
