"""MONAI Label's folder of images, with labels checked when they arrive (runs in MONAI Label's environment)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import SimpleITK
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore

from blosam.dicom import ClinicalReader
from blosam.errors import BlosamError
from blosam.prepare.place import affine_of, same_place


class CheckedDatastore(LocalDatastore):
    """Refuses labels that no training could use, so that the annotator learns it while the image is open.

    Labels in NRRD, as some viewers send them, are kept as NIfTI.
    """

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image.

        Raises:
            BlosamError: when there is no image of that name; MONAI Label would go on with an empty path.
        """
        uri = super().get_image_uri(image_id)
        if not uri:
            raise BlosamError(f"{image_id}: no such image on this server. Choose one that it lists.")
        return uri

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Check a label against its image and keep it.

        Raises:
            BlosamError: when the label cannot be read or has another size than the image.
        """
        image = Path(self.get_image_uri(image_id))
        with tempfile.TemporaryDirectory() as folder:
            label = _readable(Path(label_filename), Path(folder))
            _check(image_id, image, label)
            return super().save_label(image_id, str(label), label_tag, label_info)


def _readable(label: Path, folder: Path) -> Path:
    """The label in a format that the reader knows."""
    if label.name.endswith(".seg.nrrd"):
        raise BlosamError(
            "label: .seg.nrrd is not accepted. Set MONAI Label's file extension to .nii.gz in 3D Slicer "
            "(Edit, Application Settings, MONAI Label)."
        )
    if label.suffix.lower() != ".nrrd":
        return label
    converted = folder / "label.nii.gz"
    try:
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(label)), str(converted))
    except RuntimeError as error:
        raise BlosamError("label: not a readable NRRD file. Save it again.") from error
    return converted


def _check(image_id: str, image: Path, label: Path) -> None:
    """Raise a :class:`BlosamError` unless the label can be read and lies on the grid of its image."""
    try:
        _, meta = ClinicalReader(mode="label", num_classes=None).get_data(str(label))
    except BlosamError as error:  # the path is one of the server's own
        raise BlosamError(str(error).replace(str(label), f"label of {image_id}")) from error
    _, expected = ClinicalReader().get_data(str(image))
    size, wanted = ([int(side) for side in found["spatial_shape"][:2]] for found in (meta, expected))
    if size != wanted:
        raise BlosamError(
            f"label of {image_id}: {size[0]} x {size[1]} pixels (columns x rows), but the image has "
            f"{wanted[0]} x {wanted[1]}. Draw the label on this image."
        )
    if not same_place(affine_of(image), affine_of(label), (wanted[1], wanted[0])):
        raise BlosamError(
            f"label of {image_id}: it lies elsewhere in space than the image, mirrored or shifted. Draw the label on "
            "this image."
        )


def refuse_labels(datastore: DICOMWebDatastore) -> DICOMWebDatastore:
    """A DICOMweb datastore that says that it keeps no labels, instead of failing halfway.

    MONAI Label keeps labels for images that it has converted to NIfTI, which loses what a radiograph's header says
    about its grey values and geometry.
    """

    def save_label(image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        raise BlosamError(
            "labels are not kept for images from DICOMweb. Save the images in a folder and start the server with "
            "--studies FOLDER to label and train; `blosam predict --format dicom-seg` writes DICOM SEG."
        )

    datastore.save_label = save_label
    return datastore
