"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, read before any decoder sees it.

Decoders allocate what the codestream claims, whatever the DICOM header says; so both are compared first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOFn, and SOF55 of JPEG-LS
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_MAX_TILES = 4096


@dataclass(frozen=True)
class Codestream:
    """Size and kind of an encoded picture.

    Args:
        rows: height.
        columns: width.
        precision: bits per sample.
        components: samples per pixel.
        process: JPEG's frame marker (0xC0 baseline, 0xC1 extended, 0xC3 lossless, 0xF7 JPEG-LS, ...); 0 for JPEG
            2000.
        identifiers: of the components.
        adobe: colour transform of an Adobe marker (0 none, 1 YCbCr); None without one.
        jfif: whether there is a JFIF marker.
        signed: whether samples are signed (JPEG 2000 only).
    """

    rows: int
    columns: int
    precision: int
    components: int
    process: int = 0
    identifiers: tuple[int, ...] = field(default=())
    adobe: int | None = None
    jfif: bool = False
    signed: bool = False


def parse(data: bytes) -> Codestream:
    """Read the head of a codestream.

    Raises:
        ValueError: when it is none.
    """
    if data[:2] == b"\xff\xd8":
        return _parse_jpeg(data)
    start = data.find(b"\xff\x4f\xff\x51")  # at the beginning, or inside a JP2 file
    if start >= 0:
        return _parse_jpeg2000(data[start + 4 :])
    raise ValueError("the frame is neither JPEG nor JPEG 2000")


def _parse_jpeg(data: bytes) -> Codestream:
    position, adobe, jfif = 2, None, False
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ValueError("the JPEG markers are damaged")
        marker = data[position + 1]
        if marker == 0xFF or marker in _STANDALONE:  # a fill byte, or a marker without content
            position += 1 if marker == 0xFF else 2
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        body = data[position + 4 : position + 2 + length]
        if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == 0xE0 and body[:4] == b"JFIF":
            jfif = True
        elif marker in _FRAME_MARKERS and len(body) >= 6:
            precision, rows, columns, components = struct.unpack_from(">BHHB", body)
            identifiers = tuple(body[6 : 6 + 3 * components : 3])
            return Codestream(rows, columns, precision, components, marker, identifiers, adobe, jfif)
        elif marker in (0xDA, 0xD9):
            break
        position += 2 + max(length, 2)
    raise ValueError("the JPEG frame has no size")


def _parse_jpeg2000(data: bytes) -> Codestream:
    if len(data) < 39:
        raise ValueError("the JPEG 2000 frame has no size")
    _, _, right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = struct.unpack_from(
        ">HH8IH", data
    )
    if right <= left or bottom <= top or not tile_width or not tile_height:
        raise ValueError("the JPEG 2000 frame has no pixels")
    tiles = -(-(right - min(tile_left, right)) // tile_width) * -(-(bottom - min(tile_top, bottom)) // tile_height)
    if tiles > _MAX_TILES:
        raise ValueError(f"the JPEG 2000 frame has {tiles} tiles")
    samples = data[38 : 38 + 3 * components]
    if any(samples[1::3][k] != 1 or samples[2::3][k] != 1 for k in range(min(components, len(samples) // 3))):
        raise ValueError("the JPEG 2000 frame has components of several sizes")
    depth = samples[0]
    return Codestream(bottom - top, right - left, (depth & 0x7F) + 1, components, signed=bool(depth & 0x80))
