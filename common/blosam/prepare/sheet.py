"""A picture of all pairs: wrong, shifted or inverted masks show at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blosam.atomicio import atomic_path
from blosam.dicom.reader import ClinicalReader
from blosam.evaluation.overlay import draw_overlay, encode_png

MOST = 60  # pairs on a sheet
_COLUMNS, _SIDE, _CAPTION, _GAP = 6, 224, 20, 6
_PART_COLOURS = {"training": (0, 158, 115), "validation": (230, 159, 0), "test": (86, 180, 233)}


class Pair(Protocol):
    """What is needed of a checked pair."""

    image: Path
    name: str
    mask: Path
    share: float


def contact_sheet(path: Path, pairs: Sequence[Pair], parts: Sequence[str], classes: Sequence[str]) -> None:
    """Write the sheet; a coloured line below each tile tells its part.

    Args:
        path: PNG file.
        pairs: the first ``MOST`` are shown.
        parts: training, validation or test, one each.
        classes: names, for the legend.
    """
    names = dict(enumerate(classes, start=1))
    tiles = [_tile(pair, part, names) for pair, part in list(zip(pairs, parts, strict=True))[:MOST]]
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    step = (_SIDE + _GAP, _SIDE + _CAPTION + _GAP)
    sheet = Image.new("RGB", (columns * step[0] + _GAP, rows * step[1] + 30), (24, 26, 30))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    x = _GAP
    shown = f"{len(tiles)} of {len(pairs)} pairs" if len(tiles) < len(pairs) else f"{len(pairs)} pairs"
    for text, colour in [(shown, (235, 235, 235)), *[(part, _PART_COLOURS[part]) for part in dict.fromkeys(parts)]]:
        draw.text((x, 7), text, fill=colour, font=font)
        x += int(font.getlength(text)) + 16
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (_GAP + number % columns * step[0], 30 + number // columns * step[1]))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(np.asarray(sheet)))


def _tile(pair: Pair, part: str, names: dict[int, str]) -> Image.Image:
    """One image with the outline of its mask, its name and the colour of its part."""
    reader = ClinicalReader()
    image = np.swapaxes(reader.get_data(reader.read(pair.image))[0], 0, 1)
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    mask = np.asarray(Image.open(pair.mask))
    mask = (mask > 0).astype(np.uint8) if len(names) == 1 else mask
    drawn = draw_overlay(image, truth=mask, class_names=names, legend=False, max_side=_SIDE, min_side=1)
    tile = Image.new("RGB", (_SIDE, _SIDE + _CAPTION), (24, 26, 30))
    tile.paste(Image.fromarray(drawn), ((_SIDE - drawn.shape[1]) // 2, (_SIDE - drawn.shape[0]) // 2))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    draw.rectangle((0, _SIDE, _SIDE, _SIDE + 2), fill=_PART_COLOURS[part])
    share = f" {pair.share:.0%}"
    name = pair.name
    while font.getlength(name + share) > _SIDE - 4 and len(name) > 4:
        name = name[:-2] + "…"
    draw.text((2, _SIDE + 4), name + share, fill=(220, 220, 220), font=font)
    return tile
