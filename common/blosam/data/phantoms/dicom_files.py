"""Phantoms as DICOM objects: DX images for radiographs, VL Endoscopic images for colonoscopy frames.

All type 1 and type 2 attributes of the mandatory modules are set (DICOM PS3.3, A.26 Digital X-Ray Image IOD and
A.32.1 VL Endoscopic Image IOD). Unique identifiers are derived from kind and seed, so that files are reproducible.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    VLEndoscopicImageStorage,
    generate_uid,
)

# Body part, and anatomic region as SNOMED CT code and meaning.
ANATOMY = {
    "chest": ("CHEST", "51185008", "Chest"),
    "dental": ("JAW", "661005", "Jaw region"),
    "colonoscopy": ("COLON", "71854001", "Colon"),
}


def save_dicom(
    path: Path, kind: str, seed: int, image: np.ndarray, spacing: float, photometric: str = "MONOCHROME2"
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
    """
    dataset = _common(kind, seed)
    if image.ndim == 3:
        _add_endoscopy(dataset, image)
    else:
        _add_radiograph(dataset, kind, image, spacing, photometric)
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
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = code, "SCT", meaning
    dataset.BodyPartExamined = part
    dataset.AnatomicRegionSequence = [region]
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    return dataset


def _add_radiograph(dataset: Dataset, kind: str, image: np.ndarray, spacing: float, photometric: str) -> None:
    """DX series, anatomy, image, detector, positioning and VOI modules."""
    inverted = photometric == "MONOCHROME1"
    stored = np.round(image * 4095).astype("<u2")
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.Modality, dataset.PresentationIntentType = "DX", "FOR PRESENTATION"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.ImageLaterality, dataset.PatientOrientation = "U", ["L", "F"]
    if kind == "chest":
        dataset.ViewPosition = "PA"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = image.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    # Bright means little radiation: the sign says how stored values follow the intensity at the detector.
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1 if inverted else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.DetectorType = ""
    dataset.ImagerPixelSpacing = dataset.PixelSpacing = [f"{spacing:.6f}"] * 2
    dataset.PixelData = (4095 - stored if inverted else stored).astype("<u2").tobytes()


def _add_endoscopy(dataset: Dataset, image: np.ndarray) -> None:
    """VL image module: RGB, colour by pixel."""
    dataset.SOPClassUID = VLEndoscopicImageStorage
    dataset.Modality, dataset.ImageType = "ES", ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation = ""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = image.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    pixels = np.round(image * 255).astype(np.uint8).tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
