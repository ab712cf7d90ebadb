"""Carrying out the runs: one small file each, finished ones skipped, errors noted and passed by."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from blosam.bundle import root_cause
from blosam.compare import approaches
from blosam.compare.ablation import write_ablations
from blosam.compare.curve import LearningCurve, held_out_subset
from blosam.compare.footprint import PeakMemory, inference_time
from blosam.compare.jobqueue import (
    Ended,
    Queue,
    Turn,
    attempt,
    failure_path,
    note_failure,
    run_path,
)
from blosam.compare.measure import measure, training_transform
from blosam.compare.options import Job, Options, settings_digest
from blosam.compare.page import write_page
from blosam.compare.pictures import save_pictures
from blosam.compare.pool import TALKATIVE
from blosam.compare.results import Record, mean_dice, read_run, read_runs, run_files, write_run, write_tables
from blosam.compare.schedule import carry_out
from blosam.data import FewShotDataset
from blosam.data.datalist import file_stem
from blosam.engines.randomness import preserved_rng
from blosam.errors import BlosamError
from blosam.evaluation.table import versions

logger = logging.getLogger(__name__)

# What data, memory or numbers may cause; a mistake in the code still ends the comparison.
_RUN_ERRORS = (ValueError, RuntimeError, OSError, ArithmeticError, MemoryError)


def compare(options: Options, workers: int = 1, devices: Sequence[str] = ()) -> list[str]:
    """Carry out every run that is not finished yet and write the tables and the report.

    ``OUT/runs/METHOD_kK_sSEED.json`` holds a finished run, ``.failed.txt`` beside it the reason of a failed one
    (tried again the next time). The tables are renewed after every run and hold all finished runs of the folder.
    Several processes or computers may work on one folder at the same time: none repeats what another does.

    Args:
        options: what to compare.
        workers: processes for each device; each uses ``options.threads`` threads.
        devices: on which to train, all of the kind of ``options.device``; empty for that one.

    Returns:
        One line per failed run.

    Raises:
        BlosamError: when an option is wrong, or the folder holds runs that were made with other settings.
    """
    options.check()
    slots = _slots(options, workers, devices)
    options = replace(options, runs_per_gpu=workers)
    settings = {name: approaches.get(name).settings(options) for name in options.methods}
    shared = options.shared_settings()
    finished = _finished(options, shared, settings)
    waiting = [job for job in options.jobs() if job.name not in finished]
    if finished:
        logger.info("%d runs were finished before, %d remain.", len(options.jobs()) - len(waiting), len(waiting))
    queue = Queue(options.out, waiting, {name: settings_digest([shared, own]) for name, own in settings.items()})
    failures = []
    bar = tqdm(total=len(waiting), desc="comparing", unit="run", disable=None)
    ended = carry_out(queue, slots, functools.partial(_work, options))
    with _quiet(), logging_redirect_tqdm(), bar, closing(ended):  # closing: Ctrl-C while tables are written, too
        for job, error in ended:
            if error:
                failures.append(f"{job.name}: {error}")
                logger.warning("%s failed: %s", job.name, error)
            else:
                _write(options.out, _write_tables)
            bar.update()
    _write(options.out, functools.partial(_write_all, options.paper))
    return failures


def run_job(options: Options, job: Job) -> dict[str, Any]:
    """Train and measure once.

    Returns:
        The record that ``write_run`` writes.

    Raises:
        BlosamError: when the data or the settings cannot be used.
    """
    approach = approaches.get(job.method)
    split = options.split(job)
    classes = len(options.labels)
    dataset = FewShotDataset(split["training"], training_transform(classes, options.image_size), classes, job.seed)
    few = held_out_subset(split["test"], job.seed)
    curve = LearningCurve(split["training"], few, classes, options.image_size, options.device)
    memory = PeakMemory(options.device)
    with preserved_rng(), _threads(options.threads):
        torch.manual_seed(job.seed + 1)
        with memory:
            before, begun = time.process_time(), time.perf_counter()
            trained = approach.train(approaches.Task(dataset, options, job.seed, curve))
            processor, wall = time.process_time() - before, time.perf_counter() - begun
        started = time.perf_counter()
        rows = [
            {"split": part, **row}
            for part, pairs in (("train", split["training"]), ("test", split["test"]))
            for row in measure(trained.network, pairs, options.labels, options.image_size, options.device)
        ]
        measuring = time.perf_counter() - started
        inference = inference_time(trained.network, few, options.image_size, options.device)
        pictures = {}
        if job.seed == 0:  # of every seed they would make a large folder
            tests = [row for row in rows if row["split"] == "test"]
            pictures = save_pictures(trained.network, split["test"], tests, options, job.name)
    names = [file_stem(pair["image"]) for pair in split["training"]]
    return {
        **job._asdict(),
        "shared": options.shared_settings(),
        "own": approach.settings(options),
        "caveat": approach.caveat(options),
        "training_images": names,
        "d1": [names[i] for i in trained.d1],
        "d2": [names[i] for i in trained.d2],
        "steps": trained.steps,
        "seconds": {
            "encoding": round(trained.encoding_seconds, 3),
            "training": round(trained.training_seconds, 3),
            "processor": round(
                processor - curve.processor_seconds, 3
            ),  # with building the network, which the budget does not count
            "wall": round(
                wall - curve.seconds, 3
            ),  # far above "processor" / threads: the machine was busy with other work
            "curve": round(curve.seconds, 3),  # in none of the above
            "measuring": round(measuring, 3),
        },
        "memory": memory.record(),
        "inference": inference,
        "curve": curve.record(),
        "pictures": pictures,
        "parameters": {"total": trained.parameters, "trained": trained.trained_parameters},
        "machine": {"device": torch.device(options.device).type, "threads": options.threads},
        "versions": versions(),
        "rows": rows,
    }


def _attempt(options: Options, job: Job) -> str:
    """Carry out one run and write its file; returns the reason when it failed, else an empty text."""
    try:
        record = run_job(options, job)
    except _RUN_ERRORS as error:
        logger.debug("%s", job.name, exc_info=True)
        cause = root_cause(error)
        kind = "" if isinstance(cause, BlosamError) else f"{type(cause).__name__}: "
        return note_failure(options.out, job, _without_folders(f"{kind}{cause}", options))
    write_run(run_path(options.out, job), record)
    failure_path(options.out, job).unlink(missing_ok=True)
    logger.info(
        "%s: test Dice %.3f, train Dice %.3f, %d steps in %.1f s (%.1f s encoding)", job.name,
        mean_dice(record["rows"], "test"), mean_dice(record["rows"], "train"), record["steps"],
        record["seconds"]["training"], record["seconds"]["encoding"],
    )  # fmt: skip
    return ""


def _without_folders(text: str, options: Options) -> str:
    """A message without where the data and results lie: the report shows it, and is passed on."""
    for folder in (options.data, options.out):
        for whole in (Path(os.path.abspath(folder)), folder.resolve()):
            text = text.replace(f"{whole}{os.sep}", "").replace(str(whole), whole.name)
    return text


def _work(options: Options, turn: Turn, device: str) -> Ended | None:
    """Carry out a run on a device, unless another process is doing so."""
    return attempt(options.out, turn, functools.partial(_attempt, replace(options, device=device)))


def _slots(options: Options, workers: int, devices: Sequence[str]) -> list[str]:
    """The device of every run that may take place at the same time.

    Raises:
        BlosamError: when devices of different kinds are asked for, or no worker.
    """
    named = list(dict.fromkeys(devices)) or [options.device]
    if len({torch.device(name).type for name in (*named, options.device)}) > 1:
        raise BlosamError(f"--devices {','.join(named)}: a budget is not the same on a CPU and a GPU. Give one kind.")
    if workers < 1:
        raise BlosamError(f"--workers {workers}: nobody would do the runs. Give 1 or more.")
    return [name for _ in range(workers) for name in named]


def _write(out: Path, write: Callable[[Path, list[Record]], Any]) -> None:
    """Make files of all finished runs, and again if another process finished one meanwhile.

    Otherwise the slower one of two processes would leave tables without the last run of the faster one.
    """
    written = None
    while (found := run_files(out)) != written:
        runs = read_runs(out)
        if runs:
            write(out, runs)
        written = found


def _write_tables(out: Path, runs: list[Record]) -> None:
    write_tables(out, runs)
    write_ablations(out / "tables", runs)


def _write_all(paper: str, out: Path, runs: list[Record]) -> None:
    _write_tables(out, runs)
    write_page(out / "report.html", runs, paper)


def _finished(options: Options, shared: dict[str, Any], settings: dict[str, dict[str, Any]]) -> set[str]:
    """Names of the finished runs in the folder.

    Raises:
        BlosamError: when one of them was made with other settings, so that it cannot stand beside new ones.
    """
    found = set()
    for path in run_files(options.out):
        record = read_run(path)
        pairs = [(record["shared"], shared)]
        if record["method"] in settings:
            pairs.append((record["own"], settings[record["method"]]))
        for old, new in pairs:
            for key in sorted(old.keys() | new.keys()):
                if old.get(key) != new.get(key):
                    raise BlosamError(
                        f"{path}: made with {key} {_shown(old.get(key))}, now it is {_shown(new.get(key))}. "
                        "Give another --out, or delete that file."
                    )
        found.add(path.stem)
    return found


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value)[:40]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what single trainings log out of the progress of the comparison, unless it was asked for (-v)."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [item.level for item in loggers]
    if logging.getLogger().getEffectiveLevel() > logging.INFO:
        for item in loggers:
            item.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for item, level in zip(loggers, levels, strict=True):
            item.setLevel(level)
