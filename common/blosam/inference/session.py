"""A whole run: inputs listed once, dealt out to the processes, segmented, and told in one ``run.json``."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from blosam.inference.inputs import Item, collect, output_stems, share
from blosam.inference.privacy import UidHasher, installation_salt
from blosam.inference.record import Earlier, Record, RunFolder, run_key, versions
from blosam.inference.run import Listener, Options, Segmentation
from blosam.inference.shards import Processes
from blosam.predictor import Predictor
from blosam.writers import make_folder


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Args:
        records: one for each input of all processes, in order; empty in all processes but the first.
        head: the rest of ``run.json``.
        studies: one for each study with a report of its own.
        repeated: how many inputs an earlier run had finished.
    """

    records: list[Record]
    head: dict[str, Any]
    studies: list[Record] = field(default_factory=list)
    repeated: int = 0

    @property
    def failed(self) -> int:
        """Number of inputs and of studies' reports that failed."""
        return self.count("failed") + sum(study["status"] == "failed" for study in self.studies)

    def count(self, status: str) -> int:
        """Number of inputs that ended like this."""
        return sum(record["status"] == status for record in self.records)


def segment(
    inputs: Sequence[Path],
    predictor: Predictor,
    out: Path,
    options: Options,
    *,
    processes: Processes | None = None,
    restart: bool = False,
    begin: Callable[[int], None] | None = None,
    listener: Listener | None = None,
) -> Summary:
    """Segment files and folders and write ``OUT/run.json``; the same call again continues an interrupted run.

    Args:
        inputs: files, folders, DICOMDIRs.
        predictor: of a bundle.
        out: folder for the results; made when it is not there.
        options: how.
        processes: of this run; None is this process alone.
        restart: whether finished inputs are segmented again.
        begin: called with the number of inputs of this process before the first one.
        listener: see :meth:`blosam.inference.run.Segmentation.run`.

    Returns:
        The records of all processes, in the first of them.

    Raises:
        BlosamError: when there is nothing to segment or the folder cannot be used.
    """
    team = processes or Processes()
    folder = RunFolder(out, run_key(predictor.identity, _settings(predictor, options)), team.rank)
    started = time.perf_counter()

    def plan() -> tuple[list[Item], Earlier, bytes | None]:
        items = collect(inputs, leave_out=[out])
        make_folder(out)
        salt = None if options.keep_uids else installation_salt()
        if restart:
            # What the run wrote may still be replaced.
            earlier = Earlier(written=folder.earlier().written)
            folder.clear()
        else:
            earlier = folder.earlier()
        return items, earlier, salt

    items, earlier, salt = team.from_first(plan)
    kept = [record for records in earlier.records.values() for record in records]
    head = _head(predictor, options, team)
    folder.start(kept if team.rank == 0 else ())
    mine = share(items, team.rank, team.world_size)
    if begin is not None:
        begin(len(mine))

    def told(record: Record, message: str) -> None:
        if listener is not None:
            listener(record, message)
        if team.rank == 0:
            folder.refresh(head)

    paths = [item.path for item in items]
    work = Segmentation(predictor, folder, options, output_stems(items), earlier, paths, UidHasher(salt))
    try:
        records = work.run(mine, told)
    finally:
        folder.close()
    found = team.gather((records, work.studies, work.repeated))
    if team.rank != 0:
        team.wait()
        return Summary([], head)
    everything = sorted((record for part, _, _ in found for record in part), key=lambda record: record["position"])
    studies = sorted((study for _, part, _ in found for study in part), key=lambda study: study["images"][0])
    head["seconds"] = round(time.perf_counter() - started, 3)
    folder.write(head, everything, studies)
    folder.remove_journals()
    team.wait()
    return Summary(everything, head, studies, sum(repeated for _, _, repeated in found))


def _settings(predictor: Predictor, options: Options) -> dict[str, Any]:
    """What decides the results besides bundle and input."""
    return {**options.settings(), "confidence": predictor.judge.source if predictor.judge else "none"}


def _head(predictor: Predictor, options: Options, team: Processes) -> dict[str, Any]:
    """Everything in ``run.json`` that is not about one input."""
    device = str(predictor.device)
    if predictor.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(predictor.device)})"
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": {
            "name": predictor.metadata.get("name", ""),
            "version": predictor.metadata.get("version", ""),
            "sha256": predictor.sha256,
        },
        "labels": predictor.labels,
        "settings": {
            **_settings(predictor, options),
            "force": options.force,
            "batch": options.batch,
            "workers": options.workers,
        },
        "device": device,
        "processes": team.world_size,
        "versions": {**versions(), "python": platform.python_version()},
    }
