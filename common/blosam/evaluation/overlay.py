"""Pictures of an image with the true and the predicted outline on it, for the report and for a quick look.

Outlines run along the edges between pixels, so that a line shows exactly where a mask ends; they are drawn
from distances to the mask after it has been enlarged like the picture, which keeps both aligned at any size.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from blosam.errors import BlosamError

RGB = tuple[int, int, int]

# Okabe and Ito's palette (Color Universal Design, 2008): told apart with every common colour vision
# deficiency.
TRUTH_COLOUR: RGB = (86, 180, 233)
PREDICTION_COLOUR: RGB = (255, 176, 0)
CLASS_COLOURS: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_MIN_SIDE, _MAX_SIDE = 384, 1024
_LEGEND_BACKGROUND: RGB = (24, 26, 30)


def draw_overlay(
    image: np.ndarray,
    truth: np.ndarray | None = None,
    pred: np.ndarray | None = None,
    *,
    class_names: Mapping[int, str] | None = None,
    fill: float | None = None,
    legend: bool = True,
    max_side: int = _MAX_SIDE,
    min_side: int = _MIN_SIDE,
) -> np.ndarray:
    """Draw masks on an image.

    With one foreground class the truth is a blue and the prediction an orange outline. With several, colours
    tell the classes apart: the truth is a line and the prediction a translucent area.

    Args:
        image: H x W or H x W x 3, float in [0, 1] or uint8 in [0, 255].
        truth: H x W class indices (0 = background), or None.
        pred: H x W class indices, or None.
        class_names: class index to name, for the legend and to choose colours; by default the classes in the
            masks.
        fill: opacity of the predicted area (of the true one without prediction) in [0, 1]; by default 0 with
            one class and 0.4 with several.
        legend: add a strip below the picture that says which colour is what.
        max_side: larger pictures are reduced to this longest side, in pixels.
        min_side: smaller pictures are enlarged by the smallest whole factor that reaches this longest side.

    Returns:
        H' x W' x 3 uint8, the picture at its display size, plus the rows of the legend.

    Raises:
        BlosamError: image and masks differ in rows or columns, or the image is not as described.
    """
    picture = to_rgb(image)
    _check_masks(picture, truth, pred)
    given = [m for m in (truth, pred) if m is not None]
    classes = sorted(set(class_names or ()) or {int(v) for m in given for v in np.unique(m)} - {0})
    several = len(classes) > 1
    shape = display_shape(picture.shape[:2], max_side, min_side)
    canvas = _resize(picture, shape).astype(np.float32)
    masks = [None if m is None else _nearest(m, shape) for m in (truth, pred)]
    width = max(2.0, max(shape) / 320)
    opacity = (0.4 if several else 0.0) if fill is None else fill
    filled = 0 if masks[1] is None else 1
    for index in classes:
        true_colour, predicted_colour = colours = _colours(index, several)
        if masks[filled] is not None and opacity > 0:
            canvas = _blend(canvas, opacity * (masks[filled] == index), colours[filled])
        if masks[0] is not None:
            canvas = _outline(canvas, masks[0] == index, true_colour, width)
        if masks[1] is not None and not several:
            canvas = _outline(canvas, masks[1] == index, predicted_colour, width)
    drawn = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    if not legend:
        return drawn
    entries = _legend_entries(classes, class_names or {}, truth is not None, pred is not None)
    return np.concatenate([drawn, _legend_strip(entries, shape[1])])


def _check_masks(picture: np.ndarray, truth: np.ndarray | None, pred: np.ndarray | None) -> None:
    """Raise BlosamError when a mask is not on the grid of the picture."""
    for name, mask in (("truth", truth), ("prediction", pred)):
        if mask is not None and mask.shape != picture.shape[:2]:
            raise BlosamError(
                f"{name} of shape {mask.shape} does not fit the image of shape {picture.shape[:2]}. "
                "Pass masks on the grid of the image."
            )


def to_rgb(image: np.ndarray) -> np.ndarray:
    """H x W [x 1 | x 3] as H x W x 3 uint8; floats in [0, 1] are multiplied by 255, values outside are cut.

    Raises:
        BlosamError: another shape, or neither float nor uint8 nor bool.
    """
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise BlosamError(f"an image of shape {np.shape(image)} cannot be drawn. Pass H x W or H x W x 3.")
    if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
        array = np.clip(np.nan_to_num(array.astype(np.float32)) * 255 + 0.5, 0, 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise BlosamError(f"an image of type {array.dtype} cannot be drawn. Pass float in [0, 1] or uint8.")
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def display_shape(shape: tuple[int, int], max_side: int = _MAX_SIDE, min_side: int = _MIN_SIDE) -> tuple[int, int]:
    """(rows, columns) at which a picture of ``shape`` is shown: enlarged by whole factors, reduced by any."""
    longest = max(shape)
    factor: float = max(1, min(-(-min_side // longest), max_side // longest))
    if longest > max_side:
        factor = max_side / longest
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _resize(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """H x W x 3 uint8 at another size; shrinking averages, enlarging is bicubic."""
    if picture.shape[:2] == shape:
        return picture
    return np.asarray(Image.fromarray(picture).resize(shape[::-1], Image.Resampling.BICUBIC))


def _nearest(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """H x W labels at another size: each new pixel takes the label at its centre."""
    rows, columns = (np.floor((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, mask.shape, strict=True))
    return mask[rows[:, None], columns]


def _colours(index: int, several: bool) -> tuple[RGB, RGB]:
    """Colours of the true and the predicted mask of a class."""
    if not several:
        return TRUTH_COLOUR, PREDICTION_COLOUR
    colour = CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]
    return colour, colour


def _outline(canvas: np.ndarray, mask: np.ndarray, colour: RGB, width: float) -> np.ndarray:
    """Draw the edge of an H x W bool mask on an H x W x 3 float canvas, with a faint dark line around it."""
    if not mask.any():
        return canvas
    distance = edge_distance(mask, limit=width + 3)
    # The dark seam keeps the line visible on bright bone and on pale mucosa alike.
    canvas = _blend(canvas, 0.45 * np.clip(width / 2 + 1.5 - distance, 0, 1), (0, 0, 0))
    return _blend(canvas, np.clip(width / 2 + 0.5 - distance, 0, 1), colour)


def edge_distance(mask: np.ndarray, limit: float) -> np.ndarray:
    """Distance of every pixel centre to the nearest edge of a mask.

    Args:
        mask: H x W bool; the image border counts as an edge where the mask touches it.
        limit: distances are exact up to this many pixels and may be any larger number beyond.

    Returns:
        H x W float; 0.5 for the pixels on both sides of an edge. Infinite far away from the mask.
    """
    distance = np.full(mask.shape, np.inf)
    if not mask.any():
        return distance
    margin = int(np.ceil(limit)) + 1
    box = tuple(
        slice(max(0, int(hit[0]) - margin), int(hit[-1]) + margin + 1)
        for hit in (np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)))
    )
    padded = np.pad(mask[box], 1)
    signed = np.where(padded, distance_transform_edt(padded), distance_transform_edt(~padded)) - 0.5
    distance[box] = signed[1:-1, 1:-1]
    return distance


def _blend(canvas: np.ndarray, alpha: np.ndarray, colour: RGB) -> np.ndarray:
    """Mix a colour into an H x W x 3 canvas with H x W opacity in [0, 1]."""
    weight = np.asarray(alpha, np.float32)[..., None]
    return canvas * (1 - weight) + np.asarray(colour, np.float32) * weight


def _legend_entries(
    classes: Sequence[int], names: Mapping[int, str], truth: bool, pred: bool
) -> list[tuple[RGB, str, str]]:
    """(colour, symbol, text) of every legend entry; the symbol is ``line``, ``area`` or empty."""
    if len(classes) <= 1:
        name = f" ({names[classes[0]]})" if classes and classes[0] in names else ""
        entries = [(TRUTH_COLOUR, "line", f"truth{name}")] if truth else []
        return entries + ([(PREDICTION_COLOUR, "line", f"prediction{name}")] if pred else [])
    entries = [(_colours(i, True)[0], "area", names.get(i, f"class {i}")) for i in classes]
    note = {
        (True, True): "line: truth, area: prediction",
        (True, False): "truth",
        (False, True): "prediction",
    }
    return entries + ([((255, 255, 255), "", note[truth, pred])] if truth or pred else [])


def _legend_strip(entries: Sequence[tuple[RGB, str, str]], width: int) -> np.ndarray:
    """h x ``width`` x 3 uint8 strip with the entries, as many in a line as fit."""
    size = int(np.clip(width / 32, 11, 20))
    font, gap = ImageFont.load_default(size), size
    lines, x, placed = 0, gap // 2, []
    for colour, symbol, text in entries:
        need = (int(1.8 * size) if symbol else 0) + int(font.getlength(text)) + gap
        if x + need > width and x > gap // 2:
            lines, x = lines + 1, gap // 2
        placed.append((x, lines, colour, symbol, text))
        x += need
    step = int(1.7 * size)
    strip = Image.new("RGB", (width, (lines + 1) * step + size // 3), _LEGEND_BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for x, line, colour, symbol, text in placed:
        middle = line * step + step // 2 + size // 6
        thick = size * (0.16 if symbol == "line" else 0.4)
        if symbol:
            draw.rectangle((x, middle - thick, x + 1.4 * size, middle + thick), fill=colour)
            x += int(1.8 * size)
        draw.text((x, middle), text, fill=(235, 235, 235), font=font, anchor="lm")
    return np.asarray(strip)


def encode_png(picture: np.ndarray) -> bytes:
    """H x W [x 3] uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def encode_jpeg(picture: np.ndarray, quality: int = 88) -> bytes:
    """H x W [x 3] uint8 as a JPEG file with full colour resolution, which keeps thin lines sharp."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """An image file as a ``data:image/KIND`` address that a page can hold itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
