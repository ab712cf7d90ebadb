"""What a user sees of a run: progress bar, validation log and the table of losses."""

from __future__ import annotations

import csv
import logging
import math
import os
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar as IgniteProgressBar

from blosam import processes
from blosam.atomicio import atomic_write
from blosam.errors import BlosamError

from .events import BilevelEvents
from .stopping import validated_this_epoch

logger = logging.getLogger(__name__)

HISTORY_COLUMNS = ("iteration", "epoch", "loss", "d2_loss", "lr", "prompt_norm", "metric")


class ProgressBar:
    """A bar over the epochs of a trainer (with loss, D2 loss and learning rate) or over an evaluator's images.

    Nothing is drawn when the output is not a terminal, nor by any but the main of several processes.

    Args:
        description: text in front of the bar.
    """

    def __init__(self, description: str = "training") -> None:
        silent = None if processes.is_main() else True
        self.bar = IgniteProgressBar(persist=True, desc=description, disable=silent)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or evaluator."""
        if engine.has_registered_events(BilevelEvents.EPOCH_CLOSED):
            # Epochs of a few-shot run last a second: one bar for all of them.
            self.bar.attach(
                engine,
                output_transform=_shown,
                event_name=Events.EPOCH_COMPLETED,
                closing_event_name=Events.COMPLETED,
            )
        else:
            self.bar.attach(engine)


class ValidationLog:
    """Log the key metric of a validator after each of its runs."""

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Log one line."""
        state = engine.state
        if state.key_metric_name in state.metrics:
            logger.info(
                "epoch %d: %s %.4f (best %.4f, epoch %d)", state.epoch, state.key_metric_name,
                float(state.metrics[state.key_metric_name]), float(state.best_metric), state.best_metric_epoch,
            )  # fmt: skip


class History:
    """One row per iteration in a CSV file: losses, learning rate, prompt norm, and the metric where validated.

    The file is rewritten after each epoch, atomically, before ``LastCheckpoint`` saves; a resumed run first drops the
    rows it is about to produce again, so that none is there twice. Of several processes, the main one keeps it.

    Args:
        path: the file, usually ``history.csv``.
        validator: a MONAI evaluator with a key metric; its value stands in the last row of the epoch.
    """

    def __init__(self, path: str | os.PathLike, validator: Engine | None = None) -> None:
        self.path = Path(path)
        self.validator = validator
        self.rows: list[dict[str, Any]] = []
        self._begun = False

    def attach(self, engine: Engine) -> None:
        """Register with a ``BilevelTrainer``."""
        if not processes.is_main():
            return
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.append)
        engine.add_event_handler(BilevelEvents.EPOCH_VALIDATED, self.write)

    def reset(self, engine: Engine) -> None:
        """A new run begins."""
        self._begun = False

    def begin(self, engine: Engine) -> None:
        """At the first epoch, take over the rows up to the iteration the run resumes from."""
        if not self._begun:
            self._begun = True
            self.rows = _read_rows(self.path, engine.state.iteration) if engine.state.iteration else []

    def append(self, engine: Engine) -> None:
        """Add the row of this iteration."""
        state = engine.state
        row = {"iteration": state.iteration, "epoch": state.epoch, **state.output}
        self.rows.append({key: row.get(key, "") for key in HISTORY_COLUMNS})

    def write(self, engine: Engine) -> None:
        """Write the table.

        Raises:
            BlosamError: when the file cannot be written.
        """
        if self.rows and validated_this_epoch(engine, self.validator):
            state = self.validator.state
            self.rows[-1]["metric"] = float(state.metrics[state.key_metric_name])
        with atomic_write(self.path, mode="w") as file:
            table = csv.DictWriter(file, HISTORY_COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)


def read_history(path: str | os.PathLike) -> dict[str, list[float]]:
    """The columns of a ``history.csv`` as numbers; empty cells are NaN.

    Raises:
        BlosamError: when the file is missing or is no such table.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            if missing := set(HISTORY_COLUMNS) - set(table.fieldnames or ()):
                raise ValueError(f"columns {', '.join(sorted(missing))} are missing")
            rows = list(table)
        return {key: [float(row[key]) if row[key] else math.nan for row in rows] for key in HISTORY_COLUMNS}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BlosamError(f"{os.fspath(path)}: no training history ({error}). Train again to write it.") from error


def _read_rows(path: Path, last: int) -> list[dict[str, Any]]:
    """Rows of iterations 1..last; none (with a warning) when the old table cannot be used."""
    try:
        columns = read_history(path)
    except BlosamError as error:
        logger.warning("The curves start at iteration %d: %s", last + 1, error)
        return []
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{key: _cell(key, value) for key, value in row.items()} for row in rows if row["iteration"] <= last]


def _cell(key: str, value: float) -> Any:
    if math.isnan(value):
        return ""
    return int(value) if key in ("iteration", "epoch") else value


def _shown(output: dict[str, float]) -> dict[str, float]:
    names = {"loss": "D1", "d2_loss": "D2", "lr": "lr"}
    return {short: output[name] for name, short in names.items() if name in output}
