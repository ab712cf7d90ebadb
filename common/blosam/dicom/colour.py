"""Colour images as RGB: YCbCr models and palettes (PS3.3 C.7.6.3.1.2 and C.7.9)."""

from __future__ import annotations

import struct

import numpy as np
import pydicom

_LARGEST = 1 << 16
_LINES = 256  # rows converted at a time, which bounds the memory
_CHANNELS = ("Red", "Green", "Blue")


def rgb_from_ybr(values: np.ndarray, bits: int) -> np.ndarray:
    """YBR_FULL to RGB of the same type.

    Args:
        values: Rows x Columns x 3, luminance and the differences to blue and red.
        bits: per sample.
    """
    middle, white = float(1 << (bits - 1)), float((1 << bits) - 1)
    out = np.empty_like(values)
    for start in range(0, len(values), _LINES):
        y, blue, red = np.moveaxis(values[start : start + _LINES].astype(np.float64), -1, 0)
        blue, red = blue - middle, red - middle
        rgb = (y + 1.402 * red, y - 0.344136286 * blue - 0.714136286 * red, y + 1.772 * blue)
        out[start : start + _LINES] = np.clip(np.round(np.stack(rgb, axis=-1)), 0, white)
    return out


def rgb_from_palette(values: np.ndarray, header: pydicom.Dataset) -> tuple[np.ndarray, float]:
    """Look up palette indices.

    Args:
        values: Rows x Columns indices.
        header: with the three palettes, plain or segmented.

    Returns:
        Rows x Columns x 3, and the value that is white.

    Raises:
        ValueError: when a palette is missing or damaged.
    """
    tables, firsts, bits = [], [], 8
    for channel in _CHANNELS:
        descriptor = header.get(f"{channel}PaletteColorLookupTableDescriptor")
        if descriptor is None or len(descriptor) != 3:
            raise ValueError(f"the {channel.lower()} palette is missing")
        count, first, bits = (int(number) for number in descriptor)
        count = count % _LARGEST or _LARGEST
        tables.append(_palette(header, channel, count, bits, header.file_meta.TransferSyntaxUID.is_little_endian))
        firsts.append(first)
    white = 65535.0 if bits == 16 and max(int(table.max()) for table in tables) > 255 else 255.0
    out = np.empty((*values.shape, 3), np.uint16 if white > 255 else np.uint8)
    for k, (table, first) in enumerate(zip(tables, firsts, strict=True)):
        out[..., k] = table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)]
    return out, white


def _palette(header: pydicom.Dataset, channel: str, count: int, bits: int, little: bool) -> np.ndarray:
    """The entries of one palette."""
    if bits not in (8, 16):
        raise ValueError(f"palette entries of {bits} bits")
    plain = header.get(f"{channel}PaletteColorLookupTableData")
    segmented = header.get(f"Segmented{channel}PaletteColorLookupTableData")
    data = plain if plain is not None else segmented
    if not isinstance(data, bytes):
        raise ValueError(f"the {channel.lower()} palette is missing")
    order = "<" if little else ">"
    if plain is None:
        entries = np.array(_expand(data, bits, order, count), np.uint16)
    elif bits == 16 or len(data) >= 2 * count:
        entries = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")
    else:
        entries = np.frombuffer(data if little else _swap(data), "u1")
    if len(entries) < count:
        raise ValueError(f"the {channel.lower()} palette has {len(entries)} entries instead of {count}")
    return entries[:count]


def _swap(data: bytes) -> bytes:
    """Exchange the two bytes of every word."""
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2").astype(">u2").tobytes()


def _expand(data: bytes, bits: int, order: str, count: int) -> list[int]:
    """Segmented palette (PS3.3 C.7.9.2): discrete, linear and indirect segments, never more than ``count`` entries."""
    code = "B" if bits == 8 else "H"
    words = struct.unpack(f"{order}{len(data) * 8 // bits}{code}", data[: len(data) * 8 // bits * bits // 8])
    starts = [0]
    out: list[int] = []
    position = 0
    while position + 1 < len(words) and len(out) < count:
        kind, length = words[position], words[position + 1]
        starts.append(position)
        if kind == 2:
            size = 2 if bits == 16 else 4
            parts = words[position + 2 : position + 2 + size]
            shift = 16 if bits == 16 else 8
            offset = sum(word << (shift * k) for k, word in enumerate(parts)) // (bits // 8)
            begin, copied = offset, 0
            while copied < length and begin + 1 < len(words) and len(out) < count:
                begin = _segment(words, begin, out)
                copied += 1
            position += 2 + size
        else:
            position = _segment(words, position, out)
    return out


def _segment(words: tuple[int, ...], position: int, out: list[int]) -> int:
    """Append a discrete or linear segment; the position behind it."""
    kind, length = words[position], words[position + 1]
    if kind == 0:
        out.extend(words[position + 2 : position + 2 + length])
        return position + 2 + length
    if kind != 1 or not out or position + 2 >= len(words):
        raise ValueError("a palette segment is damaged")
    start, stop = out[-1], words[position + 2]
    out.extend(int(value) for value in np.round(np.linspace(start, stop, length + 1)[1:]))
    return position + 3
