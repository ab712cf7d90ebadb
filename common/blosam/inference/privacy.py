"""Keeping patients out of logs, file names and records.

Inputs are called by their position and the beginning of their SHA-256. Texts that could repeat a path or a value of a
DICOM header pass through a :class:`Scrubber`; what other libraries log is withheld altogether, because nobody can tell
what it holds.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from blosam.errors import BlosamError

DIGITS = 8  # of the SHA-256 that names show
_SALT_BYTES = 32
_UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){4,}(?![\w.]*\w)")
_STANDARD_UID = "1.2.840.10008."  # kinds of objects and transfer syntaxes, not objects
_PATH = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:\\|\\\\|~?/)[^\s\"'<>|,;:]+")
# Value representations that hold free text, names, numbers, dates or identifiers; CS holds defined terms.
_TELLING = {"PN", "LO", "SH", "UI", "DA", "DT", "TM", "LT", "ST", "UT", "UC", "UR", "AE", "AS", "UN"}
_SHORTEST = 3  # shorter values would cut ordinary words to pieces
_ANYWHERE = 6  # values this long are removed inside longer words, too
_EXPECTED = (BlosamError, SystemExit, KeyboardInterrupt)
WITHHELD = "(message withheld: it may name a patient)"


def image_name(position: int, sha256: str) -> str:
    """What an input is called everywhere, e.g. ``image_0012_3fa9c2d1``."""
    return f"image_{position:04d}_{sha256[:DIGITS]}"


def config_folder() -> Path:
    """The user's folder for what this installation keeps: BLOSAM_CONFIG_DIR, or ``blosam`` in XDG_CONFIG_HOME."""
    own = os.environ.get("BLOSAM_CONFIG_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "blosam"


def installation_salt(folder: Path | None = None) -> bytes:
    """The private number that makes hashed UIDs of this installation unguessable; made at its first use.

    Args:
        folder: where it is kept; :func:`config_folder` by default.

    Raises:
        BlosamError: when it cannot be made or read, is damaged, or others may read it.
    """
    path = (folder or config_folder()) / "uid_salt"
    try:
        if not path.exists():
            _make_salt(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        salt = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise BlosamError(
            f"{path}: the salt of hashed UIDs cannot be used ({error.strerror}). Set BLOSAM_CONFIG_DIR to a private "
            "folder, or give --keep-uids."
        ) from error
    except ValueError as error:
        raise BlosamError(f"{path}: is no salt. Remove the file; UIDs are then hashed differently.") from error
    if mode & 0o077 and os.name == "posix":
        raise BlosamError(f"{path}: others may read the salt of hashed UIDs. Run `chmod 600 {path}`.")
    if len(salt) != _SALT_BYTES:
        raise BlosamError(f"{path}: is no salt of {_SALT_BYTES} bytes. Remove it; UIDs are then hashed differently.")
    return salt


def _make_salt(path: Path) -> None:
    """Write a new salt that no other process can see half-written or replace."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(_SALT_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first: its salt counts
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class UidHasher:
    """Turns UIDs into numbers that are the same for the same UID and installation, and lead nowhere else.

    Args:
        salt: of the installation; None keeps UIDs as they are.
    """

    def __init__(self, salt: bytes | None) -> None:
        self.salt = salt

    def __call__(self, uid: str) -> str:
        """The UID, or ``uid-`` and 16 hexadecimal digits; empty for an empty one."""
        if not uid or self.salt is None:
            return uid
        return "uid-" + hmac.new(self.salt, uid.encode(), hashlib.sha256).hexdigest()[:16]


class Scrubber:
    """Removes what may tell who the patient is from a text.

    Args:
        name: what the input is called instead of its path.
        path: of the input.
        header: DICOM data set whose values must not appear, nested and private ones included.
    """

    def __init__(self, name: str, path: Path | None = None, header: Any = None) -> None:
        self.name = name
        self._replaced: list[tuple[str, str]] = []
        if path is not None:
            absolute = os.path.abspath(path)
            folder = os.path.dirname(absolute)
            known = {str(path), absolute, os.path.realpath(path), repr(str(path))[1:-1], path.name, path.stem}
            self._replaced += [(text, name) for text in known if len(text) >= _SHORTEST]
            self._replaced += [(text, "...") for text in {folder, str(path.parent)} if len(text) >= _SHORTEST]
        self._header = header

    def add_header(self, header: Any) -> None:
        """Also remove the values of this DICOM data set."""
        self._header = header

    def clean(self, text: str) -> str:
        """The text with paths, header values, UIDs and other absolute paths replaced."""
        if self._header is not None:  # only now: most headers are never needed here
            values = {text for text in telling_values(self._header) if len(text) >= _SHORTEST}
            self._replaced += [(text, "[removed]") for text in values]
            self._header = None
        # Longest first, so that a path goes before the name in it.
        for found, replacement in sorted(self._replaced, key=lambda pair: -len(pair[0])):
            if found in text:
                whole = re.escape(found)
                if len(found) < _ANYWHERE:
                    whole = rf"(?<![^\W_]){whole}(?![^\W_])"
                text = re.sub(whole, lambda _, new=replacement: new, text)
        text = _UID.sub(lambda m: m.group() if m.group().startswith(_STANDARD_UID) else "[UID]", text)
        return _PATH.sub("[path]", text)


def telling_values(header: Any) -> Iterator[str]:
    """Every text in a DICOM data set that may say who the patient is; parts of names, too."""
    for element in _raw_elements(header):
        vr, value = element.VR, element.value
        private = element.tag.is_private
        if vr == "SQ":
            for item in value or ():
                yield from telling_values(item)
        elif vr in _TELLING or private:
            yield from _texts(value, vr)


def _raw_elements(header: Any) -> Iterator[Any]:
    """The elements that can be decoded; broken ones are in no message either, as their value cannot be made."""
    for tag in list(header.keys()):
        try:
            yield header[tag]
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, OverflowError, LookupError):
            continue


def _texts(value: Any, vr: str) -> Iterator[str]:
    many = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
    for one in many:
        if isinstance(one, bytes):
            one = one.decode("latin-1").strip("\0 ")
            if not one.isprintable():
                continue
        text = str(one).strip() if one is not None else ""
        if text.startswith(_STANDARD_UID):
            continue
        yield text
        if vr == "PN":
            yield from (part for part in re.split(r"[\^= ]+", text) if part)


class _Ears(threading.local):
    """What the current thread works on, and what was said about it."""

    scrubber: Scrubber | None = None
    heard: list[str] | None = None


_ears = _Ears()


@contextmanager
def listening(scrubber: Scrubber) -> Iterator[list[str]]:
    """In this thread: clean our own log messages with ``scrubber``; yields the warnings among them."""
    before = _ears.scrubber, _ears.heard
    heard: list[str] = []
    _ears.scrubber, _ears.heard = scrubber, heard
    try:
        yield heard
    finally:
        _ears.scrubber, _ears.heard = before


class discreet:
    """While it lasts, nothing that is logged, warned of or raised can name a patient.

    Log records of other libraries and Python warnings lose their text. Our own pass through the scrubber of the
    thread that writes them. An exception nobody catches is shown with its place but without its message.

    Args:
        show_paths: whether our own messages keep paths.
    """

    def __init__(self, show_paths: bool = False) -> None:
        self.show_paths = show_paths

    def __enter__(self) -> None:
        self._factory, self._warn, self._hook = logging.getLogRecordFactory(), warnings.showwarning, sys.excepthook
        logging.setLogRecordFactory(self._record)
        warnings.showwarning = _withhold_warning
        sys.excepthook = _show_exception

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        logging.setLogRecordFactory(self._factory)
        warnings.showwarning = self._warn
        if kind is None or issubclass(kind, _EXPECTED):
            sys.excepthook = self._hook  # otherwise the exception is still on its way to it

    def _record(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._factory(*args, **kwargs)
        text = WITHHELD
        if record.name.split(".")[0] == "blosam":
            scrubber = _ears.scrubber or Scrubber("image")
            text = scrubber.clean(record.getMessage())
            if record.levelno >= logging.WARNING and _ears.heard is not None:
                _ears.heard.append(text.removeprefix(f"{scrubber.name}: "))
            text = record.getMessage() if self.show_paths else text
        record.msg, record.args = text, ()
        record.exc_info = record.exc_text = record.stack_info = None
        return record


def _withhold_warning(*warning: Any, **more: Any) -> None:
    logging.getLogger("py.warnings").info(WITHHELD)


def _show_exception(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Where an unexpected exception arose; its message could hold a path or a value of a header."""
    lines = []
    for frame in traceback.extract_tb(trace):
        place = frame.filename.replace(os.sep, "/").split("/site-packages/")[-1].split("/common/")[-1]
        lines.append(f"  {place}:{frame.lineno} in {frame.name}")
    sys.stderr.write("\n".join(["Traceback (messages withheld: they may name a patient):", *lines, kind.__name__, ""]))


_IDENTIFYING = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "OtherPatientIDs",
    "OtherPatientIDsSequence", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "PatientAddress",
    "PatientTelephoneNumbers", "PatientTelecomInformation", "MilitaryRank", "MedicalRecordLocator",
    "ResponsiblePerson", "PatientComments", "AccessionNumber", "AdmissionID", "InsurancePlanIdentification",
    "InstitutionName", "InstitutionAddress", "ReferringPhysicianAddress", "RequestAttributesSequence",
    "ReferencedPatientPhotoSequence", "PersonName", "RequestingService", "DeviceSerialNumber", "StationName",
)  # fmt: skip
_NOBODY = {"ANON", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "DEIDENTIFIED", "REMOVED", "NONE", "UNKNOWN"}


def identifying_tags(header: Any) -> list[str]:
    """What in a DICOM header speaks against its being de-identified: keywords and tags, never values.

    Args:
        header: the data set without its pixels.

    Returns:
        One entry for each finding; empty when there is none. Stricter than the basic profile of PS3.15 annex E, which
        also lets invented names and numbers stand.
    """
    found = []
    if str(header.get("PatientIdentityRemoved", "")).strip() != "YES":
        found.append("PatientIdentityRemoved is not YES")
    found += sorted({name for name in _identifiers(header)})
    for keyword in ("BurnedInAnnotation", "RecognizableVisualFeatures"):
        if str(header.get(keyword, "")).strip() == "YES":
            found.append(f"{keyword} is YES")
    return found


def _identifiers(header: Any) -> Iterator[str]:
    """Keywords of elements with an identifier, also in sequences; private elements by their tag."""
    for element in _raw_elements(header):
        value = element.value
        if element.VR == "SQ":
            if element.keyword in _IDENTIFYING and value:
                yield element.keyword
            for item in value or ():
                yield from _identifiers(item)
        elif value is None or not str(value).strip() or str(value).strip().upper() in _NOBODY:
            continue
        elif element.VR == "PN" or element.keyword in _IDENTIFYING:
            yield element.keyword or str(element.tag)
        elif element.tag.is_private and element.VR in ("LO", "SH", "LT", "ST", "UT", "UN", "DA", "DT"):
            yield f"private element {element.tag}" if not element.tag.is_private_creator else ""


def refuse_identified(header: Any, name: str) -> None:
    """For ``--deidentified``.

    Raises:
        BlosamError: naming the elements that hold identifiers.
    """
    found = [entry for entry in identifying_tags(header) if entry]
    if found:
        raise BlosamError(
            f"{name}: not de-identified: {', '.join(found)}. De-identify the file, or leave out --deidentified."
        )
