"""From the bytes of one DICOM frame to numbers: every transfer syntax that is read, with decoders free of GPL parts.

Pillow decodes JPEG baseline and JPEG 2000, pyjpegls JPEG-LS, GDCM lossless and 12-bit JPEG. What the codestream
claims is compared with the header before a decoder allocates anything.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydicom.uid import UID

from blosam.dicom.codestream import Codestream, parse
from blosam.dicom.container import BIG_ENDIAN, DAMAGE, NATIVE, DicomFile, damaged
from blosam.dicom.pixelformat import PixelFormat
from blosam.errors import BlosamError

_JPEG = "1.2.840.10008.1.2.4."
BASELINE, EXTENDED = _JPEG + "50", _JPEG + "51"
LOSSLESS = (_JPEG + "57", _JPEG + "70")
JPEG_LS = (_JPEG + "80", _JPEG + "81")
JPEG_2000 = (_JPEG + "90", _JPEG + "91")
RLE = "1.2.840.10008.1.2.5"
COMPRESSED = (BASELINE, EXTENDED, *LOSSLESS, *JPEG_LS, *JPEG_2000, RLE)


@dataclass
class Decoded:
    """Pixels of a frame as stored.

    Args:
        values: Rows x Columns or Rows x Columns x 3 integers, sign and unused bits put right.
        photometric: photometric interpretation of ``values``, which decoding may have changed.
    """

    values: np.ndarray
    photometric: str


def check_syntax(path: str | os.PathLike, syntax: str) -> None:
    """Refuse a transfer syntax that is not read, before any pixel is.

    Raises:
        BlosamError: naming the syntax.
    """
    if syntax in NATIVE or syntax in COMPRESSED:
        return
    uid = UID(syntax)
    # A private or malformed identifier is not repeated: it may be anything.
    name = uid.name if uid.is_valid and not uid.is_private and uid.name != syntax else "an unknown or private syntax"
    raise BlosamError(
        f"{path}: the pixels are in {name}, which is not read. Convert the file to Explicit VR Little Endian."
    )


def decode_frame(file: DicomFile, index: int, form: PixelFormat) -> Decoded:
    """Decode one frame.

    Raises:
        BlosamError: when the data are damaged, do not fit the header, or a decoder is not installed.
    """
    check_syntax(file.path, file.syntax)
    try:
        if file.syntax in NATIVE:
            return _native(file, index, form)
        if file.pixels.length is not None:
            raise ValueError("compressed pixel data must be encapsulated")
        data = file.encapsulated(index, form.frames, 4 * form.frame_bytes + (1 << 20))
        if file.syntax == RLE:
            return Decoded(_finish(_rle(data, form), form, form.stored), form.photometric)
        return _codestream(file, data, form)
    except DAMAGE as error:
        if isinstance(error, BlosamError):
            raise
        raise damaged(file.path, error) from error


def _native(file: DicomFile, index: int, form: PixelFormat) -> Decoded:
    if file.pixels.length is None:
        raise ValueError("uncompressed pixel data must have a length")
    subsampled = form.photometric == "YBR_FULL_422"
    # Some writers say 4:2:2 and store all samples; the length tells.
    if subsampled and file.native_bytes() >= form.frames * form.frame_bytes:
        subsampled = False
    length = form.frame_bytes * 2 // 3 if subsampled else form.frame_bytes
    data = _bytes(file, index, length, form)
    order = ">" if file.syntax == BIG_ENDIAN else "<"
    flat = np.frombuffer(data, f"{order}u{form.allocated // 8}").astype(f"u{form.allocated // 8}")
    if subsampled:
        values = _upsample(flat, form)
    elif form.samples == 3 and form.planar == 1:
        values = np.moveaxis(flat.reshape(3, form.rows, form.columns), 0, -1)
    else:
        values = flat.reshape(form.shape)
    return Decoded(_finish(values, form, form.stored), form.photometric)


def _bytes(file: DicomFile, index: int, length: int, form: PixelFormat) -> bytes:
    """A native frame; 8-bit samples in big endian 16-bit words are put back in order."""
    if not (file.syntax == BIG_ENDIAN and form.allocated == 8 and file.pixels.vr == "OW"):
        return file.native(index, length)
    start, stop = index * length, (index + 1) * length
    parts = [file.native(k, 2) for k in range(start // 2, -(-stop // 2))] if length % 2 else None
    words = b"".join(parts) if parts else file.native(index, length)
    swapped = np.frombuffer(words, ">u2").astype("<u2").tobytes()
    return swapped[start % 2 :][:length] if parts else swapped


def _upsample(flat: np.ndarray, form: PixelFormat) -> np.ndarray:
    """Two luminances share one pair of colour differences, in the order Y1 Y2 B R (PS3.3 C.7.6.3.1.2)."""
    if form.columns % 2:
        raise ValueError("4:2:2 needs an even number of columns")
    quads = flat.reshape(form.rows, form.columns // 2, 4)
    values = np.empty((form.rows, form.columns, 3), flat.dtype)
    values[:, 0::2, 0], values[:, 1::2, 0] = quads[..., 0], quads[..., 1]
    values[..., 1] = np.repeat(quads[..., 2], 2, axis=1)
    values[..., 2] = np.repeat(quads[..., 3], 2, axis=1)
    return values


def _finish(values: np.ndarray, form: PixelFormat, bits: int, high: int | None = None) -> np.ndarray:
    """Drop what lies outside the ``bits`` below ``high`` (HighBit), and restore the sign."""
    width = values.dtype.itemsize * 8
    high = form.high if high is None else high
    if high >= width or bits > high + 1:
        raise ValueError(f"{bits} bits below bit {high} do not fit into {width}")
    values = values.view(f"{'i' if form.signed else 'u'}{width // 8}")
    if bits == width:
        return values
    left, right = values.dtype.type(width - 1 - high), values.dtype.type(width - bits)
    return (values << left) >> right  # for signed types the shift to the right repeats the sign


def _rle(data: bytes, form: PixelFormat) -> np.ndarray:
    """DICOM's run-length encoding (PS3.5 Annex G): one segment per byte of a sample, most significant first."""
    size = form.allocated // 8
    count, *offsets = struct.unpack_from("<16I", data)
    if count != form.samples * size:
        raise ValueError(f"{count} RLE segments instead of {form.samples * size}")
    pixels = form.rows * form.columns
    out = np.empty((form.samples, pixels, size), np.uint8)
    bounds = [*offsets[:count], len(data)]
    for k in range(count):
        if not 64 <= bounds[k] <= bounds[k + 1]:
            raise ValueError("the RLE segments overlap")
        # Samples are little endian here, segments start with the most significant byte.
        out[k // size, :, size - 1 - k % size] = _unpack(data[bounds[k] : bounds[k + 1]], pixels)
    values = np.ascontiguousarray(out).view(f"<u{size}")[..., 0]
    values = np.moveaxis(values.reshape(form.samples, form.rows, form.columns), 0, -1)
    return np.ascontiguousarray(values).reshape(form.shape)


def _unpack(segment: bytes, expected: int) -> np.ndarray:
    """PackBits, never more than ``expected`` bytes."""
    out, position = bytearray(), 0
    while len(out) < expected and position + 1 < len(segment):
        control = segment[position]
        if control < 128:
            out += segment[position + 1 : position + 2 + control]
            position += 2 + control
        else:
            if control > 128:
                out += segment[position + 1 : position + 2] * (257 - control)
                position += 1
            position += 1
    if len(out) < expected:
        raise ValueError(f"an RLE segment ends after {len(out)} of {expected} bytes")
    return np.frombuffer(bytes(out[:expected]), np.uint8)


def _codestream(file: DicomFile, data: bytes, form: PixelFormat) -> Decoded:
    """JPEG in all its kinds."""
    stream = parse(data)
    if (stream.rows, stream.columns, stream.components) != (form.rows, form.columns, form.samples):
        raise ValueError(
            f"the frame is {stream.columns} x {stream.rows} x {stream.components}, "
            f"the header says {form.columns} x {form.rows} x {form.samples}"
        )
    if not 2 <= stream.precision <= 16:
        raise ValueError(f"{stream.precision} bits per sample")
    decode, photometric = _decoder(file, stream, form.photometric)
    values = np.asarray(decode(data, stream, form))
    if values.shape != form.shape:
        raise ValueError(f"{values.shape} was decoded instead of {form.shape}")
    bits = min(stream.precision, values.dtype.itemsize * 8)
    return Decoded(_finish(values, form, bits, bits - 1), photometric)


Decoder = Callable[[bytes, Codestream, PixelFormat], np.ndarray]


def _decoder(file: DicomFile, stream: Codestream, photometric: str) -> tuple[Decoder, str]:
    """The decoder for a codestream, and what its output means."""
    if file.syntax in JPEG_2000:
        if stream.process:
            raise ValueError("the frame is no JPEG 2000")
        changed = "RGB" if photometric in ("YBR_ICT", "YBR_RCT") else photometric
        deep_colour = stream.components == 3 and stream.precision > 8
        return (_gdcm_decoder(file) if deep_colour else _jpeg2000_decoder(file)), changed
    if file.syntax in JPEG_LS:
        if stream.process != 0xF7:
            raise ValueError("the frame is no JPEG-LS")
        return _jpeg_ls_decoder(file), _jpeg_colour(stream, photometric)
    if stream.process in (0, 0xF7):
        raise ValueError("the frame is no JPEG")
    if stream.precision == 8 and stream.process in (0xC0, 0xC1, 0xC2):
        if stream.components == 1:
            return _pillow_grey, photometric
        colour = _jpeg_colour(stream, photometric)
        return (_pillow_rgb if colour != "RGB" or stream.adobe is not None else _pillow_untransformed), "RGB"
    return _gdcm_decoder(file), _jpeg_colour(stream, photometric)


def _jpeg_colour(stream: Codestream, photometric: str) -> str:
    """What the components of a JPEG frame are: its own markers outrank the DICOM header, as in pydicom."""
    if stream.components != 3:
        return photometric
    if stream.identifiers in ((82, 71, 66), (114, 103, 98)) or stream.adobe == 0:  # "RGB", "rgb"
        return "RGB"
    if stream.jfif or stream.adobe == 1:
        return "YBR_FULL"
    return "YBR_FULL" if photometric == "YBR_FULL_422" else photometric


def _pillow_grey(data: bytes, stream: Codestream, form: PixelFormat) -> np.ndarray:
    return np.array(_open(data, "JPEG").convert("L"))


def _pillow_rgb(data: bytes, stream: Codestream, form: PixelFormat) -> np.ndarray:
    return np.array(_open(data, "JPEG").convert("RGB"))


def _pillow_untransformed(data: bytes, stream: Codestream, form: PixelFormat) -> np.ndarray:
    """RGB components that the JPEG library takes for YCbCr unless asked for exactly those."""
    image = _open(data, "JPEG")
    if stream.identifiers not in ((82, 71, 66), (114, 103, 98)):
        image.draft("YCbCr", image.size)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(form.shape).copy()


def _jpeg2000_decoder(file: DicomFile) -> Decoder:
    """Pillow, and GDCM for the files that Pillow takes for damaged although others read them."""

    def decode(data: bytes, stream: Codestream, form: PixelFormat) -> np.ndarray:
        try:
            return _pillow_jpeg2000(data, stream, form)
        except OSError as error:
            try:
                return _gdcm_decoder(file)(data, stream, form)
            except BlosamError:
                raise error from None  # GDCM is not installed; the first error says what is wrong

    return decode


def _pillow_jpeg2000(data: bytes, stream: Codestream, form: PixelFormat) -> np.ndarray:
    """Pillow scales every precision up to 8 or 16 bits and shifts signed values to be positive."""
    image = _open(data, "JPEG2000")
    values = np.array(image)
    if values.dtype not in (np.uint8, np.uint16):
        values = values.astype(np.uint16)
    values = values >> values.dtype.type(values.dtype.itemsize * 8 - stream.precision)
    if stream.signed:
        values = values - values.dtype.type(1 << (stream.precision - 1))  # wraps around: two's complement
    return values


def _open(data: bytes, kind: str):
    """Open with Pillow; the size has been checked before."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data), formats=(kind,))
    except (Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError("the frame is damaged") from error


def _jpeg_ls_decoder(file: DicomFile) -> Decoder:
    try:
        import jpeg_ls
    except ImportError:
        return _gdcm_decoder(file, "pyjpegls")

    def decode(data: bytes, stream: Codestream, form: PixelFormat) -> np.ndarray:
        buffer, info = jpeg_ls.decode_pixel_data(data)
        values = np.frombuffer(buffer, np.uint8 if info["bits_per_sample"] <= 8 else np.uint16)
        if form.samples == 3 and info["interleave_mode"] == 0:
            return np.moveaxis(values.reshape(3, form.rows, form.columns), 0, -1).copy()
        return values.reshape(form.shape).copy()

    return decode if hasattr(jpeg_ls, "decode_pixel_data") else _gdcm_decoder(file, "pyjpegls")


def _gdcm_decoder(file: DicomFile, package: str = "python-gdcm") -> Decoder:
    """GDCM on one frame; ``package`` is what to install when it is missing."""
    try:
        import gdcm
    except ImportError as error:
        raise BlosamError(
            f"{file.path}: decoding {UID(file.syntax).name} needs the package {package}. "
            "Install it with: pip install 'blosam[dicom]'"
        ) from error
    from blosam.dicom.gdcm_frame import decode_with_gdcm

    def decode(data: bytes, stream: Codestream, form: PixelFormat) -> np.ndarray:
        return decode_with_gdcm(gdcm, data, stream, form, file.syntax)

    return decode
