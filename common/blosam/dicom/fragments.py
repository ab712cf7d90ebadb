"""Encapsulated pixel data: which bytes of the file make up which frame (PS3.5 A.4)."""

from __future__ import annotations

import struct
from typing import BinaryIO

import pydicom

Fragment = tuple[int, int]  # offset in the file and length
MAX_FRAGMENTS = 1_000_000
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


def list_fragments(stream: BinaryIO, offset: int) -> list[Fragment]:
    """The items at ``offset``, the first of which is the offset table.

    Raises:
        ValueError: when there are no items, one runs beyond the file, or there are too many.
    """
    end = stream.seek(0, 2)
    found: list[Fragment] = []
    while offset + 8 <= end:
        stream.seek(offset)
        head = stream.read(8)
        if head[:4] != _ITEM:
            if head[:4] == _END:
                break
            raise ValueError("the pixel data are not made of items")
        length = struct.unpack("<I", head[4:])[0]
        if offset + 8 + length > end:
            raise ValueError(f"item {len(found)} of the pixel data is truncated")
        found.append((offset + 8, length))
        if len(found) > MAX_FRAGMENTS:
            raise ValueError(f"the pixel data have more than {MAX_FRAGMENTS} items")
        offset += 8 + length
    if len(found) < 2:
        raise ValueError("the pixel data hold no frame")
    return found


def frame_fragments(
    stream: BinaryIO, items: list[Fragment], index: int, frames: int, header: pydicom.Dataset
) -> list[Fragment]:
    """The fragments of frame ``index``, in order.

    Args:
        stream: the file.
        items: as from ``list_fragments``.
        index: 0-based frame.
        frames: NumberOfFrames.
        header: may hold an extended offset table.

    Raises:
        ValueError: when nothing tells which fragments belong to which frame.
    """
    table, fragments = items[0], items[1:]
    if frames == 1:
        return fragments
    if len(fragments) == frames:
        return [fragments[index]]
    if len(fragments) < frames:
        raise ValueError(f"the pixel data have {len(fragments)} fragments for {frames} frames")
    starts = _basic_offsets(stream, table, frames) or _extended_offsets(header, frames)
    if starts:
        first = fragments[0][0] - 8
        begin = first + starts[index]
        end = first + starts[index + 1] if index + 1 < frames else None
        found = [part for part in fragments if begin <= part[0] - 8 and (end is None or part[0] - 8 < end)]
        if not found or found[0][0] - 8 != begin:
            raise ValueError(f"the offset table points beside frame {index + 1}")
        return found
    return _by_end_marker(stream, fragments, index, frames)


def _basic_offsets(stream: BinaryIO, table: Fragment, frames: int) -> list[int]:
    """The basic offset table; empty when it is not filled in."""
    if table[1] != 4 * frames:
        return []
    stream.seek(table[0])
    return list(struct.unpack(f"<{frames}I", stream.read(4 * frames)))


def _extended_offsets(header: pydicom.Dataset, frames: int) -> list[int]:
    """The extended offset table; empty when there is none."""
    value = header.get("ExtendedOffsetTable")
    if not isinstance(value, bytes) or len(value) != 8 * frames:
        return []
    return list(struct.unpack(f"<{frames}Q", value))


def _by_end_marker(stream: BinaryIO, fragments: list[Fragment], index: int, frames: int) -> list[Fragment]:
    """Frames end with JPEG's end marker, perhaps padded by a zero."""
    groups: list[list[Fragment]] = [[]]
    for offset, length in fragments:
        groups[-1].append((offset, length))
        tail = min(length, 3)
        stream.seek(offset + length - tail)
        if b"\xff\xd9" in stream.read(tail):
            groups.append([])
    groups = [group for group in groups if group]
    if len(groups) != frames:
        raise ValueError(f"{len(fragments)} fragments cannot be assigned to {frames} frames")
    return groups[index]
