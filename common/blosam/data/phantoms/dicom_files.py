"""Phantoms as DICOM objects: DX images for radiographs, VL Endoscopic images for colonoscopy frames; others on request.

All type 1 and type 2 attributes of the mandatory modules are set (DICOM PS3.3: A.2 CR, A.26 DX, A.28 intra-oral, A.8.1
secondary capture, A.32.1 VL endoscopic and A.32.4 VL photographic). Unique identifiers are derived from kind and seed,
so that files are reproducible.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    VLEndoscopicImageStorage,
    VLPhotographicImageStorage,
    generate_uid,
)

# Modality to SOP class. Panoramic images have the class of digital X-ray images.
RADIOGRAPHS = {
    "DX": DigitalXRayImageStorageForPresentation,
    "PX": DigitalXRayImageStorageForPresentation,
    "IO": DigitalIntraOralXRayImageStorageForPresentation,
    "CR": ComputedRadiographyImageStorage,
}
PHOTOGRAPHS = {"ES": VLEndoscopicImageStorage, "XC": VLPhotographicImageStorage}
SECONDARY_CAPTURE = "OT"

# Body part, and anatomic region as SNOMED CT code and meaning.
ANATOMY = {
    "chest": ("CHEST", "51185008", "Chest"),
    "dental": ("JAW", "661005", "Jaw region"),
    "colonoscopy": ("COLON", "71854001", "Colon"),
}


def save_dicom(
    path: Path,
    kind: str,
    seed: int,
    image: np.ndarray,
    spacing: float,
    photometric: str = "MONOCHROME2",
    modality: str | None = None,
) -> None:
    """Write one uncompressed DICOM file (Explicit VR Little Endian).

    Args:
        path: file to write.
        kind: "chest", "dental" (12 bits in 16) or "colonoscopy" (RGB, 8 bits).
        seed: patient number; identifiers derive from it.
        image: H x W or H x W x 3 in 0..1.
        spacing: millimetres per pixel at the detector (radiographs only).
        photometric: "MONOCHROME2" or "MONOCHROME1" (radiographs only): MONOCHROME1 stores the values inverted and
            looks the same.
        modality: "DX" (default), "PX", "IO" or "CR" for greyscale, "ES" (default) or "XC" for colour, "OT" for a
            secondary capture of either, without spacing.
    """
    dataset = _common(kind, seed)
    if image.ndim == 3:
        _add_colour(dataset, image, modality or "ES")
    else:
        _add_greyscale(dataset, image, photometric, modality or "DX")
        if modality != SECONDARY_CAPTURE:
            _add_radiograph(dataset, kind, spacing, photometric, modality or "DX")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)


def _common(kind: str, seed: int) -> Dataset:
    """Patient, study, series, equipment, general image and acquisition context."""
    dataset = Dataset()
    uids = [
        generate_uid(entropy_srcs=["blosam phantom", kind, str(seed), level]) for level in ("study", "series", "image")
    ]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = uids
    dataset.PatientName = f"Phantom^{kind.capitalize()}"
    dataset.PatientID = f"phantom-{kind}-{seed:06d}"
    dataset.PatientBirthDate, dataset.PatientSex = "", "O"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20000101"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "120000"
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20000101", "120000"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "", ""
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, 1
    dataset.StudyDescription = f"Synthetic {kind} phantom"
    dataset.Manufacturer, dataset.ManufacturerModelName = "blosam", "Phantom generator"
    dataset.AcquisitionContextSequence = []
    part, code, meaning = ANATOMY[kind]
    dataset.BodyPartExamined = part
    dataset.AnatomicRegionSequence = [_code(code, meaning)]
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    return dataset


def _code(value: str, meaning: str) -> Dataset:
    """A SNOMED CT concept."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _add_greyscale(dataset: Dataset, image: np.ndarray, photometric: str, modality: str) -> None:
    """Pixels, 12 bits in 16, and how they are shown."""
    stored = np.round(image * 4095).astype("<u2")
    dataset.Modality, dataset.ImageType = modality, ["ORIGINAL", "PRIMARY", ""]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = image.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = (4095 - stored if photometric == "MONOCHROME1" else stored).astype("<u2").tobytes()
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    if modality == SECONDARY_CAPTURE:
        _add_secondary_capture(dataset)


def _add_radiograph(dataset: Dataset, kind: str, spacing: float, photometric: str, modality: str) -> None:
    """DX (or CR) series, anatomy, image, detector, positioning and VOI modules."""
    inverted = photometric == "MONOCHROME1"
    dataset.SOPClassUID = RADIOGRAPHS[modality]
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImagerPixelSpacing = [f"{spacing:.6f}"] * 2
    if kind == "chest":
        dataset.ViewPosition = "PA"
    if modality == "CR":
        dataset.ViewPosition = dataset.get("ViewPosition", "")
        return
    dataset.PixelSpacing = dataset.ImagerPixelSpacing
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageLaterality, dataset.PositionerType = "U", ""
    if modality == "IO":
        dataset.ImageLaterality, dataset.PositionerType = "R", "NONE"
        dataset.PrimaryAnatomicStructureSequence = [_code("38199008", "Tooth")]
    # Bright means little radiation: the sign says how stored values follow the intensity at the detector.
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1 if inverted else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.DetectorType = ""


def _add_secondary_capture(dataset: Dataset) -> None:
    """SC equipment and image: a picture of which nothing is known but its pixels."""
    dataset.SOPClassUID, dataset.ConversionType = SecondaryCaptureImageStorage, "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.PatientOrientation = ""


def _add_colour(dataset: Dataset, image: np.ndarray, modality: str) -> None:
    """VL image module: RGB, colour by pixel."""
    dataset.Modality, dataset.ImageType = modality, ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation = ""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = image.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    pixels = np.round(image * 255).astype(np.uint8).tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    if modality == SECONDARY_CAPTURE:
        _add_secondary_capture(dataset)
    else:
        dataset.SOPClassUID = PHOTOGRAPHS[modality]
