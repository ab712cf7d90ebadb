"""The header of a source image, made fit to be copied into a DICOM object that is derived from it.

Only what is listed here is taken over. Required identifiers must be there; what DICOM allows to be unknown is copied
as empty; nothing is invented. Text is decoded with the character set of the source, so that it can be written with
another one.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit
from pydicom.valuerep import DA, TM, PersonName

from blosam.dicom.derived import quiet
from blosam.errors import BlosamError

logger = logging.getLogger(__name__)

REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
# May be unknown (type 2): copied, or written as empty.
IDENTITY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "ReferringPhysicianName",
)  # fmt: skip
# Copied where present.
PATIENT_AND_STUDY = (
    "IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified", "StudyDescription", "PatientAge", "PatientSize", "PatientWeight",
)  # fmt: skip
# The Clinical Trial Subject module (PS3.3 C.7.1.3): required, one of two required, may be empty.
TRIAL_REQUIRED = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID")
TRIAL_SUBJECT = ("ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID")
TRIAL_MAY_BE_EMPTY = ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName")
TRIAL = (*TRIAL_REQUIRED, *TRIAL_SUBJECT, *TRIAL_MAY_BE_EMPTY)
# Named in the derived object as the equipment that took the image.
EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "InstitutionName")
IMAGE = (
    "Modality", "SeriesNumber", "NumberOfFrames", "PatientOrientation", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod", "FrameOfReferenceUID", "PositionReferenceIndicator",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "PixelSpacingCalibrationType", "SliceThickness", "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionOrganizationType",
)  # fmt: skip

_DIRECTIONS = re.compile(r"[LRAPHF]{1,3}|[LR]?[EC]?[DV]?|[LMPD]", re.ASCII)
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit)
_SHORT_TEXT = ("StudyID", "AccessionNumber")  # SH: 16 characters
_LONG_TEXT = ("PatientID", "StudyDescription", "IssuerOfPatientID", "DeidentificationMethod", *TRIAL)  # LO: 64
_NAMES = ("PatientName", "ReferringPhysicianName")  # PN: 64 in each of up to three groups
_CONVERSION_ERRORS = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, OverflowError)


def prepare(source: Dataset) -> Dataset:
    """A copy of what a derived object takes from the header of its source image.

    Args:
        source: header of a DICOM image; it is not changed.

    Returns:
        The attributes named in this module. Those of ``IDENTITY`` are always there, if need be empty.

    Raises:
        BlosamError: when an attribute of ``REQUIRED`` is absent or unusable; the message names it, never its value.
    """
    header = Dataset()
    with quiet():
        for keyword in (*REQUIRED, *IDENTITY, *PATIENT_AND_STUDY, *TRIAL, *EQUIPMENT, *IMAGE):
            _copy(source, keyword, header)
        _check_required(header)
        _tidy(header)
        meta = getattr(source, "file_meta", None)
        if meta is not None and meta.get("TransferSyntaxUID") in _LOSSY:
            header.LossyImageCompression = "01"  # whatever the header says
    return header


def character_set(source: Dataset, header: Dataset, texts: Iterable[str] = ()) -> str | list[str] | None:
    """The Specific Character Set for an object with the text of ``header`` and ``texts``.

    That of the source where it can express everything, else UTF-8 (ISO_IR 192); None where ASCII is enough. Text of a
    source that declares nothing keeps its bytes, which are then declared as Latin-1, as which they were read.
    """
    written = [*texts, *_texts(header)]
    if all(text.isascii() for text in written):
        return None
    declared = source.get("SpecificCharacterSet")
    names = [str(name) for name in declared] if isinstance(declared, MultiValue) else [str(declared or "")]
    if not any(names):
        names = ["ISO_IR 100"]
    for candidate in (names, ["ISO_IR 192"]):
        if _can_express(candidate, written):
            return candidate[0] if len(candidate) == 1 else candidate
    raise BlosamError("the text of the source image cannot be written in any character set. Check its header.")


def pixel_area(source: Dataset) -> tuple[float, bool] | None:
    """Area of a pixel in mm2, and whether it holds in the patient.

    Pixel Spacing holds in the patient when it was calibrated (Pixel Spacing Calibration Type), when it differs from
    the spacing at the detector, or when the image knows where it lies in the patient (CT, MR). Otherwise, and for
    Imager Pixel Spacing, the figure holds in the plane of the detector: what lies nearer to the tube appears larger
    (PS3.3 10.7.1.3).

    Args:
        source: header as returned by :func:`prepare`.

    Returns:
        None when the header does not say.
    """
    spacing, imager = _spacing(source, "PixelSpacing"), _spacing(source, "ImagerPixelSpacing")
    shared = source.get("SharedFunctionalGroupsSequence")
    if spacing is None and shared and "PixelMeasuresSequence" in shared[0]:
        spacing = _spacing(shared[0].PixelMeasuresSequence[0], "PixelSpacing")
    if spacing is not None:
        differs = imager is not None and not np.allclose(spacing, imager, rtol=1e-4)
        return spacing[0] * spacing[1], bool(source.get("PixelSpacingCalibrationType")) or differs or has_plane(source)
    at_detector = imager or _spacing(source, "NominalScannedPixelSpacing")
    return (at_detector[0] * at_detector[1], False) if at_detector else None


def has_plane(header: Dataset) -> bool:
    """Whether the image says completely where it lies: frame of reference, position, orientation, pixel size.

    In a multi-frame image the functional groups say so. The slice thickness counts too, because a segmentation in a
    frame of reference must give one (PS3.3 C.7.6.16.2.1).
    """
    if "FrameOfReferenceUID" not in header:
        return False
    shared, each = (header.get(f"{which}FunctionalGroupsSequence") for which in ("Shared", "PerFrame"))
    if shared or each:
        groups = [group[0] for group in (shared, each) if group]
        return all(
            any(macro in group for group in groups)
            for macro in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        )
    orientation = _numbers(header.get("ImageOrientationPatient"), 6)
    if orientation is None or _numbers(header.get("ImagePositionPatient"), 3) is None:
        return False
    along_row, along_column = orientation[:3], orientation[3:]
    unit = np.allclose([np.linalg.norm(along_row), np.linalg.norm(along_column)], 1, atol=1e-3)
    square = abs(float(along_row @ along_column)) < 1e-3
    return unit and square and _spacing(header, "PixelSpacing") is not None and "SliceThickness" in header


def _copy(source: Dataset, keyword: str, header: Dataset) -> None:
    """Copy one attribute, decoded; what cannot be decoded counts as absent."""
    try:
        if keyword not in source:
            return
        value = source[keyword].value
        if isinstance(value, PersonName):
            value = PersonName(str(value))  # without the bytes of the source, whose character set may differ
        setattr(header, keyword, deepcopy(value))
    except _CONVERSION_ERRORS:
        logger.warning("%s of the source image cannot be decoded and is left out", keyword)


def _check_required(header: Dataset) -> None:
    """Refuse a source without what its derived object must refer to."""
    for keyword in REQUIRED:
        value = header.get(keyword)
        if value in (None, ""):
            raise BlosamError(
                f"the source image has no {keyword}, which a DICOM segmentation or report must refer to. "
                "Send the image through a system that completes it, or choose another output format."
            )
        if isinstance(value, MultiValue):
            raise BlosamError(f"the source image has several values of {keyword}. Mend its header.")
        usable = _is_uid(value) if keyword.endswith("UID") else isinstance(value, int)
        if not usable:
            raise BlosamError(f"the source image has an invalid {keyword}. Mend its header or choose another format.")
    if "Image Storage" not in UID(header.SOPClassUID).name:
        raise BlosamError("the SOPClassUID of the source is not that of an image in the DICOM standard.")
    for keyword in ("PatientName", "PatientID"):  # left empty, the result would lose its patient
        if header.get(keyword) is not None and not _valid(keyword, header[keyword].value):
            raise BlosamError(
                f"{keyword} of the source image is not valid DICOM: too long, several values or control characters. "
                "Mend its header or choose another output format."
            )


def _tidy(header: Dataset) -> None:
    """Empty or leave out what is not valid DICOM; drop geometry that is not complete."""
    for keyword in IDENTITY:
        if header.get(keyword) is None or not _valid(keyword, header[keyword].value):
            if keyword in header and header[keyword].value not in (None, ""):
                logger.warning("%s of the source image is not valid and is written as empty", keyword)
            setattr(header, keyword, "")
    for keyword in (*PATIENT_AND_STUDY, *TRIAL, *EQUIPMENT, *IMAGE):
        if keyword in header and (header[keyword].value in (None, "") or not _valid(keyword, header[keyword].value)):
            delattr(header, keyword)
    if not has_plane(header):
        _leave_out(header, "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID")
    if "DeidentificationMethod" not in header and "DeidentificationMethodCodeSequence" not in header:
        _leave_out(header, "PatientIdentityRemoved")  # which needs the method
    if all(keyword in header for keyword in TRIAL_REQUIRED) and any(keyword in header for keyword in TRIAL_SUBJECT):
        for keyword in TRIAL_MAY_BE_EMPTY:
            setattr(header, keyword, header.get(keyword, ""))
    else:
        _leave_out(header, *TRIAL)


def _leave_out(header: Dataset, *keywords: str) -> None:
    for keyword in keywords:
        if keyword in header:
            delattr(header, keyword)


def _valid(keyword: str, value: Any) -> bool:
    """Whether a value may be written as it is."""
    if keyword == "PatientSex":
        return value in ("M", "F", "O", "")
    if keyword in ("PatientBirthDate", "StudyDate"):
        return re.fullmatch(r"(\d{8})?", str(value)) is not None and _parses(DA, value)
    if keyword == "StudyTime":
        return _parses(TM, value)
    if keyword in _NAMES:
        groups = str(value).split("=")
        fits = len(groups) <= 3 and all(_is_text(group, 64) and group.count("^") <= 4 for group in groups)
        return isinstance(value, str | PersonName) and fits
    if keyword in _SHORT_TEXT or keyword in _LONG_TEXT:
        return _is_text(value, 16 if keyword in _SHORT_TEXT else 64)
    if keyword == "PatientAge":
        return re.fullmatch(r"\d{3}[DWMY]", str(value)) is not None
    if keyword in ("PatientSize", "PatientWeight", "SliceThickness", "SpacingBetweenSlices"):
        return _finite(value)
    if keyword == "LossyImageCompression":
        return value in ("00", "01")
    if keyword == "PatientOrientation":
        directions = [str(part) for part in value] if isinstance(value, MultiValue | list) else []
        return len(directions) == 2 and all(part and _DIRECTIONS.fullmatch(part) for part in directions)
    if keyword in ("PatientIdentityRemoved", "LongitudinalTemporalInformationModified"):
        return value in ("YES", "NO", "UNMODIFIED", "MODIFIED", "REMOVED")
    if keyword in ("SeriesNumber", "NumberOfFrames"):
        return isinstance(value, int) and value > 0
    if keyword.endswith("Spacing"):
        return _numbers(value, 2) is not None
    if keyword == "FrameOfReferenceUID":
        return _is_uid(value)
    if keyword in EQUIPMENT:
        several = keyword == "SoftwareVersions" and isinstance(value, MultiValue)
        return all(_is_text(part, 64) for part in (value if several else [value]))
    return True


def _spacing(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    values = _numbers(dataset.get(keyword), 2)
    return (float(values[0]), float(values[1])) if values is not None and (values > 0).all() else None


def _numbers(value: Any, count: int) -> np.ndarray | None:
    """``count`` finite numbers, or None."""
    try:
        values = np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None


def _finite(value: Any) -> bool:
    return _numbers([value], 1) is not None


def _is_text(value: Any, limit: int) -> bool:
    """One value of not more than ``limit`` characters, none of them a control character."""
    return isinstance(value, str) and len(value) <= limit and all(unicodedata.category(c) != "Cc" for c in value)


def _is_uid(value: Any) -> bool:
    """Whether this is one valid UID (PS3.5 9.1)."""
    return len(str(value)) <= 64 and re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", str(value), re.ASCII) is not None


def _parses(kind: type, value: Any) -> bool:
    try:
        kind(value)
    except _CONVERSION_ERRORS:
        return False
    return True


def _texts(header: Dataset) -> list[str]:
    """All text of the top level of a header."""
    found: list[str] = []
    for element in header:
        if element.VR in ("PN", "LO", "SH", "LT", "ST", "UC", "UT"):
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            found += [str(value) for value in values if value is not None]
    return found


def _can_express(names: Sequence[str], texts: Iterable[str]) -> bool:
    """Whether these are defined terms in a valid combination, and text survives being written and read with them."""
    extended = [name.startswith("ISO 2022") for name in names if name]
    if not set(names) <= set(python_encoding) or not (all(extended) if len(names) > 1 else not any(extended)):
        return False
    with quiet():
        encodings = convert_encodings(list(names))
        parts = [part for text in texts for part in re.split("[=^]", text)]
        return all(decode_bytes(encode_string(part, encodings), encodings, set()) == part for part in parts)
