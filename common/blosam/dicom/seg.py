"""Masks as DICOM Segmentation objects (PS3.3 A.51), on the pixel grid of their source images.

One object covers one image, or a series of single-frame images that share a frame of reference, or one multi-frame
image with a frame of reference. Every class is described and every frame stored, empty ones too: "looked, found
nothing" is a result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from blosam.dicom.codes import Concept, SegmentCode, clean_text
from blosam.dicom.derived import (
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
from blosam.dicom.source import character_set, prepare
from blosam.errors import BlosamError

__all__ = ["Algorithm", "segmentation", "write_dicom"]

_SERIES_BASE = 1000
_PLANE = "FrameOfReferenceUID, ImagePositionPatient, ImageOrientationPatient, PixelSpacing or SliceThickness"
_ALWAYS_PLACED = ("CT ", "MR ", "Positron")  # kinds of images that must lie in a frame of reference
_MULTI_FRAME = ("Multi-frame", "Video", "Enhanced", "Tomosynthesis", "3D", "Whole Slide")
_MISFITS = (ValueError, TypeError, AttributeError, KeyError, IndexError)  # what highdicom raises for odd headers


def segmentation(
    sources: Sequence[Dataset],
    mask: np.ndarray,
    codes: Sequence[SegmentCode],
    algorithm: Algorithm,
    *,
    probability: np.ndarray | None = None,
    description: str = "",
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    instance_number: int = 1,
) -> Dataset:
    """Make a DICOM Segmentation.

    Args:
        sources: header of one image, or of several single-frame images of one series with the same size, orientation
            and frame of reference; pixel data are not needed.
        mask: Rows x Columns, or Frames x Rows x Columns for several frames, in the order of the sources; values 0
            (background) and the classes' numbers.
        codes: the classes, numbered 1..K.
        algorithm: the model.
        probability: (K+1) x Rows x Columns, or Frames x (K+1) x Rows x Columns, in [0, 1], background first. When
            given, a fractional segmentation of probabilities in 8 bits is made instead of a binary one.
        description: added to the series description, e.g. "needs review".
        series_instance_uid: of the new series; several objects may share it. By default a new one.
        sop_instance_uid: of the new object. By default a new one.
        instance_number: in the series.

    Returns:
        A ``highdicom.seg.Segmentation``, to be written with :func:`write_dicom`.

    Raises:
        BlosamError: when highdicom is not installed, a source lacks what a segmentation must refer to, or the sources
            cannot be put into one object. Attributes are named, their values never.
        ValueError: when ``mask`` or ``probability`` do not have the described shape or values.
    """
    require_highdicom()
    from highdicom.seg import Segmentation, SegmentationTypeValues

    headers = [prepare(source) for source in sources]
    _check_sources(headers)
    if "FrameOfReferenceUID" not in headers[0] and "PixelSpacing" in headers[0]:
        # A pixel size in a plane of no orientation is an error for every program built on GDCM (ITK, SimpleITK).
        del headers[0].PixelSpacing
    pixels = _pixels(headers, mask, codes, probability)
    kind = SegmentationTypeValues.BINARY if probability is None else SegmentationTypeValues.FRACTIONAL
    label = "SEGMENTATION" if probability is None else "PROBABILITY"
    try:
        with quiet():
            result = Segmentation(
                source_images=headers,
                pixel_array=pixels,
                segmentation_type=kind,
                segment_descriptions=[_describe(code, algorithm) for code in codes],
                series_instance_uid=series_instance_uid or new_uid(),
                series_number=series_number(headers[0], _SERIES_BASE),
                sop_instance_uid=sop_instance_uid or new_uid(),
                instance_number=instance_number,
                omit_empty_frames=False,
                content_label=label,
                content_description=clean_text(f"{', '.join(code.name for code in codes)} by {algorithm.name}"),
                series_description=series_description("Segmentation", algorithm, description),
                coding_schemes=coding_schemes() if any(code.is_local for code in codes) else None,
                **equipment(algorithm),
            )
            _complete(result, headers[0])
            charset = character_set(sources[0], headers[0], own_texts(codes, algorithm, description))
    except _MISFITS as error:
        if isinstance(error, BlosamError):
            raise
        raise BlosamError(
            f"the header of the source image does not allow a DICOM segmentation ({type(error).__name__} while it was "
            "made). Check the image with dciodvfy, or choose another output format."
        ) from error
    if charset is not None:
        result.SpecificCharacterSet = charset
    return result


def _check_sources(headers: Sequence[Dataset]) -> None:
    """Refuse what one segmentation cannot cover, in the user's words."""
    if not headers:
        raise ValueError("at least one source image is needed")
    first = headers[0]
    frames = int(first.get("NumberOfFrames") or 1)
    kind = UID(first.SOPClassUID).name
    if "FrameOfReferenceUID" not in first and kind.startswith(_ALWAYS_PLACED):
        raise BlosamError(f"the source image, {kind}, lacks {_PLANE}, which its kind must have. Mend its header.")
    multi_frame = frames > 1 or any(word in kind for word in _MULTI_FRAME)
    if len(headers) == 1 and multi_frame and "FrameOfReferenceUID" not in first:
        raise BlosamError(
            f"the source image is of a multi-frame kind ({frames} frame{'s' * (frames > 1)}) and does not say where "
            "its frames lie (FrameOfReferenceUID, plane position and orientation), without which a DICOM segmentation "
            "cannot refer to them. Store each frame as an image object of its own, or choose another output format."
        )
    if len(headers) > 1:
        _check_series(headers)


def _check_series(headers: Sequence[Dataset]) -> None:
    """Refuse single-frame images that do not lie in one frame of reference on one grid."""
    first = headers[0]
    for header in headers:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise BlosamError("one of several source images is multi-frame. Make one segmentation per image.")
        if "FrameOfReferenceUID" not in header:
            raise BlosamError(
                f"a source image lacks {_PLANE}, which several images in one segmentation need. "
                "Make one segmentation per image."
            )
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
            if header[keyword].value != first[keyword].value:
                raise BlosamError(f"the source images differ in {keyword}. Make one segmentation per image.")
        for keyword in ("ImageOrientationPatient", "PixelSpacing"):
            if not np.allclose(header[keyword].value, first[keyword].value, atol=1e-4):
                raise BlosamError(f"the source images differ in {keyword}. Make one segmentation per image.")
        header.ImageOrientationPatient = first.ImageOrientationPatient  # highdicom compares digit by digit
    if len({str(header.SOPInstanceUID) for header in headers}) < len(headers):
        raise BlosamError("a source image is given twice (SOPInstanceUID). Give each image once.")


def _pixels(
    headers: Sequence[Dataset], mask: np.ndarray, codes: Sequence[SegmentCode], probability: np.ndarray | None
) -> np.ndarray:
    """Frames x Rows x Columns labels, or Frames x Rows x Columns x K probabilities.

    Raises:
        ValueError: when shapes or values do not fit.
    """
    first = headers[0]
    frames = len(headers) if len(headers) > 1 else int(first.get("NumberOfFrames") or 1)
    grid = (frames, int(first.Rows), int(first.Columns))
    if [code.number for code in codes] != list(range(1, len(codes) + 1)):
        raise ValueError(f"the classes must be numbered 1..K, not {[code.number for code in codes]}")
    labels = np.asarray(mask)
    labels = labels[None] if labels.ndim == 2 else labels
    if labels.shape != grid:
        raise ValueError(f"the mask is {labels.shape}, but the source has frames x rows x columns = {grid}")
    if labels.dtype.kind not in "bui" or labels.min() < 0 or labels.max() > len(codes):
        raise ValueError(f"the mask must hold integers 0 to {len(codes)}")
    if probability is None:
        return labels.astype(np.uint8 if len(codes) < 256 else np.uint16)
    shares = np.asarray(probability, dtype=np.float32)
    shares = shares[None] if shares.ndim == 3 else shares
    if shares.shape != (frames, len(codes) + 1, *grid[1:]):
        raise ValueError(f"the probabilities are {shares.shape}, not frames x (K+1) x rows x columns")
    if not (np.isfinite(shares).all() and shares.min() >= -1e-4 and shares.max() <= 1 + 1e-4):
        raise ValueError("the probabilities must lie in [0, 1]")
    return np.ascontiguousarray(np.moveaxis(shares[:, 1:], 1, -1).clip(0, 1))


def _describe(code: SegmentCode, algorithm: Algorithm) -> Dataset:
    """An item of the Segment Sequence."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription

    item = SegmentDescription(
        segment_number=code.number,
        segment_label=clean_text(code.name) or f"class {code.number}",
        segmented_property_category=coded(code.category),
        segmented_property_type=coded(code.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=clean_text(algorithm.name),
            version=clean_text(algorithm.version),
            family=coded(Concept("123110", "DCM", "Artificial Intelligence")),  # CID 7162
            source="blosam",
        ),
        display_color=CIELabColor.from_rgb(*code.colour),
    )
    if code.modifiers:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(modifier) for modifier in code.modifiers]
    return item


def _complete(result: Dataset, header: Dataset) -> None:
    """Attributes that highdicom leaves to the caller."""
    result.ContentCreatorName = ""  # type 2; no person made this
    result.BurnedInAnnotation = result.RecognizableVisualFeatures = "NO"
    if "ImageOrientationPatient" not in header:
        # Required where no plane orientation is given (PS3.3 C.7.6.1.1.1); zero length = unknown.
        result.PatientOrientation = header.get("PatientOrientation", "")
