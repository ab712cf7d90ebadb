"""The way of the prompt embedding during training, kept for the report."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events

from blosam import processes
from blosam.atomicio import atomic_write

from .events import BilevelEvents

logger = logging.getLogger(__name__)


class PromptTrajectory:
    """Write the prompt embedding at the start and after each epoch to an ``.npz`` file.

    The file holds ``iterations`` (T integers) and ``prompt`` (T x P, the prompt flattened). A resumed run first
    drops the rows it is about to produce again. Of several processes, the main one keeps it.

    Args:
        path: the file, usually ``prompt.npz``.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._iterations: list[int] = []
        self._prompts: list[np.ndarray] = []
        self._begun = False

    def attach(self, engine: Engine) -> None:
        """Register with a ``BilevelTrainer``."""
        if not processes.is_main():
            return
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(BilevelEvents.EPOCH_VALIDATED, self.append)

    def reset(self, engine: Engine) -> None:
        """A new run begins."""
        self._begun = False

    def begin(self, engine: Engine) -> None:
        """Take over what a resumed run has behind it, or note the initial prompt."""
        if self._begun:
            return
        self._begun = True
        self._iterations, self._prompts = [], []
        if engine.state.iteration:
            self._read(engine.state.iteration)
        else:
            self._note(engine)

    def append(self, engine: Engine) -> None:
        """Note the prompt after this epoch and write the file.

        Raises:
            BlosamError: when the file cannot be written.
        """
        self._note(engine)
        with atomic_write(self.path) as file:
            np.savez_compressed(file, iterations=np.asarray(self._iterations), prompt=np.stack(self._prompts))

    def _note(self, engine: Engine) -> None:
        flat = [parameter.detach().float().cpu().numpy().ravel() for parameter in engine.network.prompt_parameters()]
        self._iterations.append(int(engine.state.iteration))
        self._prompts.append(np.concatenate(flat))

    def _read(self, last: int) -> None:
        """Rows up to iteration ``last``; none (with a warning) when the file cannot be used."""
        try:
            with np.load(self.path) as stored:
                kept = stored["iterations"] <= last
                self._iterations = stored["iterations"][kept].tolist()
                self._prompts = list(stored["prompt"][kept])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            logger.warning("%s: cannot be read, so the prompt's path starts at iteration %d.", self.path, last)
