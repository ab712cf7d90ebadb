"""``run.json``: what happened to each input, and the journal from which an interrupted run goes on.

Every process appends one line to its own journal when an input is finished, which costs the same for the first and
the ten thousandth. ``run.json`` is made from the journals, now and then and at the end, and replaced as a whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from blosam import __version__
from blosam.atomicio import atomic_write
from blosam.errors import BlosamError

Record = dict[str, Any]
FORMAT = 1
STEM = "{stem}"  # in the names of files: the name of the input without its suffix, which may be a patient's
STATES = ("done", "needs review", "failed", "ignored")
KEPT = ("done", "needs review", "ignored")  # not repeated by the same command; what failed is tried again
_FIRST_REFRESH = 5.0  # seconds between two versions of a growing run.json, at least
_REFRESH_SHARE = 0.02  # of the time may go into writing it
_LIBRARIES = ("torch", "monai", "pydicom", "highdicom", "nibabel", "numpy")


def run_key(bundle_sha256: str, settings: Mapping[str, Any]) -> str:
    """Equal for two runs whose results for one file are the same."""
    text = json.dumps([FORMAT, bundle_sha256, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """blosam and the libraries that decide what a mask looks like."""
    found = {"blosam": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # highdicom is optional
            continue
    return found


@dataclass
class Earlier:
    """What an earlier run with the same bundle and settings left in the folder.

    Args:
        records: finished inputs by SHA-256; several when one content had several names.
        written: SHA-256 of an input and name of a file that was or was about to be written for it: these may be
            replaced.
        studies: reports of whole studies, as in ``run.json``.
    """

    records: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    written: set[tuple[str, str]] = field(default_factory=set)
    studies: list[Record] = field(default_factory=list)

    def take(self, sha256: str, stem: str, folder: Path) -> Record | None:
        """The record of this content if all its files are still there; each record is given out once.

        Args:
            sha256: of the input.
            stem: what ``{stem}`` in the names of its files stands for.
            folder: of the results.
        """
        for record in self.records.get(sha256, ()):
            names = [name for names in record["outputs"].values() for name in names]
            if all((folder / name.replace(STEM, stem)).is_file() for name in names):
                self.records[sha256].remove(record)
                return record
        return None


class RunFolder:
    """The files of one run in the folder of its results.

    Args:
        folder: of the results; exists.
        key: see :func:`run_key`.
        rank: of this process.
    """

    def __init__(self, folder: Path, key: str, rank: int = 0) -> None:
        self.folder, self.key, self.rank = folder, key, rank
        self.hidden = folder / ".blosam"
        self._journal: IO[str] | None = None
        self._lock = threading.Lock()
        self._next_refresh = time.monotonic() + _FIRST_REFRESH

    @property
    def path(self) -> Path:
        """``run.json``."""
        return self.folder / "run.json"

    @property
    def thumbnails(self) -> Path:
        """Folder of the small pictures for the report."""
        return self.hidden / "thumbnails"

    def earlier(self) -> Earlier:
        """What an earlier run with the same key left; empty when there was none."""
        found = Earlier()
        content = _read_json(self.path)
        if content.get("key") == self.key:
            for record in content.get("inputs", []):
                found.records[record.get("sha256", "")].append(record)
            found.studies = content.get("studies", [])
            names = {name for s in found.studies for names in s.get("outputs", {}).values() for name in names}
            found.written |= {("study", name) for name in names}
        for record in self._journalled(found.written):
            found.records[record.get("sha256", "")].append(record)
        for sha256, records in list(found.records.items()):
            usable = {r["position"]: r for r in records if r.get("status") in KEPT and sha256}
            found.records[sha256] = list(usable.values())
            names = {name for r in usable.values() for names in r["outputs"].values() for name in names}
            found.written |= {(sha256, name) for name in names}
        return found

    def clear(self) -> None:
        """Forget an earlier run (``--restart``)."""
        shutil.rmtree(self.hidden, ignore_errors=True)

    def start(self, kept: Iterable[Record] = ()) -> None:
        """Begin this process's journal anew.

        Args:
            kept: records of an earlier run that stay valid even if this one is cut short.
        """
        self.hidden.mkdir(exist_ok=True)
        self._journal = (self.hidden / f"journal-{self.rank:05d}.jsonl").open("a", encoding="utf-8")
        for record in kept:
            self.append(record)

    def will_write(self, sha256: str, names: list[str]) -> None:
        """Note the files of an input before they are written, so that after a crash they are known to be ours."""
        self._line({"writing": names, "sha256": sha256})

    def append(self, record: Record) -> None:
        """Note a finished input."""
        self._line({"record": record})

    def _line(self, content: Record) -> None:
        if self._journal is None:
            raise RuntimeError("start() was not called")
        line = json.dumps({"key": self.key, **content}) + "\n"
        try:
            with self._lock:  # reading threads note what will be written, too
                self._journal.write(line)
                self._journal.flush()
        except OSError as error:
            raise BlosamError(
                f"cannot write the journal of run.json ({error.strerror}). Free space, or give another --out."
            ) from error

    def _journalled(self, written: set[tuple[str, str]]) -> list[Record]:
        """Finished inputs in all journals with our key; adds noted file names to ``written``."""
        records = []
        for path in sorted(self.hidden.glob("journal-*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    content = json.loads(line)
                except json.JSONDecodeError:  # the line during which the earlier run was ended
                    continue
                if content.get("key") == self.key:
                    written |= {(content["sha256"], name) for name in content.get("writing", ())}
                    records += [content["record"]] if "record" in content else []
        return records

    def refresh(self, head: Record) -> None:
        """Write a preliminary ``run.json`` from the journals, if the last one is old enough."""
        if time.monotonic() < self._next_refresh:
            return
        start = time.monotonic()
        self.write(head, {r["position"]: r for r in self._journalled(set())}.values(), finished=False)
        took = time.monotonic() - start
        self._next_refresh = time.monotonic() + max(_FIRST_REFRESH, took / _REFRESH_SHARE)

    def write(self, head: Record, records: Iterable[Record], studies: Iterable[Record] = (), finished=True) -> None:
        """Write ``run.json``.

        Args:
            head: bundle, settings, device and versions.
            records: one for each input.
            studies: one for each study with a report of its own.
            finished: whether these are all inputs.

        Raises:
            BlosamError: when it cannot be written.
        """
        ordered = sorted(records, key=lambda record: record["position"])
        counts = {state: sum(record["status"] == state for record in ordered) for state in STATES}
        content = {
            "format": FORMAT,
            "state": "finished" if finished else "running",
            "key": self.key,
            **head,
            "summary": {"inputs": len(ordered), **counts},
            "inputs": ordered,
            "studies": list(studies),
        }
        with atomic_write(self.path, "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")

    def close(self) -> None:
        """Close the journal; it stays for the next run."""
        if self._journal is not None:
            # Every line was flushed, and refused if it could not be: a full disk has been reported by now.
            with suppress(OSError):
                self._journal.close()
            self._journal = None

    def remove_journals(self) -> None:
        """After the final ``run.json``: nothing is left to go on from."""
        for path in self.hidden.glob("journal-*.jsonl"):
            path.unlink(missing_ok=True)
        if self.hidden.is_dir() and not any(self.hidden.iterdir()):
            self.hidden.rmdir()


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
