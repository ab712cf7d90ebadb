"""The measurements of a study as a DICOM Structured Report (PS3.16, TID 1500 Measurement Report).

One group per image and class: number of pixels, area where the header says how large a pixel is, confidence where
there is one, and "needs review" where it was marked. The observer is the program; no person is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from blosam.dicom.codes import Concept, SegmentCode, clean_text
from blosam.dicom.derived import (
    MANUFACTURER,
    Algorithm,
    coded,
    coding_schemes,
    equipment,
    new_uid,
    own_texts,
    quiet,
    require_highdicom,
    series_description,
    series_number,
    write_dicom,
)
from blosam.dicom.source import character_set, pixel_area, prepare
from blosam.errors import BlosamError

__all__ = ["Algorithm", "Measured", "SegmentReference", "measurement_report", "segment_reference", "write_dicom"]

_SERIES_BASE = 2000
_MISFITS = (ValueError, TypeError, AttributeError, KeyError, IndexError)  # what highdicom raises for odd headers

AREA = Concept("42798000", "SCT", "Area")
# The name carries the caveat, so that no program can take the figure for a size in the patient.
UNCORRECTED_AREA = Concept.local("AREA_UNCORRECTED", "Area in the image plane, not corrected for magnification")
PIXELS = Concept.local("PIXEL_COUNT", "Number of pixels")
CERTAINTY = Concept("111012", "DCM", "Certainty of Finding")
REVIEW = Concept.local("REVIEW_STATUS", "Review status")
NEEDS_REVIEW = Concept.local("NEEDS_REVIEW", "Needs review")
_SQUARE_MM = Concept("mm2", "UCUM", "square millimeter")
_PIXEL_UNIT = Concept("{pixels}", "UCUM", "pixels")
_PERCENT = Concept("%", "UCUM", "Percent")
# Procedure reported (CID 100): the most that the kind of object says.
_RADIOGRAPHY = Concept("43468-8", "LN", "XR unspecified body region")
_IMAGING = Concept("363679005", "SCT", "Imaging procedure")
_PROCEDURES = dict.fromkeys(("CR", "DX", "PX", "IO", "RG"), _RADIOGRAPHY) | {
    "CT": Concept("25045-6", "LN", "CT unspecified body region"),
    "MR": Concept("25056-3", "LN", "MRI unspecified body region"),
}


@dataclass(frozen=True)
class SegmentReference:
    """Where a DICOM Segmentation holds the mask of one image.

    Args:
        identifiers: UIDs of the object.
        frames: number of the frame of each class.
        one_frame_each: whether the object has a single frame for each class.
    """

    identifiers: Dataset
    frames: dict[int, int]
    one_frame_each: bool


@dataclass(frozen=True)
class Measured:
    """One image with what was found in it; holds no pixels.

    Args:
        source: header of the image.
        pixels: number of pixels of each class 1..K.
        segmentation: where the mask is stored; None when no segmentation was written.
        confidence: 0..1, or None.
        needs_review: whether a person should look before the result is used.
        frame: number of the frame from 1, for multi-frame sources.
    """

    source: Dataset
    pixels: tuple[int, ...]
    segmentation: SegmentReference | None = None
    confidence: float | None = None
    needs_review: bool = False
    frame: int | None = None

    @classmethod
    def from_mask(
        cls,
        source: Dataset,
        mask: np.ndarray,
        codes: Sequence[SegmentCode],
        segmentation: Dataset | None = None,
        *,
        confidence: float | None = None,
        needs_review: bool = False,
        frame: int | None = None,
    ) -> Measured:
        """Count the pixels of each class and keep only the identifiers of ``segmentation``.

        Args:
            source: header of the image.
            mask: Rows x Columns, values 0..K.
            codes: the classes, numbered 1..K.
            segmentation: as returned by :func:`blosam.dicom.seg.segmentation`.
            confidence: 0..1, or None.
            needs_review: whether a person should look before the result is used.
            frame: number of the frame from 1, for multi-frame sources.
        """
        counts = np.bincount(np.asarray(mask).ravel(), minlength=len(codes) + 1)[1:]
        kept = None if segmentation is None else segment_reference(segmentation, source, frame)
        return cls(source, tuple(int(n) for n in counts), kept, confidence, needs_review, frame)


def measurement_report(
    images: Sequence[Measured],
    codes: Sequence[SegmentCode],
    algorithm: Algorithm,
    *,
    description: str = "",
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
) -> Dataset:
    """Make the report of one study.

    Args:
        images: of one study, at least one.
        codes: the classes, numbered 1..K.
        algorithm: the model.
        description: added to the series description, e.g. "needs review".
        series_instance_uid: of the new series. By default a new one.
        sop_instance_uid: of the new object. By default a new one.

    Returns:
        A ``highdicom.sr.ComprehensiveSR``, to be written with :func:`write_dicom`.

    Raises:
        BlosamError: when highdicom is not installed, a source lacks what a report must refer to, or the images are
            not of one study.
    """
    require_highdicom()
    from highdicom.sr import ComprehensiveSR

    headers = [prepare(image.source) for image in images]
    if len({header.StudyInstanceUID for header in headers}) != 1:
        raise BlosamError("the images of a report differ in StudyInstanceUID. Make one report per study.")
    references = {str(header.SOPInstanceUID): header for header in headers}
    for stored in (image.segmentation.identifiers for image in images if image.segmentation is not None):
        references[str(stored.SOPInstanceUID)] = stored
    try:
        with quiet():
            report = ComprehensiveSR(
                evidence=list(references.values()),
                content=_content(images, headers, codes, algorithm)[0],
                series_instance_uid=series_instance_uid or new_uid(),
                series_number=series_number(headers[0], _SERIES_BASE),
                sop_instance_uid=sop_instance_uid or new_uid(),
                instance_number=1,
                is_complete=True,
                is_final=False,
                is_verified=False,
                series_description=series_description("Measurements", algorithm, description),
                coding_schemes=coding_schemes(),
                **equipment(algorithm),
            )
            charset = character_set(images[0].source, headers[0], own_texts(codes, algorithm, description))
    except _MISFITS as error:
        if isinstance(error, BlosamError):
            raise
        raise BlosamError(
            f"the header of a source image does not allow a DICOM report ({type(error).__name__} while it was made). "
            "Check the image with dciodvfy, or choose another output format."
        ) from error
    if charset is not None:
        report.SpecificCharacterSet = charset
    return report


def _content(
    images: Sequence[Measured], headers: Sequence[Dataset], codes: Sequence[SegmentCode], algorithm: Algorithm
) -> Any:
    """The content tree."""
    from highdicom import sr

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=algorithm.uid,
        name=clean_text(algorithm.name),
        manufacturer_name=MANUFACTURER,
        model_name=", ".join(algorithm.software_versions),
        serial_number=algorithm.serial_number,
    )
    observer = sr.ObserverContext(
        observer_type=coded(Concept("121007", "DCM", "Device")), observer_identifying_attributes=device
    )
    procedures = {_PROCEDURES.get(str(header.get("Modality", "")), _IMAGING) for header in headers}
    groups = [
        _group(image, header, code, position, algorithm)
        for position, (image, header) in enumerate(zip(images, headers, strict=True), start=1)
        for code in codes
    ]
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=[coded(procedure) for procedure in sorted(procedures, key=lambda p: p.value)],
        imaging_measurements=groups,
    )


def _group(image: Measured, header: Dataset, code: SegmentCode, position: int, algorithm: Algorithm) -> Any:
    """Measurements of one class in one image: of the segment where there is one, else of the image."""
    from highdicom import sr

    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=new_uid(), identifier=clean_text(f"image {position}, {code.name}")
        ),
        "finding_type": coded(code.type),
        "finding_category": coded(code.category),
        "algorithm_id": sr.AlgorithmIdentification(
            name=clean_text(algorithm.name), version=clean_text(algorithm.version)
        ),
        "measurements": _measurements(image, header, code),
        "qualitative_evaluations": (
            [sr.QualitativeEvaluation(name=coded(REVIEW), value=coded(NEEDS_REVIEW))] if image.needs_review else None
        ),
    }
    uids = {
        "referenced_sop_class_uid": str(header.SOPClassUID),
        "referenced_sop_instance_uid": str(header.SOPInstanceUID),
        "referenced_frame_numbers": [image.frame] if image.frame else None,
    }
    if image.segmentation is None:
        source = sr.SourceImageForMeasurementGroup(**uids)
        return sr.MeasurementsAndQualitativeEvaluations(source_images=[source], **common)
    segment = sr.ReferencedSegmentationFrame(
        sop_class_uid=str(image.segmentation.identifiers.SOPClassUID),
        sop_instance_uid=str(image.segmentation.identifiers.SOPInstanceUID),
        frame_number=image.segmentation.frames[code.number],
        segment_number=code.number,
        source_image=sr.SourceImageForSegmentation(**uids),
    )
    # Frame and segment exclude each other (PS3.3 C.18.4); the segment says it all while it has a single frame.
    reference = segment[0].ReferencedSOPSequence[0]
    if image.segmentation.one_frame_each:
        del reference.ReferencedFrameNumber
    else:
        del reference.ReferencedSegmentNumber
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common)


def _measurements(image: Measured, header: Dataset, code: SegmentCode) -> list[Any]:
    """Number of pixels, area and certainty of one class."""
    from highdicom import sr

    pixels = image.pixels[code.number - 1]
    found = [(PIXELS, pixels, _PIXEL_UNIT)]
    size = pixel_area(header)
    if size is not None:
        found.append((AREA if size[1] else UNCORRECTED_AREA, float(f"{pixels * size[0]:.6g}"), _SQUARE_MM))
    if image.confidence is not None:
        found.append((CERTAINTY, round(100 * float(image.confidence), 1), _PERCENT))
    return [sr.Measurement(name=coded(name), value=value, unit=coded(unit)) for name, value, unit in found]


def segment_reference(segmentation: Dataset, source: Dataset, frame: int | None = None) -> SegmentReference:
    """Where a segmentation, just made or read from a file, holds the mask of ``source`` or of one of its frames."""
    identifiers = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(identifiers, keyword, segmentation[keyword].value)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    groups = segmentation.PerFrameFunctionalGroupsSequence
    frames: dict[int, int] = {}
    for number, group in enumerate(groups, start=1):
        described = group if "SegmentIdentificationSequence" in group else shared
        derived = (group if "DerivationImageSequence" in group else shared).DerivationImageSequence[0]
        origin = derived.SourceImageSequence[0]
        same_frame = frame is None or origin.get("ReferencedFrameNumber", frame) == frame
        if origin.ReferencedSOPInstanceUID == source.SOPInstanceUID and same_frame:
            frames[int(described.SegmentIdentificationSequence[0].ReferencedSegmentNumber)] = number
    return SegmentReference(identifiers, frames, len(groups) == len(segmentation.SegmentSequence))
