"""From files, folders and DICOMDIRs to a list of inputs, in an order that is the same on every computer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom

from blosam.data.datalist import file_stem
from blosam.dicom.reader import SUFFIXES
from blosam.errors import BlosamError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_PEEKED = (
    "SOPClassUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Rows", "Columns",
    "NumberOfFrames",
)  # fmt: skip
# Objects with pixels that are no picture of a patient (PS3.4, B.5), and the families without any.
_NO_PICTURES = {
    "1.2.840.10008.1.3.10": "a DICOMDIR; the files it lists are read by themselves",
    "1.2.840.10008.5.1.4.1.1.66.4": "a DICOM segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a DICOM label map",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
    "1.2.840.10008.5.1.4.1.1.66.1": "a spatial registration",
    "1.2.840.10008.5.1.4.1.1.66.2": "spatial fiducials",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
}
_FAMILIES = {
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report",
    "1.2.840.10008.5.1.4.1.1.104.": "an encapsulated document",
    "1.2.840.10008.5.1.4.1.1.9.": "a waveform",
    "1.2.840.10008.5.1.4.1.1.481.": "a radiotherapy object",
    "1.2.840.10008.5.1.4.1.1.67": "a real world value mapping",
}
_PARSE_ERRORS = (
    pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError,
    NotImplementedError, IndexError, OverflowError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One input file.

    Args:
        path: the file.
        position: 1, 2, ... in the whole list.
        kind: raster, nifti or dicom, by name and mark; the reader decides by content.
        stem: base of output names; empty for DICOM files, whose names often are those of patients.
        study: StudyInstanceUID; empty when there is none.
        series: SeriesInstanceUID.
        instance: SOPInstanceUID.
        ignored: why the input is not segmented (no image); empty for images.
        problem: why it cannot be read at all; empty when nothing is known against it.
    """

    path: Path
    position: int = 0
    kind: str = "raster"
    stem: str = ""
    study: str = ""
    series: str = ""
    instance: str = ""
    ignored: str = ""
    problem: str = ""


def collect(inputs: Sequence[Path], leave_out: Iterable[Path] = ()) -> list[Item]:
    """All input files in order.

    Args:
        inputs: files, folders (searched through, links followed once), DICOMDIR files.
        leave_out: folders that are not searched, such as that of the results.

    Returns:
        Items with positions from 1 on. A file that is given twice comes once. Files in folders that are neither an
        image nor DICOM are left out; DICOM objects without a picture are marked as ignored.

    Raises:
        BlosamError: when there is nothing to segment.
    """
    skipped = {key for folder in leave_out if (key := _identity(folder)) is not None}
    found: dict[Any, Item] = {}
    for entry in inputs:
        for item in _of_entry(Path(entry), skipped):
            found.setdefault(_identity(item.path) or str(item.path), item)
    if not found:
        raise BlosamError(
            f"no image found in the {len(inputs)} input(s) given. Expected files ending in {', '.join(SUFFIXES)}, or "
            "DICOM files of any name."
        )
    return [replace(item, position=number) for number, item in enumerate(found.values(), start=1)]


def _of_entry(entry: Path, skipped: set) -> Iterator[Item]:
    if entry.is_dir():
        folder = entry / "images" if (entry / "images").is_dir() and (entry / "masks").is_dir() else entry
        for path in _walk(folder, skipped):
            if (item := _of_file(path, given=False)) is not None:
                yield item
    elif not entry.exists():
        yield Item(entry, problem="no such file or folder. Check the name.")
    else:
        item = _of_file(entry, given=True)
        if item is not None and item.ignored == _NO_PICTURES["1.2.840.10008.1.3.10"]:
            yield from _of_dicomdir(entry)
        elif item is not None:
            yield item


def _walk(folder: Path, skipped: set) -> Iterator[Path]:
    """Files below a folder, sorted; hidden ones left out; a folder reached again through a link is not entered."""
    seen: set = set(skipped)
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        key = _identity(current)
        if key is None or key in seen:
            continue
        seen.add(key)
        try:
            entries = sorted(os.scandir(current), key=lambda e: e.name)
        except OSError:
            yield current  # opening it will say why
            continue
        folders = []
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if path.is_dir():  # False, without an error, for links that lead in a circle or nowhere
                folders.append(path)
            elif path.is_file():
                yield path
        waiting += reversed(folders)


def _identity(path: Path) -> tuple[int, int] | None:
    """What makes a file or folder the same under several names."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _of_file(path: Path, given: bool) -> Item | None:
    """The item of one file; None for a file in a folder that is no image."""
    name = path.name.lower()
    try:
        with path.open("rb") as file:
            marked = file.read(132)[128:] == b"DICM"
    except OSError as error:
        return Item(path, problem=f"the file cannot be opened ({error.strerror}). Check its permissions.")
    if marked or name.endswith(DICOM_SUFFIXES):
        return _of_dicom(path)
    if name.endswith((".nii", ".nii.gz")):
        return Item(path, kind="nifti", stem=file_stem(path))
    if name.endswith(SUFFIXES) or given:
        return Item(path, stem=file_stem(path))
    return None


def _of_dicom(path: Path) -> Item:
    """A DICOM file with what its header says about its place in the study."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_PEEKED))
        texts = {key: str(header.get(key, "") or "").strip() for key in _PEEKED}
        # A DICOMDIR says what it is in the file's own header alone.
        sop_class = texts["SOPClassUID"] or str(header.file_meta.get("MediaStorageSOPClassUID", ""))
    except _PARSE_ERRORS:
        return Item(path, kind="dicom")  # the reader will say what is wrong
    return Item(
        path,
        kind="dicom",
        study=texts["StudyInstanceUID"],
        series=texts["SeriesInstanceUID"],
        instance=texts["SOPInstanceUID"],
        ignored=_no_picture(sop_class, bool(texts["Rows"]) and bool(texts["Columns"])),
    )


def _no_picture(sop_class: str, has_size: bool) -> str:
    """Why an object of this class is not segmented; empty when it may be an image."""
    if sop_class in _NO_PICTURES:
        return _NO_PICTURES[sop_class]
    for family, words in _FAMILIES.items():
        if sop_class.startswith(family):
            return words
    name = pydicom.uid.UID(sop_class).name if sop_class else ""
    if sop_class and not has_size and "Image" not in name:
        known = f" ({name})" if name != sop_class else ""
        return f"a DICOM object without an image{known}"
    return ""


def _of_dicomdir(path: Path) -> Iterator[Item]:
    """The files a DICOMDIR lists, in its order.

    Raises:
        BlosamError: when it cannot be read.
    """
    try:
        records = list(pydicom.dcmread(path, force=True).get("DirectoryRecordSequence") or ())
        references = [record.get("ReferencedFileID") for record in records]
    except _PARSE_ERRORS as error:
        raise BlosamError(f"{path}: the DICOMDIR cannot be read. Give the folder of its files instead.") from error
    for reference in references:
        if not reference:
            continue  # a patient, study or series
        parts = [reference] if isinstance(reference, str) else [str(part) for part in reference]
        target = _inside(path.parent, parts)
        if target is None:
            yield Item(path, problem="the DICOMDIR lists a file that is not in its folder. Copy the medium again.")
        elif (item := _of_file(target, given=True)) is not None:
            yield item


def _inside(folder: Path, parts: Sequence[str]) -> Path | None:
    """A file named by a DICOMDIR, whose names are upper case even where the file system made them lower case."""
    if any(part in ("", ".", "..") or "/" in part or "\\" in part or "\0" in part for part in parts):
        return None
    target = folder
    for part in parts:
        target = target / (part if (target / part).exists() else part.lower())
    inside = target.is_file() and Path(os.path.realpath(target)).is_relative_to(os.path.realpath(folder))
    return target if inside else None


def share(items: Sequence[Item], rank: int, world_size: int) -> list[Item]:
    """The items one of several processes segments: whole studies, dealt out so that all get about as many.

    Args:
        items: the whole list.
        rank: of this process, from 0.
        world_size: number of processes.
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.study or f"file {item.position}", []).append(item)
    loads = [0] * world_size
    mine: list[Item] = []
    for members in sorted(groups.values(), key=lambda group: (-len(group), group[0].position)):
        target = min(range(world_size), key=loads.__getitem__)
        loads[target] += len(members)
        if target == rank:
            mine += members
    return sorted(mine, key=lambda item: item.position)


def output_stems(items: Sequence[Item]) -> dict[int, str]:
    """A distinct base for output names of every item that has a stem, by position."""
    stems: dict[int, str] = {}
    taken: set[str] = set()
    for item in items:
        if not item.stem or item.ignored:
            continue
        stem = item.stem
        while stem.lower() in taken:
            stem = f"{stem}_{item.position:04d}"
        # What the formats append must not meet the name of another image.
        taken |= {stem.lower(), f"{stem}_overlay".lower()}
        stems[item.position] = stem
    return stems
