"""Who carries out which run, when several processes or computers work on one folder.

A run is claimed by making a file that must not exist yet, which every file system does for one process only. While
the run lasts, a thread touches the file. A claim is stale when its process is known to be gone, or when nobody has
touched it for long; whoever finds that makes the next generation of the file, which again only one can. Nothing has
to be cleaned up after a crash, a kill or a lost computer.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from blosam.errors import BlosamError

HEARTBEAT = 10.0  # seconds between two touches
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # Linux: another text after every start of the computer
STALE = 180.0  # seconds without one; network file systems show a touch up to a minute late


class Ticket(NamedTuple):
    """The right to try to claim a run.

    Args:
        name: of the run.
        generation: of the file to make; 0 unless a stale claim is replaced.
        replaced: content of the stale claim of the generation before.
        settings: text that is equal for everybody whose run of this name gives the same.
    """

    name: str
    generation: int = 0
    replaced: str = ""
    settings: str = ""


class Claim:
    """A run that this process carries out; the file is touched until :meth:`release`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._touch, daemon=True, name=f"claim {path.name}")
        self._thread.start()

    def _touch(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with suppress(OSError):  # an unreachable disk may come back; a vanished file was taken over
                os.utime(self._path)

    def release(self) -> None:
        """End the claim; to be called after the result was written."""
        self._over.set()
        self._thread.join()
        _remove(self._path)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class Claims:
    """The claims of one folder, as one process sees them.

    Args:
        folder: where the files are; made when missing.
        clock: gives seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._seen: dict[Path, tuple[int, float]] = {}  # last touch of a foreign claim, and when we first saw that one

    def look(self, name: str, settings: str = "") -> Ticket | None:
        """A ticket when nobody carries out the run, else None; never waits.

        Args:
            name: of the run.
            settings: see :class:`Ticket`.

        Raises:
            BlosamError: when somebody carries it out with other settings.
        """
        path = self._newest(name)
        if path is None:
            return Ticket(name, settings=settings)
        try:
            content, touched = path.read_text(encoding="utf-8"), path.stat().st_mtime_ns
        except OSError:  # released at this moment
            return None
        owner = _parsed(content)
        if not _is_gone(owner) and not self._is_stale(path, touched):
            if owner.get("settings", settings) != settings:
                raise BlosamError(
                    f"{self.folder.parent}: another process (number {owner['pid']}) compares with other settings here. "
                    "Give another --out, or end that process."
                )
            return None
        return Ticket(name, _generation(path) + 1, content, settings)

    def take(self, ticket: Ticket) -> Claim | None:
        """Claim a run; None when another process was faster.

        Raises:
            BlosamError: when the folder cannot be written to.
        """
        path = self._path(ticket.name, ticket.generation)
        owner = {"machine": _machine(), "pid": os.getpid(), "settings": ticket.settings, "token": secrets.token_hex(8)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "w", encoding="utf-8") as file:
                file.write(json.dumps(owner))
        except FileExistsError:
            return None
        except FileNotFoundError:  # another process that ended removed the empty folder between our two calls
            return None
        except OSError as error:
            raise BlosamError(f"cannot write {path}: {error.strerror}. Give another --out, or free space.") from error
        if ticket.generation and self._content(ticket.name, ticket.generation - 1) != ticket.replaced:
            _remove(path, only=True)  # the stale claim was replaced and that run ended, all since we looked
            return None
        return Claim(path)

    def drop(self, ticket: Ticket) -> None:
        """Remove the claim of a process that is known to be gone; another's, and one that cannot be told, stays."""
        if _is_gone(_parsed(self._content(ticket.name, ticket.generation))):
            _remove(self._path(ticket.name, ticket.generation))

    def tidy(self) -> None:
        """Remove the folder when no claim is left."""
        with suppress(OSError):
            self.folder.rmdir()

    def _newest(self, name: str) -> Path | None:
        try:
            found = [entry for entry in os.listdir(self.folder) if entry.rpartition(".")[0] == name]
        except OSError:
            return None
        return self.folder / max(found) if found else None

    def _path(self, name: str, generation: int) -> Path:
        return self.folder / f"{name}.{generation:04d}"

    def _content(self, name: str, generation: int) -> str:
        try:
            return self._path(name, generation).read_text(encoding="utf-8")
        except OSError:
            return ""

    def _is_stale(self, path: Path, touched: int) -> bool:
        """Whether we have seen the same last touch for too long; clocks of other computers do not matter."""
        now = self._clock()
        before, since = self._seen.get(path, (None, now))
        if before != touched:
            since = now
        self._seen[path] = (touched, since)
        return now - since > STALE


def _generation(path: Path) -> int:
    return int(path.name.rpartition(".")[2])


def _remove(path: Path, only: bool = False) -> None:
    """Remove a claim, after the stale ones before it unless ``only``."""
    name = path.name.rpartition(".")[0]
    older = [] if only else [path.with_name(f"{name}.{number:04d}") for number in range(_generation(path))]
    for file in (*older, path):
        with suppress(OSError):
            file.unlink()


def _parsed(content: str) -> dict:
    """What a claim says; empty while it is being written."""
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) and {"machine", "pid"} <= owner.keys() else {}


def _is_gone(owner: dict) -> bool:
    """Whether the process is known to be gone: only this computer's can be asked for, and not under Windows."""
    if os.name != "posix" or owner.get("machine") != _machine():
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's process
        return False
    return False


def _machine() -> str:
    """This computer since it was started; containers that share its name count their processes from 1 each.

    Names alone are not enough: computers made from one image may all be called localhost.
    """
    started = space = ""
    with suppress(OSError):
        started = _BOOT.read_text(encoding="ascii").strip()
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return " ".join(filter(None, (platform.node(), started, space)))
