"""What every DICOM object that we write has in common: who made it, its place in the study, and the file."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

import blosam
from blosam.atomicio import atomic_write
from blosam.dicom.codes import LOCAL_SCHEME, MAX_TEXT, Concept, SegmentCode, clean_text
from blosam.errors import BlosamError

MANUFACTURER = "the blosam contributors"
_NAMESPACE = uuid.UUID("6c6a4f6e-9a55-5d0e-8f0b-3f6a1d0f7c11")  # ours, for UIDs made from names
_MAX_SERIES_NUMBER = 2**31 - 1  # of the value representation IS
_quiet = threading.RLock()


@dataclass(frozen=True)
class Algorithm:
    """The model that drew the mask.

    Args:
        name: of the bundle, e.g. blosam_lung.
        version: of the bundle.
        sha256: of its weights, hexadecimal; empty when unknown.
    """

    name: str
    version: str
    sha256: str = ""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], name: str = "", sha256: str = "") -> Algorithm:
        """From a bundle's metadata; ``name`` replaces the long name there."""
        return cls(
            name=clean_text(name or str(metadata.get("name") or "")) or "blosam bundle",
            version=clean_text(str(metadata.get("version") or "")) or "unknown",
            sha256=clean_text(sha256),
        )

    @property
    def software_versions(self) -> tuple[str, str]:
        """Of the program and of the bundle."""
        return clean_text(f"blosam {blosam.__version__}"), clean_text(f"bundle {self.version}")

    @property
    def serial_number(self) -> str:
        """What tells this model from others: the hash of its weights, else its name and version."""
        return clean_text(self.sha256 or f"{self.name} {self.version}")

    @property
    def uid(self) -> str:
        """The same for the same model on every machine."""
        return named_uid("device", *self.software_versions, self.name, self.serial_number)


def require_highdicom() -> None:
    """Refuse with the mend where highdicom is not installed.

    Raises:
        BlosamError: when it is absent.
    """
    if importlib.util.find_spec("highdicom") is None:
        raise BlosamError("writing DICOM needs highdicom, which is not installed. Run: pip install 'blosam[dicom]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and log lines of pydicom and highdicom, which quote names and identifiers."""
    loggers = [logging.getLogger(name) for name in ("highdicom", "highdicom.base", "pydicom")]
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def named_uid(*names: str) -> str:
    """A UID (PS3.5 B.2, from a UUID) that is always the same for the same names."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(names)).int}"


def new_uid() -> str:
    """A UID that has not been used before."""
    return f"2.25.{uuid.uuid4().int}"


def series_number(header: Dataset, base: int) -> int:
    """Number of the new series: ``base`` + that of the source, so that viewers list it behind the images."""
    number = header.get("SeriesNumber")
    return base + int(number) if number is not None and 0 < number < _MAX_SERIES_NUMBER - base else base


def equipment(algorithm: Algorithm) -> dict[str, Any]:
    """Arguments of highdicom's objects that name the device: this program with a bundle."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": clean_text(algorithm.name),
        "software_versions": algorithm.software_versions,
        "device_serial_number": algorithm.serial_number,
    }


def coded(concept: Concept) -> Any:
    """A concept as highdicom's item of a code sequence."""
    from highdicom.sr import CodedConcept

    return CodedConcept(concept.value, concept.scheme, concept.meaning)


def series_description(what: str, algorithm: Algorithm, remark: str) -> str:
    """For example "Segmentation by blosam_lung - needs review"; only the name is ever shortened."""
    ending = f" - {clean_text(remark, MAX_TEXT - 20)}" if remark else ""
    return clean_text(f"{what} by {algorithm.name}", MAX_TEXT - len(ending)) + ending


def own_texts(codes: Sequence[SegmentCode], algorithm: Algorithm, remark: str) -> list[str]:
    """The text we add to an object, which its character set must be able to express."""
    concepts = [concept for code in codes for concept in (code.category, code.type, *code.modifiers)]
    return [*(code.name for code in codes), *(c.meaning for c in concepts), algorithm.name, algorithm.version, remark]


def coding_schemes() -> list[Any]:
    """Who is responsible for the private coding scheme; for objects that use it."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return [
        CodingSchemeIdentificationItem(
            designator=LOCAL_SCHEME,
            name="Class names of blosam bundles",
            responsible_organization=MANUFACTURER,
        )
    ]


def write_dicom(dataset: Dataset, path: str | os.PathLike) -> None:
    """Write a DICOM object as a file (PS3.10), completely or not at all.

    Args:
        dataset: with file meta information that names its transfer syntax.
        path: the file; a file of that name is replaced.

    Raises:
        BlosamError: when the file cannot be written.
    """
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.ImplementationClassUID = named_uid("implementation")
    meta.ImplementationVersionName = clean_text(f"BLOSAM {blosam.__version__}", 16)
    with atomic_write(path) as file, quiet():
        dataset.save_as(file, enforce_file_format=True)
