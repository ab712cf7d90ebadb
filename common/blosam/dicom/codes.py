"""Coded meaning of the classes: what each segment is, in SNOMED CT or in codes of a laboratory's own.

``metadata.json`` of a bundle holds one entry per class under ``segment_codes``::

    {"lung": {"category": ["91723000", "SCT", "Anatomical Structure"],
              "type": ["39607008", "SCT", "Lung"],
              "modifiers": [], "colour": [197, 165, 145]}}

A class without an entry gets a well-known code when its name is well known, and otherwise a local one (coding scheme
``99BLOSAM``), so that every label table can be written as DICOM.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blosam.errors import BlosamError

LOCAL_SCHEME = "99BLOSAM"  # a designator that begins with 99 is private (PS3.16, section 8)
MAX_TEXT = 64  # characters of the value representation LO
_MAX_SHORT = 16  # SH
_KEYS = {"category", "type", "modifiers", "colour"}


@dataclass(frozen=True)
class Concept:
    """A coded concept: value, coding scheme designator and meaning."""

    value: str
    scheme: str
    meaning: str

    @classmethod
    def local(cls, value: str, meaning: str) -> Concept:
        """A concept of the private scheme 99BLOSAM."""
        return cls(value, LOCAL_SCHEME, meaning)


@dataclass(frozen=True)
class SegmentCode:
    """What one class of a mask means.

    Args:
        name: of the class; becomes the segment's label.
        number: its value in the mask, which is also the segment number.
        category: general kind (CID 7150), e.g. anatomical structure.
        type: what the segment shows (CID 7151 or local).
        modifiers: e.g. laterality.
        colour: red, green, blue, 0 to 255, recommended for display.
    """

    name: str
    number: int
    category: Concept
    type: Concept
    modifiers: tuple[Concept, ...]
    colour: tuple[int, int, int]

    @property
    def is_local(self) -> bool:
        """Whether a code of the private scheme is used."""
        return any(concept.scheme == LOCAL_SCHEME for concept in (self.category, self.type, *self.modifiers))


ANATOMY = Concept("91723000", "SCT", "Anatomical Structure")
ABNORMALITY = Concept("49755003", "SCT", "Morphologically Abnormal Structure")
REGION = Concept("309825002", "SCT", "Spatial and Relational Concept")  # claims nothing about an unknown class
RIGHT = Concept("24028007", "SCT", "Right")
LEFT = Concept("7771000", "SCT", "Left")

_LUNG = Concept("39607008", "SCT", "Lung")
_TOOTH = Concept("38199008", "SCT", "Tooth")
_POLYP = Concept("68496003", "SCT", "Polyp of colon")  # the only polyp in DICOM's context groups (CID 6201)
_LUNG_COLOUR, _TOOTH_COLOUR, _POLYP_COLOUR = (197, 165, 145), (255, 250, 220), (255, 128, 64)

# Class names that are understood without an entry in the metadata; keys as `_plain` writes them.
_WELL_KNOWN: dict[str, tuple[Concept, Concept, tuple[Concept, ...], tuple[int, int, int]]] = {
    "lung": (ANATOMY, _LUNG, (), _LUNG_COLOUR),
    "lungs": (ANATOMY, _LUNG, (), _LUNG_COLOUR),
    "left lung": (ANATOMY, _LUNG, (LEFT,), (172, 138, 115)),
    "right lung": (ANATOMY, _LUNG, (RIGHT,), _LUNG_COLOUR),
    "tooth": (ANATOMY, _TOOTH, (), _TOOTH_COLOUR),
    "teeth": (ANATOMY, _TOOTH, (), _TOOTH_COLOUR),
    "polyp": (ABNORMALITY, _POLYP, (), _POLYP_COLOUR),
    "polyps": (ABNORMALITY, _POLYP, (), _POLYP_COLOUR),
}
# Colours for other classes, by number: far apart from each other, also for the colour-blind.
_PALETTE = (
    (86, 180, 233), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (240, 228, 66), (0, 114, 178),
)  # fmt: skip


def default_codes(labels: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The ``segment_codes`` of the metadata for these classes, as far as their names are well known or local.

    Args:
        labels: class name to value, 1..K.
    """
    return {name: _entry(_default(name, number)) for name, number in labels.items()}


def segment_codes(metadata: Mapping[str, Any], labels: Mapping[str, int]) -> list[SegmentCode]:
    """The coded classes of a bundle, by their value.

    Args:
        metadata: of the bundle; ``segment_codes`` may be absent or lack classes.
        labels: class name to value; the values are 1..K.

    Raises:
        BlosamError: when the table or an entry is not as this module describes it, or the values are not 1..K.
    """
    table = metadata.get("segment_codes") or {}
    if not isinstance(table, Mapping):
        raise BlosamError(
            f"metadata.json: segment_codes is {table!r}, but must map each class to its codes. Correct it."
        )
    unknown = sorted(set(table) - set(labels))
    if unknown:
        known = ", ".join(sorted(labels))
        raise BlosamError(
            f"metadata.json: segment_codes names {unknown[0]!r}, but the classes are {known}. Correct the name."
        )
    ordered = sorted(labels.items(), key=lambda item: item[1])
    if not ordered or [value for _, value in ordered] != list(range(1, len(ordered) + 1)):
        raise BlosamError(
            f"labels: the values are {', '.join(str(value) for _, value in ordered) or 'none'}, but DICOM numbers "
            f"segments 1, 2, ... without gaps. Correct the bundle's labels."
        )
    return [_parse(name, number, table[name]) if name in table else _default(name, number) for name, number in ordered]


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """Text as LO and SH allow it: one line, no backslash, not longer than ``limit``."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text.replace("\\", "/")).split())
    return line if len(line) <= limit else line[: limit - 3].rstrip() + "..."


def _default(name: str, number: int) -> SegmentCode:
    """What is written for a class that the metadata do not describe."""
    known = _WELL_KNOWN.get(_plain(name))
    if known is not None:
        return SegmentCode(name, number, *known)
    concept = Concept.local(_local_value(name), clean_text(name) or f"class {number}")
    return SegmentCode(name, number, REGION, concept, (), _PALETTE[(number - 1) % len(_PALETTE)])


def _plain(name: str) -> str:
    """Lower case words, single spaces: "Left_Lung" and "left-lung" are one name."""
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))


def _local_value(name: str) -> str:
    """A code value of at most 16 characters that is always the same for a class name."""
    slug = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")
    if name.isascii() and 0 < len(slug) <= _MAX_SHORT:
        return slug
    return "C" + hashlib.sha256(name.encode()).hexdigest()[:12].upper()


def _entry(code: SegmentCode) -> dict[str, Any]:
    """One class as JSON."""
    triple = [[c.value, c.scheme, c.meaning] for c in (code.category, code.type, *code.modifiers)]
    return {"category": triple[0], "type": triple[1], "modifiers": triple[2:], "colour": list(code.colour)}


def _parse(name: str, number: int, entry: Any) -> SegmentCode:
    """One class of the metadata, checked."""
    where = f"metadata.json: segment_codes#{name}"
    if not isinstance(entry, Mapping) or not {"category", "type"} <= set(entry) or not set(entry) <= _KEYS:
        raise BlosamError(
            f'{where}: must hold "category" and "type", and may hold "modifiers" and "colour". Correct it.'
        )
    modifiers = entry.get("modifiers", [])
    if not isinstance(modifiers, list):
        raise BlosamError(f"{where}#modifiers: is {modifiers!r}, but must be a list of coded concepts. Correct it.")
    return SegmentCode(
        name=name,
        number=number,
        category=_concept(f"{where}#category", entry["category"]),
        type=_concept(f"{where}#type", entry["type"]),
        modifiers=tuple(_concept(f"{where}#modifiers", item) for item in modifiers),
        colour=_colour(f"{where}#colour", entry.get("colour"), _default(name, number).colour),
    )


def _concept(where: str, value: Any) -> Concept:
    """[code value, coding scheme designator, meaning] as a concept."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise BlosamError(f'{where}: is {value!r}, but must be ["code", "scheme", "meaning"]. Correct it.')
    limits = (_MAX_SHORT, _MAX_SHORT, MAX_TEXT)
    for part, limit, what in zip(value, limits, ("code value", "coding scheme", "meaning"), strict=True):
        if not isinstance(part, str) or not part.strip() or part != clean_text(part, limit):
            raise BlosamError(
                f"{where}: the {what} {part!r} must be text of 1 to {limit} characters without a backslash. Correct it."
            )
    return Concept(*value)


def _colour(where: str, value: Any, default: tuple[int, int, int]) -> tuple[int, int, int]:
    """[red, green, blue] as integers 0..255; the default when there is none."""
    if value is None:
        return default
    right = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3
    if not right or any(type(part) is not int or not 0 <= part <= 255 for part in value):
        raise BlosamError(f"{where}: is {value!r}, but must be [red, green, blue], each 0 to 255. Correct it.")
    return value[0], value[1], value[2]
