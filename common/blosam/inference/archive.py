"""Zip files from strangers: checked as a whole before anything is unpacked, and unpacked with a budget.

Nothing that the file says about itself is relied on: names are checked against one narrow form, and the bytes
that come out are counted while they are written, whatever the headers promise.
"""

from __future__ import annotations

import io
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from blosam.errors import BlosamError

MAX_ENTRIES = 10_000  # a TorchScript file of the largest encoder has about 3,000
MAX_BYTES = 16 << 30  # unpacked, all entries together
MAX_RATIO = 200  # unpacked : packed, of entries above RATIO_FROM; JSON reaches about 20, zlib's limit is 1032
RATIO_FROM = 1 << 20
MAX_TEXT = 2 << 20  # a config, a licence, a page
_CHUNK = 1 << 18
_LARGEST_READ = 4 << 20  # bounds the list of contents, which zipfile reads at once
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others need up to gigabytes to unpack
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_DEVICE_NAMES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?$")
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, ValueError, RuntimeError)


class Archive:
    """An open zip file all of whose entries have been checked; see :func:`open_archive`.

    Args:
        path: the file, for messages.
        opened: the same, open.
        entries: name -> entry, folders left out.
    """

    def __init__(self, path: Path, opened: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> None:
        self.path = path
        self.entries = entries
        self._opened = opened

    def read_text(self, name: str) -> str:
        """Text of one entry, at most ``MAX_TEXT`` bytes of UTF-8.

        Raises:
            BlosamError: when it is longer, damaged or no text.
        """
        target = io.BytesIO()
        self._copy(name, target, MAX_TEXT)
        try:
            return target.getvalue().decode()
        except UnicodeDecodeError as error:
            raise BlosamError(f"{self.path}: '{name}' is no UTF-8 text. Get the file again from its maker.") from error

    def extract(self, wanted: Callable[[str], str | None], folder: Path, max_bytes: int = MAX_BYTES) -> list[str]:
        """Unpack the wanted entries.

        Args:
            wanted: maps an entry's name to its name below ``folder``, or to None to leave it out.
            folder: an empty folder of our own.
            max_bytes: budget for all of them together.

        Returns:
            the names below ``folder`` that were written.

        Raises:
            BlosamError: when an entry is damaged, the budget is exceeded or the disk is full.
        """
        written, left = [], max_bytes
        for name in self.entries:
            target_name = wanted(name)
            if target_name is None:
                continue
            target = folder / target_name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(target, "xb") as file:
                    left -= self._copy(name, file, left)
            except OSError as error:
                raise BlosamError(
                    f"{self.path}: '{name}' cannot be unpacked to the temporary folder ({error.strerror}). "
                    "Free some space there, or set TMPDIR to a folder on another disk."
                ) from error
            written.append(target_name)
        return written

    def _copy(self, name: str, target: io.BufferedIOBase, budget: int) -> int:
        """Write one entry to ``target``; its length."""
        total = 0
        try:
            with self._opened.open(self.entries[name]) as source:
                while chunk := source.read(_CHUNK):
                    total += len(chunk)
                    if total > budget:
                        raise BlosamError(
                            f"{self.path}: '{name}' unpacks to more than {budget:,} bytes. Do not use this file."
                        )
                    target.write(chunk)
        except BlosamError:
            raise
        except _BROKEN as error:
            raise _broken(self.path, f"'{name}' is damaged") from error
        return total


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip file and check every entry, wanted or not.

    Raises:
        BlosamError: when it is damaged or encrypted, has more than ``MAX_ENTRIES`` entries or unpacks to more than
            ``MAX_BYTES``, or an entry leaves the folder, is a link or device, is packed suspiciously well, or has
            the name of another one.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(open(path, "rb"))
            opened = stack.enter_context(zipfile.ZipFile(_ShortReads(raw, path)))
            archive = Archive(path, opened, _checked(path, opened.infolist()))
        except BlosamError:
            raise
        except _BROKEN as error:
            raise _broken(path, "is no complete zip file") from error
        except OSError as error:
            raise BlosamError(f"{path}: cannot be read ({error.strerror}). Check its name and permissions.") from error
        yield archive


def is_zip(path: Path) -> bool:
    """Whether a file begins like a zip file."""
    with open(path, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _checked(path: Path, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    if len(entries) > MAX_ENTRIES:
        raise _refused(path, f"it has {len(entries):,} entries, more than {MAX_ENTRIES:,}")
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise _refused(path, f"it unpacks to more than {MAX_BYTES:,} bytes")
    files: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for entry in entries:
        # zipfile cuts names at NUL and turns "\" into "/" on Windows; what the file really says counts.
        name = entry.orig_filename
        reason = _reason_against(entry, name)
        if reason:
            raise _refused(path, f"its entry {name[:80]!r} {reason}")
        folded = unicodedata.normalize("NFC", name.rstrip("/")).casefold()
        if folded in seen:
            raise _refused(path, f"its entry {name[:80]!r} is there twice")
        seen.add(folded)
        if not name.endswith("/"):
            files[name] = entry
    return files


def _reason_against(entry: zipfile.ZipInfo, name: str) -> str:
    """Why an entry is refused; empty when it is fine."""
    parts = name.removesuffix("/").split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not name.isprintable() or "\\" in name or ":" in name or len(name) > 512:
        return "has a name with a control character, '\\', ':' or more than 512 characters"
    if any(part in ("", ".", "..") or part != part.strip() or _DEVICE_NAMES.match(part) for part in parts):
        return "leaves its folder, or has an empty or reserved part in its name"
    if kind not in (0, stat.S_IFDIR if name.endswith("/") else stat.S_IFREG):
        return "is a link or a device, not a file"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in _METHODS:
        return f"is packed with method {entry.compress_type}; only stored and deflated ones are read"
    if entry.file_size > RATIO_FROM and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
        return f"is packed more than {MAX_RATIO} : 1"
    return ""


def _refused(path: Path, reason: str) -> BlosamError:
    return BlosamError(f"{path}: refused, {reason}. Nothing was unpacked; do not use this file.")


def _broken(path: Path, what: str) -> BlosamError:
    return BlosamError(f"{path}: {what}. Copy or download it again.")


class _ShortReads(io.RawIOBase):
    """A file that refuses to read much at once: zipfile reads the list of contents with a length from the file."""

    def __init__(self, raw: io.BufferedReader, path: Path) -> None:
        super().__init__()
        self._raw, self._path = raw, path

    def read(self, size: int = -1) -> bytes:
        if size > _LARGEST_READ:
            raise _refused(self._path, f"its list of contents is longer than {_LARGEST_READ:,} bytes")
        return self._raw.read(_LARGEST_READ if size < 0 else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True
