"""DICOM Segmentations: valid for dciodvfy, and read back by programs from elsewhere exactly as they were written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.uid import JPEGBaseline8Bit

from blosam.dicom.codes import segment_codes
from blosam.dicom.pixels import read_dicom
from blosam.dicom.seg import Algorithm, segmentation, write_dicom
from blosam.errors import BlosamError

ALGORITHM = Algorithm("blosam_lung", "0.1.0", "c0ffee")
LABELS = {"lung": 1, "my class": 2}
CODES = segment_codes({}, LABELS)
OBJECTS = [
    ("chest", "DX", "MONOCHROME2"),
    ("chest", "DX", "MONOCHROME1"),
    ("chest", "CR", "MONOCHROME2"),
    ("dental", "PX", "MONOCHROME1"),
    ("dental", "IO", "MONOCHROME2"),
    ("chest", "OT", "MONOCHROME2"),
    ("colonoscopy", "ES", "RGB"),
    ("colonoscopy", "XC", "RGB"),
    ("colonoscopy", "OT", "RGB"),
]
# Direction cosines of rows and columns.
ORIENTATIONS = {
    "axial": [1, 0, 0, 0, 1, 0],
    "axial, columns flipped": [-1, 0, 0, 0, 1, 0],
    "axial, rows flipped": [1, 0, 0, 0, -1, 0],
    "axial, upside down": [-1, 0, 0, 0, -1, 0],
    "coronal": [1, 0, 0, 0, 0, -1],
    "sagittal": [0, 1, 0, 0, 0, -1],
    "transposed": [0, 1, 0, 1, 0, 0],
    "oblique": [0.8, 0.6, 0, -0.36, 0.48, 0.8],
}
PLANE = {"FrameOfReferenceUID": "1.2.3.4", "ImagePositionPatient": [10, -20, 30], "SliceThickness": 2.5}


@pytest.fixture
def segimage2itkimage(tmp_path):
    """Function (path of a segmentation) -> one ITK image per segment, by dcmqi."""

    def convert(path: Path) -> list[SimpleITK.Image]:
        folder = tmp_path / "dcmqi"
        folder.mkdir()
        program = Path(sys.prefix) / "bin" / "segimage2itkimage"
        command = [program, "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return [SimpleITK.ReadImage(file) for file in sorted(folder.glob("*.nrrd"), key=lambda file: int(file.stem))]

    return convert


@pytest.fixture
def slices(source_header):
    """Function (orientation, count) -> headers of CT slices 2.5 mm apart, the middle one first."""

    def make(orientation: str, count: int) -> list[pydicom.Dataset]:
        cosines = ORIENTATIONS[orientation]
        normal = np.cross(cosines[:3], cosines[3:])
        headers = []
        for number in range(count):
            header = source_header(**PLANE, ImageOrientationPatient=cosines, PixelSpacing=[1.5, 0.75])
            header.SOPClassUID, header.Modality = "1.2.840.10008.5.1.4.1.1.2", "CT"
            header.SOPInstanceUID, header.InstanceNumber = f"1.2.3.5.{number + 1}", number + 1
            position = np.asarray(PLANE["ImagePositionPatient"]) + 2.5 * number * normal
            header.ImagePositionPatient = [round(float(value), 6) for value in position]
            headers.append(header)
        return headers[1:2] + headers[:1] + headers[2:]

    return make


def values_at(image: SimpleITK.Image, header: pydicom.Dataset) -> np.ndarray:
    """Values of an ITK image at the places in the patient where the pixels of the source lie."""
    position, cosines = (
        np.asarray(header.ImagePositionPatient, float),
        np.asarray(header.ImageOrientationPatient, float),
    )
    row, column = np.mgrid[: header.Rows, : header.Columns]
    across, down = (float(value) for value in header.PixelSpacing[::-1])
    places = position + column[..., None] * across * cosines[:3] + row[..., None] * down * cosines[3:]
    matrix = np.asarray(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    index = (places - image.GetOrigin()) @ np.linalg.inv(matrix).T
    whole = np.rint(index).astype(int)
    assert np.abs(index - whole).max() < 1e-2  # on the grid, not between its points
    return SimpleITK.GetArrayFromImage(image)[whole[..., 2], whole[..., 1], whole[..., 0]]


@pytest.mark.parametrize(("kind", "modality", "photometric"), OBJECTS)
def test_a_binary_segmentation_is_valid_and_reads_back(
    source_header, asymmetric_mask, dciodvfy, tmp_path, kind, modality, photometric
):
    header = source_header(kind, modality, photometric)
    mask = asymmetric_mask(header.Rows, header.Columns, 2)
    path = tmp_path / "seg.dcm"
    write_dicom(segmentation([header], mask, CODES, ALGORITHM), path)
    assert dciodvfy(path) == []
    wanted = np.stack([mask == 1, mask == 2])
    read = pydicom.dcmread(path)
    np.testing.assert_array_equal(read.pixel_array, wanted)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)) > 0, wanted)
    by_source = highdicom.seg.segread(path).get_pixels_by_source_instance([header.SOPInstanceUID])
    np.testing.assert_array_equal(by_source[0], np.moveaxis(wanted, 0, -1))
    assert read.StudyInstanceUID == header.StudyInstanceUID and read.SeriesInstanceUID != header.SeriesInstanceUID
    for reference in (read.SourceImageSequence[0], read.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]):
        assert reference.ReferencedSOPClassUID == header.SOPClassUID
        assert reference.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert read.ReferencedSeriesSequence[0].SeriesInstanceUID == header.SeriesInstanceUID
    assert (
        "FrameOfReferenceUID" not in read and "PlaneOrientationSequence" not in read.SharedFunctionalGroupsSequence[0]
    )


@pytest.mark.parametrize(("kind", "modality"), [("chest", "DX"), ("colonoscopy", "ES")])
def test_probabilities_are_kept_in_8_bits(source_header, asymmetric_mask, dciodvfy, tmp_path, kind, modality):
    header = source_header(kind, modality)
    mask = asymmetric_mask(header.Rows, header.Columns, 2)
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], mask.shape).astype(np.float32).transpose(2, 0, 1)
    path = tmp_path / "seg.dcm"
    write_dicom(segmentation([header], mask, CODES, ALGORITHM, probability=shares), path)
    assert dciodvfy(path) == []
    read = pydicom.dcmread(path)
    assert (read.SegmentationType, read.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert read.MaximumFractionalValue == 255
    np.testing.assert_array_equal(read.pixel_array, np.rint(shares[1:] * 255))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)), np.rint(shares[1:] * 255))


@pytest.mark.parametrize("fractional", [False, True])
def test_empty_segments_are_kept(source_header, dciodvfy, tmp_path, fractional):
    header = source_header()
    mask = np.zeros((header.Rows, header.Columns), np.uint8)
    shares = np.stack([np.ones(mask.shape), np.zeros(mask.shape), np.zeros(mask.shape)]) if fractional else None
    write_dicom(segmentation([header], mask, CODES, ALGORITHM, probability=shares), tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in read.SegmentSequence] == ["lung", "my class"]
    assert read.pixel_array.shape == (2, *mask.shape) and not read.pixel_array.any()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mask_lies_in_the_patient_where_its_image_lies(
    slices, asymmetric_mask, dciodvfy, segimage2itkimage, tmp_path, orientation
):
    headers = slices(orientation, 3)
    single = asymmetric_mask(headers[0].Rows, headers[0].Columns)
    mask = np.stack([np.roll(single, 3 * number, axis=0) for number in range(3)])
    path = tmp_path / "seg.dcm"
    write_dicom(segmentation(headers, mask, CODES[:1], ALGORITHM), path)
    assert dciodvfy(path) == []
    (converted,) = segimage2itkimage(path)
    for image in (converted, SimpleITK.ReadImage(path)):
        for header, part in zip(headers, mask, strict=True):
            np.testing.assert_array_equal(values_at(image, header) > 0, part)
    read = pydicom.dcmread(path)
    assert read.FrameOfReferenceUID == PLANE["FrameOfReferenceUID"]
    by_source = highdicom.seg.segread(path).get_pixels_by_source_instance([h.SOPInstanceUID for h in headers])
    np.testing.assert_array_equal(by_source[..., 0], mask)


def test_a_single_image_with_a_place_keeps_it(source_header, asymmetric_mask, dciodvfy, segimage2itkimage, tmp_path):
    header = source_header(**PLANE, ImageOrientationPatient=ORIENTATIONS["oblique"])
    mask = asymmetric_mask(header.Rows, header.Columns, 2)
    write_dicom(segmentation([header], mask, CODES, ALGORITHM), tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    for value, image in enumerate(segimage2itkimage(tmp_path / "seg.dcm"), start=1):
        np.testing.assert_array_equal(values_at(image, header) > 0, mask == value)


def test_a_multi_frame_image_with_a_frame_of_reference(slices, asymmetric_mask, dciodvfy, segimage2itkimage, tmp_path):
    originals = slices("coronal", 3)
    for header in originals:
        header.ImageType, header.AcquisitionNumber, header.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], 1, 120
        header.RescaleType, header.PixelData = "HU", bytes(header.Rows * header.Columns * 2)
        header["PixelData"].VR, header.PositionReferenceIndicator = "OW", ""
    source = LegacyConvertedEnhancedCTImage(originals, "1.2.3.9", 9, "1.2.3.9.1", 1)
    positions = [group.PlanePositionSequence[0] for group in source.PerFrameFunctionalGroupsSequence]
    single = asymmetric_mask(source.Rows, source.Columns)
    mask = np.stack([np.roll(single, 3 * number, axis=1) for number in range(3)])
    write_dicom(segmentation([source], mask, CODES[:1], ALGORITHM), tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    (image,) = segimage2itkimage(tmp_path / "seg.dcm")
    for position, part in zip(positions, mask, strict=True):
        originals[0].ImagePositionPatient = position.ImagePositionPatient
        np.testing.assert_array_equal(values_at(image, originals[0]) > 0, part)


@pytest.mark.parametrize(("kind", "modality", "photometric"), OBJECTS[:2] + OBJECTS[6:7])
def test_from_the_pixels_read_to_the_pixels_written(source_header, tmp_path, kind, modality, photometric, half_bright):
    """A mask drawn from what our reader shows covers the bright pixels of the source, not their mirror image."""
    header = source_header(kind, modality, photometric)
    source = pydicom.dcmread(header.filename)
    bright = half_bright(source.Rows, source.Columns) > 200
    values = np.where(bright ^ (photometric == "MONOCHROME1"), 250, 20)
    stored = np.repeat(values[..., None], 3, 2).astype("u1") if kind == "colonoscopy" else values.astype("<u2")
    source.PixelData = stored.tobytes()
    source.save_as(tmp_path / "bright.dcm")
    picture = read_dicom(tmp_path / "bright.dcm")
    shown = picture.unit_range()
    shown = (shown[..., 0] if shown.ndim == 3 else shown).T
    mask = (shown > (shown.min() + shown.max()) / 2).astype(np.uint8)
    write_dicom(segmentation([source], mask, CODES[:1], ALGORITHM), tmp_path / "seg.dcm")
    np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "seg.dcm").pixel_array > 0, bright)


def test_who_made_it_is_a_program_and_no_person(source_header):
    header = source_header()
    mask = np.zeros((header.Rows, header.Columns), np.uint8)
    result = segmentation([header], mask, CODES, ALGORITHM, description="needs review")
    assert result.ContentCreatorName == "" and "OperatorsName" not in result
    assert (result.ManufacturerModelName, result.DeviceSerialNumber) == ("blosam_lung", "c0ffee")
    assert list(result.SoftwareVersions)[1] == "bundle 0.1.0"
    assert result.SeriesDescription == "Segmentation by blosam_lung - needs review"
    assert (result.SeriesNumber, result.InstanceNumber) == (1000 + header.SeriesNumber, 1)
    assert (result.BurnedInAnnotation, result.RecognizableVisualFeatures) == ("NO", "NO")
    identification = result.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert identification.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("blosam_lung", "0.1.0")
    assert len(result.SegmentSequence[0].RecommendedDisplayCIELabValue) == 3
    assert result.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99BLOSAM"
    assert "CodingSchemeIdentificationSequence" not in segmentation([header], mask, CODES[:1], ALGORITHM)


def test_modifiers_are_written(source_header, dciodvfy, tmp_path):
    header = source_header()
    codes = segment_codes({}, {"right lung": 1})
    write_dicom(
        segmentation([header], np.zeros((header.Rows, header.Columns), np.uint8), codes, ALGORITHM), tmp_path / "s.dcm"
    )
    assert dciodvfy(tmp_path / "s.dcm") == []
    kind = pydicom.dcmread(tmp_path / "s.dcm").SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"


def test_identifiers_can_be_given(source_header):
    header = source_header()
    mask = np.zeros((header.Rows, header.Columns), np.uint8)
    given = {"series_instance_uid": "2.25.1", "sop_instance_uid": "2.25.2", "instance_number": 7}
    result = segmentation([header], mask, CODES, ALGORITHM, **given)
    assert (result.SeriesInstanceUID, result.SOPInstanceUID, result.InstanceNumber) == ("2.25.1", "2.25.2", 7)
    others = [segmentation([header], mask, CODES, ALGORITHM) for _ in range(2)]
    assert others[0].SOPInstanceUID != others[1].SOPInstanceUID


@pytest.mark.parametrize("orientation", [None, ["L"], "PA", ["L", "F"]])
def test_patient_orientation_is_copied_or_empty_but_there(source_header, dciodvfy, tmp_path, orientation):
    header = source_header(PatientOrientation=orientation)
    mask = np.zeros((header.Rows, header.Columns), np.uint8)
    write_dicom(segmentation([header], mask, CODES, ALGORITHM), tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    assert (pydicom.dcmread(tmp_path / "seg.dcm").PatientOrientation or None) == (
        orientation if orientation == ["L", "F"] else None
    )


def test_lossy_compression_is_passed_on(source_header):
    header = source_header(LossyImageCompression="00")
    mask = np.zeros((header.Rows, header.Columns), np.uint8)
    assert segmentation([header], mask, CODES, ALGORITHM).LossyImageCompression == "00"
    header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert segmentation([header], mask, CODES, ALGORITHM).LossyImageCompression == "01"


def test_frames_without_a_place_are_refused(source_header):
    header = source_header(NumberOfFrames=5)
    mask = np.zeros((5, header.Rows, header.Columns), np.uint8)
    with pytest.raises(BlosamError, match=r"5 frames.*FrameOfReferenceUID.*image object of its own"):
        segmentation([header], mask, CODES, ALGORITHM)
    video = source_header("colonoscopy", "ES", SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.1.1", NumberOfFrames=1)
    with pytest.raises(BlosamError, match=r"multi-frame kind \(1 frame\)"):
        segmentation([video], np.zeros((video.Rows, video.Columns), np.uint8), CODES, ALGORITHM)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FrameOfReferenceUID": None}, "lacks FrameOfReferenceUID"),
        ({"SliceThickness": None}, "lacks .*SliceThickness"),
        ({"SeriesInstanceUID": "1.2.3.77"}, "differ in SeriesInstanceUID"),
        ({"FrameOfReferenceUID": "1.2.3.77"}, "differ in FrameOfReferenceUID"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "differ in ImageOrientationPatient"),
        ({"PixelSpacing": [2, 2]}, "differ in PixelSpacing"),
        ({"Columns": 17}, "differ in Columns"),
        ({"NumberOfFrames": 2}, "one of several source images is multi-frame"),
        ({"SOPInstanceUID": "1.2.3.5.2"}, "given twice"),
    ],
)
def test_images_that_do_not_fit_together_are_refused(slices, changes, message):
    headers = slices("axial", 2)
    for header in headers:
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    for keyword, value in changes.items():
        setattr(headers[1], keyword, value) if value is not None else delattr(headers[1], keyword)
    mask = np.zeros((2, headers[0].Rows, headers[0].Columns), np.uint8)
    with pytest.raises(BlosamError, match=message):
        segmentation(headers, mask, CODES, ALGORITHM)


def test_a_ct_without_a_place_is_refused(slices):
    (header,) = slices("axial", 1)
    del header.ImagePositionPatient
    with pytest.raises(BlosamError, match="CT Image Storage, lacks FrameOfReferenceUID, ImagePositionPatient"):
        segmentation([header], np.zeros((header.Rows, header.Columns), np.uint8), CODES, ALGORITHM)


def test_a_mask_that_does_not_fit_is_a_mistake_of_the_caller(source_header):
    header = source_header()
    shape = (header.Rows, header.Columns)
    with pytest.raises(ValueError, match="the source has frames x rows x columns"):
        segmentation([header], np.zeros(shape[::-1], np.uint8), CODES, ALGORITHM)
    with pytest.raises(ValueError, match="integers 0 to 2"):
        segmentation([header], np.full(shape, 3, np.uint8), CODES, ALGORITHM)
    for wrong in (np.zeros((2, *shape)), np.full((3, *shape), 1.5), np.full((3, *shape), np.nan)):
        with pytest.raises(ValueError, match="probabilities"):
            segmentation([header], np.zeros(shape, np.uint8), CODES, ALGORITHM, probability=wrong)
