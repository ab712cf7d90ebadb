"""Fetching one large file over HTTP: resumable, verified by size and SHA-256, complete or not there at all.

The bytes go to ``NAME.part``; a cut connection, Ctrl-C or a full disk leaves that file, and the next attempt
goes on where it stopped. Only when size and digest are right is it renamed to ``NAME``.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from . import __version__
from .errors import BlosamError

__all__ = ["RemoteFile", "download"]

logger = logging.getLogger(__name__)

_CHUNK = 1 << 18  # bytes asked for at a time
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # answers that may be different in a moment


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch and what it must be.

    Args:
        url: where it is (http or https).
        target: where it belongs.
        size: bytes.
        sha256: 64 hexadecimal digits.
    """

    url: str
    target: Path
    size: int
    sha256: str

    @property
    def part(self) -> Path:
        """The unfinished file."""
        return self.target.with_name(self.target.name + ".part")

    def is_complete(self) -> bool:
        """Whether the target is there with the right size and digest."""
        return _size(self.target) == self.size and _sha256(self.target) == self.sha256

    def by_hand(self) -> str:
        """How a person without a connection gets the file into place."""
        return (
            f"To do it by hand, download {self.url} ({self.size:,} bytes) on another computer and put it at "
            f"{self.target}"
        )


class _Interrupted(Exception):
    """The connection failed in a way that may not happen again."""


def download(
    remote: RemoteFile,
    *,
    progress: bool | None = None,
    retries: int = 4,
    timeout: float = 30.0,
    wait: float = 1.0,
) -> Path:
    """Fetch a file unless it is there already; go on with an unfinished one.

    A second process that fetches the same file waits for the first. A file at the target with another digest
    is replaced.

    Args:
        remote: what to fetch.
        progress: whether to draw a progress bar on stderr. Defaults to None: only on a terminal.
        retries: how often in a row to try again without having received anything new.
        timeout: seconds without a byte after which a connection counts as cut.
        wait: seconds before the first retry; doubled every time.

    Returns:
        the complete file.

    Raises:
        BlosamError: no connection, a refusal by the server, a file of another size or digest, a full disk or
            a folder that cannot be written. One line that says how to put the file in place by hand.
    """
    if urlsplit(remote.url).scheme not in ("http", "https"):
        raise BlosamError(f"{remote.url}: not a web address. Give one that starts with https:// or http://.")
    if remote.is_complete():
        return remote.target
    with _locked(remote.target):
        if remote.is_complete():  # the process we waited for fetched it
            return remote.target
        if (_size(remote.part) or 0) > remote.size:
            remote.part.unlink()
        _check_space(remote)
        with tqdm(
            total=remote.size,
            desc=remote.target.name,
            unit="B",
            unit_scale=True,
            disable=None if progress is None else not progress,
        ) as bar:
            _receive_all(remote, bar, retries, timeout, wait)
        _finish(remote)
    return remote.target


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the only right to fetch ``target``; the lock goes with the process, however that ends."""
    lock = FileLock(f"{target}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another process is fetching %s; waiting for it", target)
            lock.acquire()
    except OSError as error:
        raise BlosamError(
            f"{target.parent}: cannot write to this folder ({error.strerror or error}). Make it writable, or "
            "set BLOSAM_WEIGHTS_DIR to another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _check_space(remote: RemoteFile) -> None:
    needed = remote.size - (_size(remote.part) or 0)
    free = shutil.disk_usage(remote.target.parent).free
    if free < needed:
        raise BlosamError(
            f"{remote.target}: {needed:,} bytes are still to come, only {free:,} are free in "
            f"{remote.target.parent}. Free some space, or set BLOSAM_WEIGHTS_DIR to a folder on another disk."
        )


def _receive_all(remote: RemoteFile, bar: tqdm, retries: int, timeout: float, wait: float) -> None:
    """Fill the unfinished file up to its full size, over as many connections as that takes."""
    failures, furthest = 0, _size(remote.part) or 0
    while (have := _size(remote.part) or 0) < remote.size:
        reason = "the server closed the connection early"
        try:
            _receive(remote, have, timeout, bar)
        except _Interrupted as error:
            reason = str(error)
        now = _size(remote.part) or 0
        if now == remote.size:
            return
        failures = 1 if now > furthest else failures + 1  # what is received a second time is no progress
        furthest = max(furthest, now)
        if failures > retries:
            kept = f"; {now:,} bytes are kept, the next attempt goes on from there" if now else ""
            raise BlosamError(f"cannot fetch {remote.url} ({reason}{kept}). {remote.by_hand()}.")
        logger.info("%s: %s; trying again", remote.target.name, reason)
        time.sleep(wait * 2 ** (failures - 1))


def _receive(remote: RemoteFile, have: int, timeout: float, bar: tqdm) -> None:
    """Append what one connection yields to the unfinished file, or start anew if the server cannot resume."""
    with _open(remote, have, timeout) as response:
        start = _first_byte(response, remote, have)
        bar.n = start
        bar.refresh()
        try:
            with open(remote.part, "ab" if start else "wb") as file:
                for chunk in _chunks(response):
                    start += len(chunk)
                    if start > remote.size:
                        break
                    file.write(chunk)
                    bar.update(len(chunk))
        except OSError as error:
            raise BlosamError(
                f"{remote.part}: cannot be written ({error.strerror or error}). Free some space, or set "
                "BLOSAM_WEIGHTS_DIR to another folder; fetching again goes on where it stopped."
            ) from error
    if start > remote.size:
        remote.part.unlink()
        raise _other_file(remote, f"more than {remote.size:,} bytes")


def _open(remote: RemoteFile, have: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"blosam/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        return urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # our unfinished file is no prefix of theirs
            remote.part.unlink(missing_ok=True)
            raise _Interrupted("the server cannot resume at this byte") from error
        if error.code in _TRANSIENT:
            raise _Interrupted(f"the server answers {error.code} {error.reason}") from error
        raise BlosamError(
            f"cannot fetch {remote.url}: the server refuses it ({error.code} {error.reason}). "
            f"{remote.by_hand()}, or set BLOSAM_WEIGHTS_URL to a mirror."
        ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise BlosamError(
                f"cannot fetch {remote.url}: the server's certificate is not trusted here. If a proxy of "
                f"yours signs its own, set SSL_CERT_FILE to its certificate. {remote.by_hand()}."
            ) from error
        raise _Interrupted(f"no connection: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"no connection: {error or type(error).__name__}") from error


def _first_byte(response: http.client.HTTPResponse, remote: RemoteFile, have: int) -> int:
    """Where the answer starts in the file (0 if the server cannot resume); refuses a file of another size."""
    if response.status == 206:
        matched = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if matched is None or int(matched[1]) != have:
            remote.part.unlink(missing_ok=True)
            raise _Interrupted("the server resumed at the wrong byte")
        total = remote.size if matched[2] == "*" else int(matched[2])
    else:
        length = response.headers.get("Content-Length", "")
        have, total = 0, int(length) if length.isdigit() else remote.size
    if total != remote.size:
        raise _other_file(remote, f"{total:,} bytes")
    return have


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"connection cut: {error or type(error).__name__}") from error
        if not chunk:
            return
        yield chunk


def _finish(remote: RemoteFile) -> None:
    """Rename the unfinished file if it is the right one, else remove it."""
    found = _sha256(remote.part)
    if found != remote.sha256:
        remote.part.unlink()
        raise BlosamError(
            f"{remote.url}: the fetched file is damaged or another one (sha256 {found}, expected "
            f"{remote.sha256}); it was deleted. Fetch it again."
        )
    try:
        with open(remote.part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(remote.part, remote.target)
    except OSError as error:
        raise BlosamError(
            f"{remote.target}: the fetched file cannot be put there ({error.strerror or error}). Remove what is in its "
            "place, or set BLOSAM_WEIGHTS_DIR to another folder; fetching again does not transfer it anew."
        ) from error


def _other_file(remote: RemoteFile, offered: str) -> BlosamError:
    return BlosamError(
        f"{remote.url}: the server offers {offered} instead of {remote.size:,}: another file, or a log-in "
        f"page. {remote.by_hand()}."
    )


def _size(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size if path.is_file() else None
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
