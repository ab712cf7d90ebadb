"""COCO and LabelMe annotations; polygons become masks through pycocotools, the reference implementation of COCO."""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blosam.errors import BlosamError

from .found import Found, Labelled, Layers, Problem

_CIRCLE_CORNERS = 72


def read_json(path: Path) -> Any:
    """Content of a JSON file, or None when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None


def is_coco(content: Any) -> bool:
    """Whether this is a COCO instance annotation file."""
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def is_labelme(content: Any) -> bool:
    """Whether this is a LabelMe file."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


# --- COCO ---------------------------------------------------------------------------------------------------------


def find_coco(path: Path, images: Path | None = None) -> Found:
    """Images of a COCO file; its categories, in the order of their ids, are the classes.

    Args:
        path: the annotation file.
        images: folder of the images; by default that of the file, its ``images/``, or the same beside it.

    Raises:
        BlosamError: when pycocotools is not installed or the file is broken.
    """
    coco = _load_coco(path)
    found = Found(f"COCO annotations in {path.name}")
    names = {c["id"]: str(c["name"]) for c in sorted(coco.dataset["categories"], key=lambda c: c["id"])}
    found.classes = list(names.values())
    folders = [images] if images else [path.parent, path.parent / "images", path.parent.parent / "images"]
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in coco.dataset["annotations"]:
        by_image.setdefault(annotation.get("image_id"), []).append(annotation)
    for record in coco.dataset["images"]:
        name = str(record.get("file_name", ""))
        image = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if image is None:
            found.problems.append(Problem(path, f"the image {name} does not exist. Name its folder with --images."))
            continue
        annotations = by_image.get(record["id"], [])
        if not annotations:
            found.unlabelled.append(image)
            continue
        read = functools.partial(_coco_layers, coco, record, annotations, names, path)
        found.labelled.append(Labelled(image, path, read))
    return found


def _load_coco(path: Path) -> Any:
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise BlosamError(
            f"{path}: polygons need pycocotools. Install it with: pip install 'blosam[prepare]'"
        ) from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
            return COCO(str(path))
    except (KeyError, TypeError, AssertionError) as error:
        raise BlosamError(f"{path}: not a complete COCO file ({error!r}). Export it again.") from error


def _coco_layers(
    coco: Any,
    record: dict[str, Any],
    annotations: list[dict[str, Any]],
    names: dict[int, str],
    path: Path,
    shape: tuple[int, int],
) -> Layers:
    """Masks of one image by class; objects of a class are united, crowds included."""
    size = (record.get("height"), record.get("width"))
    if size != shape:
        raise BlosamError(
            f"{path}: says that {record['file_name']} is {size[1]} x {size[0]} pixels, but the file is {shape[1]} x "
            f"{shape[0]}. Export the annotations again for this image."
        )
    layers: Layers = {}
    for annotation in annotations:
        name = names.get(annotation.get("category_id"))
        if name is None:
            raise BlosamError(
                f"{path}: an annotation of {record['file_name']} has the unknown category "
                f"{annotation.get('category_id')}. Add it to 'categories'."
            )
        if not annotation.get("segmentation"):
            raise BlosamError(
                f"{path}: an annotation of {record['file_name']} is only a box. Outline the object with a polygon."
            )
        try:
            mask = coco.annToMask(annotation).astype(bool)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise BlosamError(
                f"{path}: a polygon of {record['file_name']} is broken ({error}). Draw it again."
            ) from error
        layers[name] = layers.get(name, np.zeros(shape, bool)) | mask
    return {name: layers[name] for name in names.values() if name in layers}


# --- LabelMe ------------------------------------------------------------------------------------------------------


def find_labelme(files: list[Path], images: Path | None = None) -> Found:
    """Images of LabelMe files, one file an image; the labels, sorted by name, are the classes.

    Args:
        files: the annotation files.
        images: folder of the images; by default what ``imagePath`` says.
    """
    found = Found("LabelMe annotations")
    classes: set[str] = set()
    for path in files:
        content = read_json(path)
        name = Path(str(content["imagePath"]).replace("\\", "/"))
        image = images / name.name if images else path.parent / name
        if not image.is_file():
            image = path.parent / name.name  # the drawing was made elsewhere
        if not image.is_file():
            found.problems.append(Problem(path, f"its image {name.name} does not exist. Add it, or name --images."))
            continue
        classes |= {str(shape.get("label")) for shape in content["shapes"]}
        found.labelled.append(Labelled(image, path, functools.partial(_labelme_layers, path, content)))
    found.classes = sorted(classes)
    return found


def _labelme_layers(path: Path, content: dict[str, Any], shape: tuple[int, int]) -> Layers:
    size = (content.get("imageHeight"), content.get("imageWidth"))
    if None not in size and size != shape:
        raise BlosamError(
            f"{path}: was drawn on {size[1]} x {size[0]} pixels, but the image is {shape[1]} x {shape[0]}. "
            "Draw it again."
        )
    layers: Layers = {}
    for drawn in content["shapes"]:
        name = str(drawn.get("label"))
        mask = _labelme_mask(path, drawn, shape)
        layers[name] = layers.get(name, np.zeros(shape, bool)) | mask
    return {name: layers[name] for name in sorted(layers)}


def _labelme_mask(path: Path, drawn: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """One shape as Rows x Columns bool."""
    kind = drawn.get("shape_type") or "polygon"
    try:
        points = [(float(x), float(y)) for x, y in drawn["points"]]
        if kind == "mask":
            return _pasted(drawn["mask"], points, shape)
        if kind == "polygon" and len(points) >= 3:
            return polygon_mask(points, shape)
        if kind == "rectangle" and len(points) == 2:
            (x0, y0), (x1, y1) = points
            return polygon_mask([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], shape)
        if kind == "circle" and len(points) == 2:
            return polygon_mask(_circle(*points), shape)
    except (KeyError, TypeError, ValueError, OSError, binascii.Error) as error:
        raise BlosamError(f"{path}: the {kind} '{drawn.get('label')}' is broken ({error}). Draw it again.") from error
    raise BlosamError(
        f"{path}: the {kind} '{drawn.get('label')}' with {len(points)} points encloses no area. "
        "Use a polygon, rectangle, circle or mask."
    )


def polygon_mask(points: list[tuple[float, float]], shape: tuple[int, int]) -> np.ndarray:
    """A closed polygon as Rows x Columns bool.

    Args:
        points: corners (x, y) in pixels; (0, 0) is the outer corner of the first pixel.
        shape: (rows, columns).

    Raises:
        BlosamError: when pycocotools is not installed.
    """
    try:
        from pycocotools import mask as rle
    except ImportError as error:
        raise BlosamError("polygons need pycocotools. Install it with: pip install 'blosam[prepare]'") from error
    flat = [coordinate for point in points for coordinate in point]
    return rle.decode(rle.frPyObjects([flat], *shape))[..., 0].astype(bool)


def _circle(centre: tuple[float, float], edge: tuple[float, float]) -> list[tuple[float, float]]:
    radius = math.dist(centre, edge)
    angles = [2 * math.pi * k / _CIRCLE_CORNERS for k in range(_CIRCLE_CORNERS)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _pasted(encoded: str, corners: list[tuple[float, float]], shape: tuple[int, int]) -> np.ndarray:
    """A small mask, a base64 PNG, placed at its upper left corner."""
    with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("PNG",)) as image:
        small = np.asarray(image.convert("L")) > 0
    left, top = (round(value) for value in corners[0])
    if left < 0 or top < 0 or top + small.shape[0] > shape[0] or left + small.shape[1] > shape[1]:
        raise ValueError("it reaches beyond the image")
    mask = np.zeros(shape, bool)
    mask[top : top + small.shape[0], left : left + small.shape[1]] = small
    return mask
