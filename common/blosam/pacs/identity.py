"""Fixed identifiers for what we store: the same image and weights give the same UIDs, on every machine.

So a result that reached the archive just before a crash is recognised there, and not stored a second time.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from .errors import ArchiveError

INSTANCE, SERIES = "instance", "series"


def derived_uid(kind: str, bundle: str, sources: Iterable[str], generation: int = 0) -> str:
    """A UID of the form 2.25.N (PS3.5 B.2) from what it stands for.

    Args:
        kind: e.g. ``SEG instance``.
        bundle: SHA-256 of the weights.
        sources: SOP instance UIDs of the images, in any order.
        generation: 0 for the first results of these images, 1 after ``--again``, and so on.
    """
    text = "\n".join(["blosam pacs", kind, bundle, str(generation), *sorted(set(sources))])
    digest = hashlib.sha256(text.encode()).digest()[:16]
    return f"2.25.{uuid.UUID(bytes=digest, version=5).int}"


def read_results(paths: Iterable[Path]) -> list[Dataset]:
    """The objects that were written for one batch, SEG before SR, which refers to them.

    Raises:
        ArchiveError: when one is no DICOM file.
    """
    found = []
    for path in paths:
        try:
            found.append(pydicom.dcmread(path))
        except (InvalidDicomError, OSError, EOFError):
            raise ArchiveError(f"the result {path.name} is no DICOM file; nothing was stored") from None
    return sorted(found, key=lambda dataset: (dataset.Modality != "SEG", sorted(sources_of(dataset))))


def sources_of(dataset: Dataset) -> set[str]:
    """SOP instance UIDs of all instances that a dataset refers to (source images, and for an SR also its SEG)."""
    found: set[str] = set()

    def collect(_: Dataset, element: pydicom.DataElement) -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and element.value:
            found.add(str(element.value))

    dataset.walk(collect)
    return found


def stamp(results: list[Dataset], images: Iterable[str], bundle: str, generation: int) -> list[Dataset]:
    """Give the objects of one batch their fixed UIDs, in the references between them, too.

    Args:
        results: SEG and SR as written, with UIDs of their own; they are changed.
        images: SOP instance UIDs of the batch's source images.
        bundle: SHA-256 of the weights.
        generation: see :func:`derived_uid`.
    """
    images = set(images)
    own = {str(result.SOPInstanceUID): result for result in results}
    sources = {uid: _images_behind(result, own, images) for uid, result in own.items()}
    new: dict[str, str] = {}
    for uid, result in own.items():
        kind = _kind(result)
        name = derived_uid(f"{kind} {INSTANCE}", bundle, sources[uid], generation)
        # Several of one kind for the same images (the frames of a film) are told apart by their order.
        number = 1
        while name in new.values():
            number += 1
            name = derived_uid(f"{kind} {INSTANCE} {number}", bundle, sources[uid], generation)
        new[uid] = name
        # Results that shared a series stay together.
        together = set().union(*(sources[u] for u, r in own.items() if r.SeriesInstanceUID == result.SeriesInstanceUID))
        new.setdefault(str(result.SeriesInstanceUID), derived_uid(f"{kind} {SERIES}", bundle, together, generation))
    for result in results:
        result.walk(_replacement(new))
        result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    return results


def _kind(result: Dataset) -> str:
    """Modality, for a SEG with its type (binary or fractional) and the frames it belongs to."""
    frames: set[int] = set()

    def collect(_: Dataset, element: pydicom.DataElement) -> None:
        if element.keyword == "ReferencedFrameNumber" and element.value is not None:
            frames.update(int(number) for number in np.atleast_1d(element.value))

    if result.Modality == "SEG":
        result.walk(collect)
    words = [str(result.Modality), str(result.get("SegmentationType", "")), *(str(frame) for frame in sorted(frames))]
    return " ".join(word for word in words if word)


def _images_behind(result: Dataset, own: dict[str, Dataset], images: set[str]) -> set[str]:
    """The batch's images that a result was made from; all of them where it names none (never the empty set)."""
    named = sources_of(result)
    for uid in named & set(own):
        named = named | sources_of(own[uid])
    return (named & images) or images


def _replacement(new: dict[str, str]) -> Callable[[Dataset, pydicom.DataElement], None]:
    def replace(_: Dataset, element: pydicom.DataElement) -> None:
        if element.VR == "UI" and str(element.value) in new:
            element.value = new[str(element.value)]

    return replace
