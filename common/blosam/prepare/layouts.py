"""Which of the known arrangements of images and labels a folder is."""

from __future__ import annotations

from pathlib import Path

from pydicom.uid import UID

from blosam.data.datalist import is_image
from blosam.errors import BlosamError

from .found import Found
from .pairs import find_pairs, is_text
from .polygons import find_coco, find_labelme, is_coco, is_labelme, read_json
from .segobjects import SEGMENTATIONS, find_segmentations, sop_class


def find_labels(source: Path, images: Path | None = None, masks: Path | None = None) -> Found:
    """Find the labelled images of a folder.

    Args:
        source: the folder, or one COCO file.
        images: folder of the images, when it cannot be guessed.
        masks: folder of the masks; then only mask images are looked for.

    Raises:
        BlosamError: when the folder is missing, no labels are found, or two kinds of them.
    """
    if source.is_file():
        if not is_coco(read_json(source)):
            raise BlosamError(f"{source}: not a COCO file. Give the folder that holds images and labels.")
        return find_coco(source, images)
    if not source.is_dir():
        raise BlosamError(f"{source}: there is no such folder. Give the folder that holds images and labels.")
    if masks is not None:
        return find_pairs(source, images, masks)
    contents = {path: read_json(path) for path in sorted(source.rglob("*.json")) if path.is_file()}
    coco = [path for path, content in contents.items() if is_coco(content)]
    labelme = [path for path, content in contents.items() if is_labelme(content)]
    if len(coco) > 1 or (coco and labelme):
        names = ", ".join(path.name for path in [*coco, *labelme][:4])
        raise BlosamError(
            f"{source}: holds several annotation files ({names}). Name the one to use instead of the folder."
        )
    if coco:
        return find_coco(coco[0], images)
    if labelme:
        found = find_labelme(labelme, images)
        return _with_unlabelled(found, source, images)
    return _dicom_or_pairs(source, images)


def _dicom_or_pairs(source: Path, images: Path | None) -> Found:
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    classes = {path: sop_class(path) for path in files}
    segmentations = [path for path, uid in classes.items() if uid in SEGMENTATIONS]
    if segmentations:
        others = [path for path, uid in classes.items() if uid and uid not in SEGMENTATIONS]
        return find_segmentations([path for path in others if _may_be_image(classes[path])], segmentations)
    return find_pairs(source, images)


def _may_be_image(uid: str) -> bool:
    """Whether objects of a SOP class are images: reports and presentation states lie in the same folders."""
    name = UID(uid).name
    return "Image" in name or name == uid  # a class that pydicom does not know


def _with_unlabelled(found: Found, source: Path, images: Path | None) -> Found:
    """The images for which nobody has drawn anything yet."""
    known = {pair.image.resolve() for pair in found.labelled}
    files = [path for path in sorted((images or source).rglob("*")) if path.is_file() and not is_text(path)]
    found.unlabelled += [path for path in files if is_image(path) and path.resolve() not in known]
    return found
