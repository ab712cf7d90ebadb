"""A DICOM file taken apart: its header, and the bytes of one frame at a time.

Memory stays bounded whatever a file claims: no read goes beyond the end of the file, deflated data sets are
inflated up to a limit, and pixel data are never loaded as a whole.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import UID

from blosam.dicom.fragments import Fragment, frame_fragments, list_fragments
from blosam.errors import BlosamError

# What pydicom raises for broken files, depending on where the damage is.
DAMAGE = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, KeyError, IndexError, TypeError,
    AttributeError, NotImplementedError, RuntimeError, OverflowError, MemoryError, AssertionError, struct.error,
    zlib.error,
)  # fmt: skip
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
MAX_INFLATED = 512 << 20
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"UN", b"OF", b"OD", b"OL", b"OV")
_PIXELS = {0x0010: "PixelData", 0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData"}


class _Clipped(io.BufferedReader):
    """Reads never ask for more than the file has: a length of 4 GB in a broken element allocates nothing."""

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        rest = max(self.size - self.tell(), 0)
        return super().read(rest if size is None or size < 0 else min(size, rest))


@dataclass(frozen=True)
class Pixels:
    """Where the pixel data element lies.

    Args:
        keyword: PixelData, FloatPixelData or DoubleFloatPixelData.
        vr: value representation; empty for implicit files.
        offset: of the value.
        length: of the value; None when undefined, which means that the frames are encapsulated.
        available: bytes from there to the end of the file.
    """

    keyword: str
    vr: str
    offset: int
    length: int | None
    available: int


class DicomFile:
    """Header and frames of a file.

    Args:
        path: file to open; one without the 128-byte preamble is accepted.

    Attributes:
        header: every element before the pixel data, with ``file_meta``.
        syntax: transfer syntax UID.
        pixels: where the pixel data are; None when there are none.

    Raises:
        BlosamError: when it cannot be parsed.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        self._inflated: bytes | None = None
        try:
            with quiet(), self._open() as stream:
                self.syntax = self._transfer_syntax(stream)
                if self.syntax == DEFLATED:
                    self._inflated = _with_meta(_inflate(path, stream))
            with quiet(), self._open() as stream:
                self.header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
                self.pixels = _pixel_element(stream)
                _decode_elements(self.header)
        except DAMAGE as error:
            if isinstance(error, BlosamError):
                raise
            raise damaged(path, error) from error
        if not self.syntax:
            self.syntax = BIG_ENDIAN if self._guessed_big_endian() else IMPLICIT
        if getattr(self.header, "file_meta", None) is None:
            self.header.file_meta = FileMetaDataset()
        self.header.file_meta.TransferSyntaxUID = UID(self.syntax)
        self._fragments: list[Fragment] | None = None

    def _open(self) -> BinaryIO:
        return _Clipped(self.path) if self._inflated is None else io.BytesIO(self._inflated)

    @staticmethod
    def _transfer_syntax(stream: BinaryIO) -> str:
        """From the file meta information; empty when there is none. Leaves the stream behind it."""
        read_preamble(stream, force=True)
        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        return str(meta.get("TransferSyntaxUID", "") or "").strip("\0 ")

    def _guessed_big_endian(self) -> bool:
        """Whether pydicom found big endian data in a file that does not say so."""
        encoding = getattr(self.header, "original_encoding", (None, None))
        return encoding[1] is False

    def native(self, index: int, length: int) -> bytes:
        """Bytes of an uncompressed frame of ``length`` bytes.

        Raises:
            BlosamError: when the file ends before.
        """
        start = index * length
        if start + length > self.native_bytes():
            raise BlosamError(
                f"{self.path}: the DICOM file cannot be read (the pixel data end after {self.native_bytes()} bytes, "
                f"{start + length} are needed). Replace the file."
            )
        with self._open() as stream:
            stream.seek(self.pixels.offset + start)
            return stream.read(length)

    def native_bytes(self) -> int:
        """How many bytes of uncompressed pixel data the file really has."""
        return min(self.pixels.available if self.pixels.length is None else self.pixels.length, self.pixels.available)

    def encapsulated(self, index: int, frames: int, longest: int) -> bytes:
        """Bytes of a compressed frame.

        Args:
            index: 0-based frame.
            frames: NumberOfFrames.
            longest: bytes that no sensible frame exceeds.

        Raises:
            BlosamError: when its fragments cannot be found.
        """
        try:
            with self._open() as stream:
                if self._fragments is None:
                    self._fragments = list_fragments(stream, self.pixels.offset)
                parts = frame_fragments(stream, self._fragments, index, frames, self.header)
                if sum(length for _, length in parts) > longest:
                    raise ValueError(f"frame {index + 1} is longer than {longest} bytes")
                return b"".join(_read_at(stream, *part) for part in parts)
        except DAMAGE as error:
            if isinstance(error, BlosamError):
                raise
            raise damaged(self.path, error) from error


def damaged(path: str | os.PathLike, error: BaseException) -> BlosamError:
    """The error for a file that cannot be parsed or decoded.

    The text of a foreign error may quote the header, names of patients included; only its type is passed on.
    """
    reason = " ".join(str(error).split()) if type(error) is ValueError and _own(error) else type(error).__name__
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return BlosamError(f"{path}: the file cannot be opened ({error.strerror}). Check the path.")
    return BlosamError(f"{path}: the DICOM file cannot be read ({reason}). Replace the file.")


def _own(error: BaseException) -> bool:
    """Whether an error was raised by this package, whose texts quote numbers only."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(__file__).parent == Path(trace.tb_frame.f_code.co_filename).parent


class _Quiet:
    """Silences pydicom while any thread reads."""

    def __init__(self) -> None:
        self._lock, self._readers = threading.Lock(), 0
        self._logger, self._level = logging.getLogger("pydicom"), logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                self._level = self._logger.level
                self._logger.setLevel(logging.CRITICAL + 1)
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._caught.__exit__(None, None, None)
                self._logger.setLevel(self._level)


_quiet = _Quiet()


def quiet() -> _Quiet:
    """A context without pydicom's warnings and log lines: they quote values, which may be a patient's."""
    return _quiet


def _inflate(path: str | os.PathLike, stream: BinaryIO) -> bytes:
    """The deflated rest of a file, up to a limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(stream.read(), MAX_INFLATED)
    if not inflater.eof:
        if len(content) >= MAX_INFLATED:
            raise BlosamError(
                f"{path}: the deflated data set is larger than {MAX_INFLATED >> 20} MiB. Save it uncompressed."
            )
        raise ValueError("the deflated data set is truncated")
    return content


def _with_meta(content: bytes) -> bytes:
    """An explicit little endian data set as a file of its own."""
    uid = EXPLICIT.encode() + b"\0"
    return bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid + content


def _decode_elements(header: pydicom.Dataset) -> None:
    """Turn bytes into values now, so that asking for one never fails later; unreadable elements are left out, unless
    they describe the pixels."""
    for tag in list(header.keys()):
        try:
            header[tag]
        except DAMAGE as error:
            if tag >> 16 == 0x0028:
                raise ValueError(f"element {tag >> 16:04X},{tag & 0xFFFF:04X} is damaged") from error
            del header[tag]


def _pixel_element(stream: BinaryIO) -> Pixels | None:
    """The element that pydicom stopped at; None at the end of the file."""
    start = stream.tell()
    head = stream.read(12)
    end = stream.seek(0, os.SEEK_END)
    if len(head) < 8:
        return None
    order = "<" if head[:2] == b"\xe0\x7f" else ">"
    group, element = struct.unpack(order + "HH", head[:4])
    if group != 0x7FE0 or element not in _PIXELS:
        return None
    # An implicit length is even, and all these names begin with an odd byte: they cannot be confused.
    explicit = head[4:6] in _LONG_VRS
    offset = start + (12 if explicit else 8)
    length = struct.unpack(order + "I", (head + bytes(4))[8:12] if explicit else head[4:8])[0]
    available = max(end - offset, 0)
    vr = head[4:6].decode() if explicit else ""
    return Pixels(_PIXELS[element], vr, offset, None if length == _UNDEFINED else length, available)


def _read_at(stream: BinaryIO, offset: int, length: int) -> bytes:
    stream.seek(offset)
    return stream.read(length)
