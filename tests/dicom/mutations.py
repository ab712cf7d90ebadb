"""Damages drawn DICOM and NIfTI files in many ways, always the same ones for the same seed.

Most mutations change one element or a few bytes, so that a good part of the files passes the header check and reaches
the decoders; some break the structure.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import jpeg_ls
import nibabel as nib
import numpy as np
import pydicom
import SimpleITK
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_encoder
from pydicom.uid import UID, JPEGLosslessSV1, RLELossless, generate_uid

EXPLICIT, BIG, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
IMPLICIT = "1.2.840.10008.1.2"
JPEG = "1.2.840.10008.1.2.4."
ROWS, COLUMNS = 24, 32
# What broken writers put into numbers.
NUMBERS = (0, 1, 2, 3, 7, 8, 12, 15, 16, 17, 31, 32, 64, 255, 256, 4096, 32767, 32768, 60000, 65535)
TEXTS = ("", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "PALETTE COLOR", "MONOCHROME1", "LINEAR_EXACT", "nan",
         "1e999", "-1", "0", "99999999999", "a\\b", "1\\2\\3")  # fmt: skip


def draw(channels: int, dtype: type, seed: int = 0) -> np.ndarray:
    """A picture without any symmetry: a gradient with a bright corner and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    picture = 3.0 * rows + 2.0 * columns + rng.integers(0, 20, (ROWS, COLUMNS))
    picture[:5, :9] += 60
    if channels == 3:
        picture = np.stack([picture, 230 - picture, picture / 2], axis=-1)
    return picture.astype(dtype) if dtype == np.uint8 else (picture * 16).astype(dtype)


def dicom_dataset(pixels: np.ndarray, syntax: str, **elements: object) -> Dataset:
    """A valid image data set with uncompressed little endian pixel data."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=["mutations"])
    dataset.Modality = "OT"
    bits = pixels.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.shape[-1] == 3 else "MONOCHROME2"
    if pixels.shape[-1] == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def to_bytes(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def compressed(pixels: np.ndarray, syntax: str, frames: list[bytes], **elements: object) -> bytes:
    dataset = dicom_dataset(pixels, syntax, **elements)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    return to_bytes(dataset)


def pillow(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def lossless_jpeg(pixels: np.ndarray) -> bytes:
    """A JPEG lossless codestream by ITK."""
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "a.dcm"))
        writer.SetFileName(path)
        writer.Execute(SimpleITK.GetImageFromArray(pixels))
        dataset = pydicom.dcmread(path)
    if dataset.file_meta.TransferSyntaxUID != JPEGLosslessSV1:
        raise RuntimeError("ITK did not write lossless JPEG")
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def rle(pixels: np.ndarray) -> bytes:
    dataset = dicom_dataset(pixels, EXPLICIT)
    return get_encoder(RLELossless).encode(dataset, index=0)


def dicom_seeds() -> dict[str, bytes]:
    """Valid files of every kind of pixel data that is read."""
    grey, deep, rgb = draw(1, np.uint8), draw(1, np.uint16), draw(3, np.uint8)
    window = {"WindowCenter": "1500", "WindowWidth": "2000", "RescaleSlope": "2", "RescaleIntercept": "-10"}
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], list(range(256))
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    palette = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 8] for c in ("Red", "Green", "Blue")}
    palette |= {f"{c}PaletteColorLookupTableData": bytes(range(256)) for c in ("Red", "Green", "Blue")}
    half = np.repeat(rgb[:, ::2, :1], 4, axis=2)
    return {
        "grey": to_bytes(dicom_dataset(grey, EXPLICIT)),
        "implicit": to_bytes(dicom_dataset(deep, IMPLICIT, PixelPaddingValue=0, PixelPaddingRangeLimit=9)),
        "window": to_bytes(dicom_dataset(deep, EXPLICIT, BitsStored=13, HighBit=12, **window)),
        "signed": to_bytes(
            dicom_dataset(deep.astype(np.int16) - 2000, EXPLICIT, WindowCenter="-1500", WindowWidth="5000")
        ),
        "table": to_bytes(dicom_dataset(grey, EXPLICIT, VOILUTSequence=[table])),
        "big": to_bytes(dicom_dataset(deep.byteswap(), BIG)),
        "deflated": to_bytes(dicom_dataset(grey, DEFLATED)),
        "frames": to_bytes(
            dicom_dataset(grey, EXPLICIT, NumberOfFrames=3, PixelData=grey.tobytes() * 3),
        ),
        "rgb": to_bytes(
            dicom_dataset(rgb, EXPLICIT, PlanarConfiguration=1, PixelData=np.moveaxis(rgb, -1, 0).tobytes())
        ),
        "ybr": to_bytes(dicom_dataset(rgb, EXPLICIT, PhotometricInterpretation="YBR_FULL")),
        "422": to_bytes(
            dicom_dataset(rgb, EXPLICIT, PhotometricInterpretation="YBR_FULL_422", PixelData=half.tobytes())
        ),
        "palette": to_bytes(dicom_dataset(grey, EXPLICIT, PhotometricInterpretation="PALETTE COLOR", **palette)),
        "jpeg": compressed(rgb, JPEG + "50", [pillow(rgb, "JPEG")], PhotometricInterpretation="YBR_FULL_422"),
        "jpeg grey": compressed(grey, JPEG + "50", [pillow(grey, "JPEG")]),
        "jpeg lossless": compressed(deep, JPEG + "70", [lossless_jpeg(deep)]),
        "jpeg-ls": compressed(grey, JPEG + "80", [bytes(jpeg_ls.encode_array(grey))]),
        "jpeg 2000": compressed(deep, JPEG + "90", [pillow(deep, "JPEG2000", no_jp2=True)]),
        "jpeg 2000 rgb": compressed(
            rgb, JPEG + "91", [pillow(rgb, "JPEG2000", no_jp2=True)], PhotometricInterpretation="YBR_RCT"
        ),
        "rle": compressed(deep, "1.2.840.10008.1.2.5", [rle(deep)] * 2, NumberOfFrames=2),
    }


def nifti_seeds() -> dict[str, bytes]:
    """Valid files of several types and shapes, plain and compressed."""
    seeds = {}
    for name, values in {
        "uint8": draw(1, np.uint8).T,
        "int16": np.stack([draw(1, np.int16, seed).T for seed in range(4)], axis=-1),
        "float32": draw(1, np.float32).T[..., None],
    }.items():
        image = nib.Nifti1Image(values, np.diag([0.5, 0.7, 2, 1]))
        image.header.set_xyzt_units("mm")
        seeds[name] = image.to_bytes()
    seeds["nifti2"] = nib.Nifti2Image(draw(1, np.uint8).T, np.eye(4)).to_bytes()
    seeds["gzip"] = gzip.compress(seeds["int16"], mtime=0)
    return seeds


def _change_element(content: bytearray, rng: random.Random) -> None:
    """Another number in one of the image pixel elements (explicit little endian: tag, US, 2, value)."""
    tags = (0x0002, 0x0006, 0x0010, 0x0011, 0x0100, 0x0101, 0x0102, 0x0103, 0x0120)
    tag = struct.pack("<HH", 0x0028, rng.choice(tags))
    place = content.find(tag)
    if place >= 0:
        content[place + 8 : place + 10] = struct.pack("<H", rng.choice(NUMBERS))


def _change_text(content: bytearray, rng: random.Random) -> None:
    """Another text of the same length in an element of group 0028."""
    places = [k for k in range(132, len(content) - 8) if content[k : k + 2] == b"\x28\x00" and content[k + 4] > 64]
    if places:
        place = rng.choice(places)
        length = struct.unpack_from("<H", content, place + 6)[0]
        if 0 < length < 32:
            content[place + 8 : place + 8 + length] = rng.choice(TEXTS).encode().ljust(length)[:length]


def _flip_bytes(content: bytearray, rng: random.Random, start: int, stop: int) -> None:
    for _ in range(rng.choice((1, 1, 2, 4, 16)) if start < stop else 0):
        content[rng.randrange(start, stop)] = rng.randrange(256)


def _flip_pixels(content: bytearray, rng: random.Random) -> None:
    """Bytes behind the start of the pixel data: codestreams, item lengths and samples."""
    start = max(content.find(b"\xe0\x7f\x10\x00"), 132)
    _flip_bytes(content, rng, start + 8, len(content))


def _flip_header(content: bytearray, rng: random.Random) -> None:
    _flip_bytes(content, rng, 0, min(len(content), 700))


def _truncate(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def _insert(content: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(content))
    content[place:place] = rng.randbytes(rng.choice((1, 2, 8, 100)))


def _syntax(content: bytearray, rng: random.Random) -> None:
    """Another transfer syntax of the same length, which makes all pixel data junk."""
    place = content.find(b"1.2.840.10008.1.2.4.")
    if place >= 0:
        content[place + 20 : place + 22] = rng.choice((b"50", b"51", b"57", b"70", b"80", b"81", b"90", b"91", b"99"))
    else:
        _flip_pixels(content, rng)


DICOM_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _change_element, _change_element, _change_text, _flip_pixels, _flip_pixels, _flip_header, _truncate, _insert,
    _syntax,
)  # fmt: skip


def _nifti_field(content: bytearray, rng: random.Random) -> None:
    """Another number in a field of the header: sizes, type, offset, scaling, geometry."""
    place = rng.choice((40, 42, 44, 46, 48, 70, 72, 76, 80, 84, 88, 108, 112, 116, 123, 252, 254, 256, 280, 300, 320))
    kind = rng.choice(("<h", "<f"))
    value = rng.choice((*NUMBERS[:17], -1, -32768))
    content[place : place + struct.calcsize(kind)] = struct.pack(kind, value)
    if kind == "<f" and rng.random() < 0.2:
        content[place : place + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), 1e30, -1e-30)))


def _nifti_bytes(content: bytearray, rng: random.Random) -> None:
    _flip_bytes(content, rng, 0, min(352, len(content)))


NIFTI_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _nifti_field, _nifti_field, _nifti_field, _nifti_bytes, _truncate, _insert,
)  # fmt: skip


def mutant(seeds: dict[str, bytes], mutations: tuple, rng: random.Random) -> tuple[str, bytes]:
    """A damaged file, and the name of the valid one it was made from by one to three changes."""
    name = rng.choice(sorted(seeds))
    packed = seeds[name][:2] == b"\x1f\x8b" and rng.random() < 0.8
    content = bytearray(gzip.decompress(seeds[name]) if packed else seeds[name])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if content:
            rng.choice(mutations)(content, rng)
    return name, gzip.compress(bytes(content), 1) if packed else bytes(content)
