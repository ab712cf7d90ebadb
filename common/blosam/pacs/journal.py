"""What has been done, on disk: which source images are finished, and what is known of each watched study.

SQLite, because a transaction is either whole or not there after a crash. The file (mode 0600) holds no identifier:
UIDs and the server's address are hashed with a secret of the installation, and no date of an examination is kept.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from blosam.errors import BlosamError

VERSION = 1
# Of a source image: planned (its batch has been begun), done, refused (wrong kind of image), failed (may be retried).
PLANNED, DONE, REFUSED, FAILED = "planned", "done", "refused", "failed"
FINISHED = (DONE, REFUSED)

_TABLES = """
CREATE TABLE IF NOT EXISTS source (
    server TEXT, bundle TEXT, source TEXT, state TEXT NOT NULL, batch TEXT, generation INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (server, bundle, source));
CREATE TABLE IF NOT EXISTS study (
    server TEXT, bundle TEXT, study TEXT, instances INTEGER NOT NULL, unchanged INTEGER NOT NULL DEFAULT 0,
    settled INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (server, bundle, study));
"""


@dataclass(frozen=True)
class SourceState:
    """State of one source image; images of one batch share one report."""

    state: str
    batch: str
    generation: int


@dataclass(frozen=True)
class StudyState:
    """What a watch knows of a study.

    Args:
        instances: how many it held when last looked at.
        unchanged: how many polls that number has stayed the same.
        settled: whether nothing is left to do for it at that number.
        attempts: how often it failed since that number changed.
        not_before: time (seconds since 1970) before which it is not tried again.
    """

    instances: int
    unchanged: int = 0
    settled: bool = False
    attempts: int = 0
    not_before: float = 0.0


class Journal:
    """The journal of one installation, for one server and one set of weights; one process at a time.

    Args:
        folder: made if absent, with mode 0700.
        server: address of the archive.
        bundle: SHA-256 of the weights: other weights are other results.
        hashed: how identifiers are hashed.

    Raises:
        BlosamError: when another process uses the folder, or the file is damaged or of a later version.
    """

    def __init__(self, folder: Path, server: str, bundle: str, hashed: Callable[[str], str]) -> None:
        self.hashed = hashed
        self.scope = (hashed(server.rstrip("/")), bundle)
        private_folder(folder)
        self._lock = FileLock(folder / "lock", mode=0o600)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise BlosamError(
                f"{folder}: another blosam pacs uses this folder. Stop it, or give each its own --state DIR."
            ) from None
        self.path = folder / "journal.sqlite"
        try:
            self._open()
        except sqlite3.Error:
            self.close()
            raise BlosamError(
                f"{self.path}: not a readable journal. Move it away; what is stored already is found on the server."
            ) from None
        except BlosamError:
            self.close()
            raise

    def _open(self) -> None:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self.path.chmod(0o600)
        self._db = sqlite3.connect(self.path, isolation_level=None)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise BlosamError(f"{self.path}: written by a later blosam. Update blosam, or give another --state DIR.")
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close the file and let other processes in."""
        if hasattr(self, "_db"):
            self._db.close()
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def sources(self, uids: Iterable[str]) -> dict[str, SourceState]:
        """State of those of the source images that are known, by their UID as given."""
        found = {}
        for uid in uids:
            row = self._db.execute(
                "SELECT state, batch, generation FROM source WHERE server = ? AND bundle = ? AND source = ?",
                (*self.scope, self.hashed(uid)),
            ).fetchone()
            if row is not None:
                found[uid] = SourceState(*row)
        return found

    def plan(self, uids: Iterable[str], batch: str, generation: int) -> None:
        """Note before the first object is stored which images belong together, so that a later run goes on alike."""
        self._write([(uid, PLANNED, batch, generation) for uid in uids])

    def finish(self, states: dict[str, str], batch: str, generation: int) -> None:
        """Note the outcome of a batch, all of it or nothing."""
        self._write([(uid, state, batch, generation) for uid, state in states.items()])

    def _write(self, rows: list[tuple[str, str, str, int]]) -> None:
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO source (server, bundle, source, state, batch, generation)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [(*self.scope, self.hashed(uid), *rest) for uid, *rest in rows],
            )

    def study(self, uid: str) -> StudyState | None:
        """What is known of a study."""
        row = self._db.execute(
            "SELECT instances, unchanged, settled, attempts, not_before FROM study"
            " WHERE server = ? AND bundle = ? AND study = ?",
            (*self.scope, self.hashed(uid)),
        ).fetchone()
        return None if row is None else StudyState(row[0], row[1], bool(row[2]), row[3], row[4])

    def note(self, states: dict[str, StudyState]) -> None:
        """Replace what is known of some studies, by their UID as given; all of it or nothing."""
        rows = [
            (*self.scope, self.hashed(uid), s.instances, s.unchanged, int(s.settled), s.attempts, s.not_before)
            for uid, s in states.items()
        ]
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO study (server, bundle, study, instances, unchanged, settled, attempts,"
                " not_before) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner can enter.

    Raises:
        BlosamError: when that is not possible.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise BlosamError(f"{folder}: {error.strerror}. Give a folder of your own with --state DIR.") from None
    return folder
