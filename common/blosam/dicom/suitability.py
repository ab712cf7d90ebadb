"""Is a DICOM image of the kind that a bundle was made for?

Only what the header states can speak against an image: an absent or empty element never does. Messages name values
that DICOM defines and nothing else from the header, since any element may have been used for a patient's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pydicom

from blosam.dicom.container import DAMAGE
from blosam.dicom.pixelformat import COLOUR, PALETTE

# Values that may be repeated in a message.
_MODALITIES = {
    "CR": "computed radiography", "DX": "digital radiography", "CT": "computed tomography",
    "MR": "magnetic resonance", "US": "ultrasound", "MG": "mammography", "NM": "nuclear medicine",
    "PT": "positron emission tomography", "RF": "fluoroscopy", "XA": "angiography", "ES": "endoscopy",
    "XC": "photography", "GM": "microscopy", "SM": "slide microscopy", "PX": "panoramic dental",
    "IO": "intra-oral dental", "OP": "ophthalmic photography", "OPT": "ophthalmic tomography",
    "SC": "secondary capture", "OT": "other", "RG": "film radiography", "IVUS": "intravascular ultrasound",
    "BMD": "bone densitometry",
}  # fmt: skip
_BODY_PARTS = (
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BLADDER", "BRAIN", "BREAST", "CALCANEUS", "CHEST", "CHESTABDOMEN",
    "CHESTABDPELVIS", "CLAVICLE", "COCCYX", "COLON", "CSPINE", "ELBOW", "ESOPHAGUS", "EXTREMITY", "EYE", "FACE",
    "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEART", "HIP", "HUMERUS", "INTESTINE", "JAW", "KIDNEY",
    "KNEE", "LARGEINTESTINE", "LEG", "LIVER", "LSPINE", "LUNG", "MANDIBLE", "MAXILLA", "NECK", "NOSE", "ORBIT",
    "PATELLA", "PELVIS", "PROSTATE", "RECTUM", "RIB", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "SSPINE", "STERNUM",
    "STOMACH", "TEETH", "THIGH", "THORAX", "THUMB", "TOE", "TOOTH", "TSPINE", "UTERUS", "WHOLEBODY", "WRIST", "ZYGOMA",
)  # fmt: skip
_VIEWS = {"LATERAL": "LATERAL", "LAT": "LATERAL", "LL": "LATERAL", "RL": "LATERAL", "LLD": "LATERAL DECUBITUS",
          "RLD": "LATERAL DECUBITUS", "PA": "PA", "AP": "AP", "LLO": "OBLIQUE", "RLO": "OBLIQUE"}  # fmt: skip
_UNKNOWN = ("", "OT", "UNKNOWN", "NONE", "OTHER")
_NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
}


def reasons_against(header: pydicom.Dataset, accepts: Mapping[str, Any] | None) -> list[str]:
    """Why a bundle should not be used on this image, one sentence each; empty when nothing speaks against it.

    Args:
        header: of the image.
        accepts: ``accepted_images`` of the bundle's metadata: ``colour`` (bool), ``modalities``, ``body_parts``,
            ``views`` (lists of defined terms; empty or absent = all).
    """
    accepts = accepts or {}
    found = []
    kind = _NO_IMAGES.get(_text(header, "SOPClassUID"))
    if kind is not None:
        found.append(f"It is {kind}, not an image.")
    found += (
        _modality(header, accepts) + _colour(header, accepts) + _body_part(header, accepts) + _view(header, accepts)
    )
    return found


def cautions_about(header: pydicom.Dataset, accepts: Mapping[str, Any] | None) -> list[str]:
    """What could not be checked because the header does not say it, as one sentence; empty when all could.

    Args:
        header: of the image.
        accepts: as for ``reasons_against``.
    """
    accepts = accepts or {}
    missing = []
    if _list(accepts, "modalities") and _text(header, "Modality") in _UNKNOWN:
        missing.append("modality")
    if _list(accepts, "body_parts") and not _body_parts_of(header):
        missing.append("body part")
    if _list(accepts, "views") and not _view_of(header):
        missing.append("view")
    if not missing:
        return []
    return [f"The image does not state its {', '.join(missing)}, so it was not checked that the bundle fits it."]


def _modality(header: pydicom.Dataset, accepts: Mapping[str, Any]) -> list[str]:
    wanted, value = _list(accepts, "modalities"), _text(header, "Modality")
    if not wanted or value in _UNKNOWN or value in wanted:
        return []
    name = f"{value} ({_MODALITIES[value]})" if value in _MODALITIES else "another one"
    return [f"The modality is {name}, but the bundle is for {' or '.join(wanted)}."]


def _colour(header: pydicom.Dataset, accepts: Mapping[str, Any]) -> list[str]:
    wanted, photometric = accepts.get("colour"), _text(header, "PhotometricInterpretation")
    if wanted is None or not photometric:
        return []
    coloured = photometric in (*COLOUR, PALETTE)
    if coloured and not wanted:
        return ["The image is in colour, but the bundle is for grey images."]
    if not coloured and wanted:
        return ["The image is grey, but the bundle is for colour images."]
    return []


def _body_part(header: pydicom.Dataset, accepts: Mapping[str, Any]) -> list[str]:
    wanted, parts = _list(accepts, "body_parts"), _body_parts_of(header)
    if not wanted or not parts or any(part in wanted for part in parts):
        return []
    named = [part for part in parts if part in _BODY_PARTS]
    what = f"shows the {named[0]}" if named else "shows another body part"
    return [f"The image {what}, but the bundle is for {' or '.join(wanted)}."]


def _body_parts_of(header: pydicom.Dataset) -> list[str]:
    """BodyPartExamined as a whole and in words; people write "CHEST PA" and "Chest, frontal" into it."""
    value = _text(header, "BodyPartExamined")
    if value in _UNKNOWN:
        return []
    words = re.findall(r"[A-Z]+", value)
    return list(dict.fromkeys(["".join(words), *words]))


def _view(header: pydicom.Dataset, accepts: Mapping[str, Any]) -> list[str]:
    wanted, view = _list(accepts, "views"), _view_of(header)
    if not wanted or not view or view in wanted:
        return []
    return [f"The view is {view}, but the bundle is for {' or '.join(wanted)}."]


def _view_of(header: pydicom.Dataset) -> str:
    """The view: from ViewPosition, the view code, or the direction that rows run in; empty when none tells."""
    value = _text(header, "ViewPosition")
    if value in _VIEWS:
        return _VIEWS[value]
    if value not in _UNKNOWN:
        return "another one"
    meaning = " ".join(_text(item, "CodeMeaning") for item in _items(header, "ViewCodeSequence")[:1])
    for words, view in (("LATERAL", "LATERAL"), ("POSTERO", "PA"), ("ANTERO", "AP"), ("OBLIQUE", "OBLIQUE")):
        if words in meaning:
            return view
    direction = header.get("PatientOrientation")
    first = str(direction[0]) if isinstance(direction, pydicom.multival.MultiValue) and len(direction) == 2 else ""
    return "LATERAL" if first[:1] in ("A", "P") else ""


def _text(header: pydicom.Dataset, keyword: str) -> str:
    """A text in capital letters; empty when absent or damaged."""
    try:
        value = header.get(keyword)
    except DAMAGE:
        return ""
    return "" if value is None else str(value).strip(" \0").upper()


def _items(header: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    try:
        value = header.get(keyword)
    except DAMAGE:
        return []
    return list(value) if isinstance(value, pydicom.Sequence) else []


def _list(accepts: Mapping[str, Any], key: str) -> list[str]:
    return [str(value).upper() for value in accepts.get(key) or []]
