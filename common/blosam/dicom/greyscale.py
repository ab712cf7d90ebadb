"""From stored grey values to what a radiologist sees (PS3.4 N.2): modality transform, VOI transform, presentation.

Every step maps one value to another, so they are worked out once for all values that a pixel can have, in double
precision, and looked up.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pydicom

from blosam.dicom.container import DAMAGE
from blosam.dicom.geometry import numbers
from blosam.dicom.picture import Picture
from blosam.dicom.pixelformat import PixelFormat

logger = logging.getLogger(__name__)

_LARGEST = 1 << 16  # entries of a table


@dataclass(frozen=True)
class Table:
    """A lookup table of DICOM.

    Args:
        first: input value of the first entry.
        entries: outputs.
        bits: per entry, as the descriptor says.
    """

    first: int
    entries: np.ndarray
    bits: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Look up; inputs outside the table get its first or last entry."""
        index = np.clip(np.round(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.intp)].astype(np.float64)


def show_grey(picture: Picture, header: pydicom.Dataset, form: PixelFormat) -> None:
    """Turn the stored values of ``picture`` into displayed ones, in place."""
    stored = picture.values
    picture.padding = _padding(stored, header, form)
    picture.inverted, picture.curve = _presentation(picture, header, form)
    modality = _modality(picture, header, form)
    voi = _voi(picture, header, form)
    if voi is not None:
        shown = _apply(stored, form, lambda values: voi(modality(values))).astype(np.float32)
        counted = shown if picture.padding is None else shown[~picture.padding]
        if counted.size and counted.min() < counted.max():
            picture.values, picture.white, picture.intensity = shown, 1.0, "DICOM window"
            return
        _warn(picture, "The window shows no contrast; percentiles are used instead.")
    identity = np.array_equal(modality(np.array([0.0, 1.0])), [0.0, 1.0]) and not form.signed
    if identity and form.stored <= 8:
        picture.white = float(2**form.stored - 1)
        picture.intensity = f"divided by {picture.white:.0f}"
        return
    picture.values = _apply(stored, form, modality)


def _apply(stored: np.ndarray, form: PixelFormat, function) -> np.ndarray:
    """``function`` of all pixels, through a table of all possible values where those are few."""
    if stored.dtype.itemsize > 2:
        return function(stored.astype(np.float64))
    low = -(1 << (form.stored - 1)) if form.signed else 0
    table = function(np.arange(low, low + (1 << form.stored), dtype=np.float64))
    if np.array_equal(table, table.astype(np.float32)):
        table = table.astype(np.float32)  # half the memory, and no digit lost
    out = np.empty(stored.shape, table.dtype)
    for line, source in zip(out, stored, strict=True):
        line[:] = table[source.astype(np.intp) - low]
    return out


def _padding(stored: np.ndarray, header: pydicom.Dataset, form: PixelFormat) -> np.ndarray | None:
    """Which pixels are no measurement: PixelPaddingValue, up to PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2)."""
    value = numbers(header, "PixelPaddingValue", 1)
    if value is None:
        return None
    limit = numbers(header, "PixelPaddingRangeLimit", 1)
    bounds = [_stored_sign(float(edge[0]), form) for edge in (value, limit if limit is not None else value)]
    mask = (stored >= min(bounds)) & (stored <= max(bounds))
    return mask if mask.any() and not mask.all() else None


def _stored_sign(value: float, form: PixelFormat) -> float:
    """A value of an element that is signed or not as the pixels are, but often written the other way."""
    if form.signed and value >= 1 << (form.stored - 1):
        return value - (1 << form.allocated if value >= 1 << (form.allocated - 1) else 1 << form.stored)
    return value + (1 << form.allocated) if value < 0 and not form.signed else value


def _presentation(picture: Picture, header: pydicom.Dataset, form: PixelFormat) -> tuple[bool, np.ndarray | None]:
    """Whether low values are bright, and the presentation table, which already accounts for that."""
    inverted = form.photometric == "MONOCHROME1"
    table = _table(header.get("PresentationLUTSequence"), signed=False)
    if table is not None:
        return False, table.entries / (2.0**table.bits - 1)
    shape = str(header.get("PresentationLUTShape") or "").strip().upper()
    if shape in ("IDENTITY", "INVERSE") and (shape == "INVERSE") != inverted:
        _warn(picture, f"PresentationLUTShape {shape} contradicts {form.photometric}; the shape was followed.")
        return shape == "INVERSE", None
    return inverted, None


def _modality(picture: Picture, header: pydicom.Dataset, form: PixelFormat):
    """The function from stored values to those of the modality."""
    sequence = header.get("ModalityLUTSequence")
    table = _table(sequence, form.signed)
    if table is not None:
        return table
    if sequence:
        _warn(picture, "The modality table is damaged and was ignored.")
    slope, intercept = numbers(header, "RescaleSlope", 1), numbers(header, "RescaleIntercept", 1)
    a = 1.0 if slope is None or slope[0] == 0 else float(slope[0])
    b = 0.0 if intercept is None else float(intercept[0])
    return lambda values: values * a + b


def _voi(picture: Picture, header: pydicom.Dataset, form: PixelFormat):
    """The function from modality values to [0, 1]: the first VOI table, else the first window, else None."""
    sequence = header.get("VOILUTSequence")
    intercept = numbers(header, "RescaleIntercept", 1)
    table = _table(sequence, form.signed or (intercept is not None and intercept[0] < 0))
    if table is not None:
        white = 2.0**table.bits - 1
        return lambda values: np.clip(table(values) / white, 0.0, 1.0)
    if sequence:
        _warn(picture, "The VOI table is damaged and was ignored.")
    centre, width = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    if centre is None or width is None:
        return None
    if not width[0] > 0:
        _warn(picture, "The window has no width; percentiles are used instead.")
        return None
    kind = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
    return window_function(float(centre[0]), float(width[0]), kind)


def window_function(centre: float, width: float, kind: str = "LINEAR"):
    """A window as a function to [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        centre: WindowCenter.
        width: WindowWidth, above 0.
        kind: VOILUTFunction; unknown ones count as LINEAR.
    """
    if kind == "SIGMOID":
        return lambda values: 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700)))
    # A linear window below 1 is not defined; files with rescaled values below 1 mean the exact one.
    if kind == "LINEAR_EXACT" or width < 1:
        return lambda values: np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    if width == 1:
        return lambda values: (values > centre - 0.5).astype(np.float64)
    return lambda values: np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)


def _table(sequence, signed: bool) -> Table | None:
    """The first lookup table of a sequence; None when there is none that works.

    Args:
        sequence: value of a sequence element.
        signed: whether its inputs may be negative; the descriptor does not say so itself.
    """
    try:
        item = sequence[0]
        count, first, bits = (int(number) for number in item.LUTDescriptor)
        entries = _entries(item.LUTData, count % _LARGEST or _LARGEST)
    except DAMAGE:
        return None
    count = count % _LARGEST or _LARGEST
    if entries is None or len(entries) < count or not 1 <= bits <= 16:
        return None
    first = first - _LARGEST if signed and first >= _LARGEST // 2 else first
    first = first + _LARGEST if not signed and first < 0 else first
    return Table(first, entries[:count], bits)


def _entries(data, count: int) -> np.ndarray | None:
    """LUTData, which may be numbers, or bytes of 8 or 16 bits per entry."""
    if isinstance(data, bytes):
        return np.frombuffer(data[: len(data) // 2 * 2], "<u2") if len(data) >= 2 * count else np.frombuffer(data, "u1")
    values = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
    if len(values) >= count:
        return values
    return np.frombuffer(values.astype("<u2").tobytes(), "u1")  # two entries of 8 bits in each word


def _warn(picture: Picture, text: str) -> None:
    """Keep a warning with the picture, and log it without naming the file: names of DICOM files may identify."""
    picture.warnings.append(text)
    logger.warning("%s", text)
