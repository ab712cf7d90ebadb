"""One compressed frame through GDCM, without writing a file."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from blosam.dicom.codestream import Codestream
from blosam.dicom.pixelformat import PixelFormat


def decode_with_gdcm(gdcm: ModuleType, data: bytes, stream: Codestream, form: PixelFormat, syntax: str) -> np.ndarray:
    """Decode to Rows x Columns (x 3), unsigned, in as many bits as the codestream's precision needs.

    Raises:
        ValueError: when GDCM gives another amount of data, as it does for damaged frames.
    """
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(data)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((form.columns, form.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType("RGB" if form.samples == 3 else "MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if form.samples == 3:
        image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    bits = 8 if stream.precision <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(form.samples, bits, stream.precision, stream.precision - 1, 0))
    # GDCM's bytes arrive as text.
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    expected = form.rows * form.columns * form.samples * bits // 8
    if len(buffer) != expected:
        raise ValueError(f"{len(buffer)} bytes were decoded instead of {expected}")
    return np.frombuffer(buffer, f"<u{bits // 8}").reshape(form.shape).copy()
