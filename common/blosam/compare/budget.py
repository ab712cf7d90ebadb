"""The time a training may take, and a learning-rate schedule that ends when the time does.

Methods that are compared get the same seconds, not the same number of steps: a cheap step is part of what a method
offers. Whichever is used up first, steps or seconds, the learning rate has then decayed as in a full run.

Seconds on a CPU are processor time of this process, so that other work on the machine costs a method nothing. With
one thread they are the seconds of a quiet core; with more, the time of every thread counts. A GPU works beside the
process, so there the seconds are those of the clock on the wall, up to when the GPU has done what it was asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from ignite.engine import Engine, Events

from blosam.engines.schedule import poly_factor
from blosam.errors import BlosamError

PROCESSOR, WALL = "processor", "wall"


def clock_of(device: str) -> str:
    """What measures a training on that device: ``processor`` on a CPU, else ``wall``."""
    return PROCESSOR if torch.device(device).type == "cpu" else WALL


class Budget:
    """Seconds and steps that a training may use; the clock starts when this is made.

    Args:
        seconds: time for everything, the encoding of the views included; > 0.
        steps: updates at most; >= 1.
        clock: ``processor`` counts what all threads of this process compute, ``wall`` what passes.
        device: where the training runs; a GPU is waited for before the clock is read.

    Raises:
        BlosamError: when seconds or steps are too few.
    """

    def __init__(self, seconds: float, steps: int, clock: str = WALL, device: str = "cpu") -> None:
        if not seconds > 0 or steps < 1:
            raise BlosamError(f"a budget of {seconds} s and {steps} steps trains nothing. Give more of both.")
        self.seconds = seconds
        self.steps = steps
        self._clock = time.process_time if clock == PROCESSOR else time.perf_counter
        self._gpu = torch.device(device) if torch.device(device).type == "cuda" else None
        self._first_step = 0.0
        self._paused = 0.0
        self._pause_began: float | None = None
        self._started = self._now()

    def _now(self) -> float:
        if self._gpu is not None:
            torch.cuda.synchronize(self._gpu)
        return self._clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was started, without pauses."""
        now = self._now() if self._pause_began is None else self._pause_began
        return now - self._started - self._paused

    @property
    def preparation(self) -> float:
        """Seconds until the first step began; 0 before."""
        return self._first_step

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What is done within does not count, for example measuring between two steps."""
        if self._pause_began is not None:  # within another pause
            yield
            return
        self._pause_began = self._now()
        try:
            yield
        finally:
            self._paused += self._now() - self._pause_began
            self._pause_began = None

    def check(self) -> None:
        """To be called before the first step.

        Raises:
            BlosamError: when no seconds remain for it.
        """
        if self.elapsed >= self.seconds:
            raise BlosamError(
                f"preparing the views took {self.elapsed:.0f} s, but the budget of a run is {self.seconds:g} s. "
                "Give fewer --views or a larger --budget."
            )

    def progress(self, step: int) -> float:
        """Share of the training that is over when a step begins.

        Args:
            step: counted from 0; step 0 marks the beginning of the updates.

        Returns:
            The larger share of steps and seconds, in [0, 1]; exactly 0 for step 0.
        """
        if step == 0:
            self._first_step = self.elapsed
            return 0.0
        time_share = (self.elapsed - self._first_step) / max(1e-9, self.seconds - self._first_step)
        return min(1.0, max(step / self.steps, time_share))


class BudgetSchedule:
    """Handler of a ``BilevelTrainer``: polynomial decay over the budget, and the end of the run.

    Args:
        budget: what may be used.
        warmup: steps in which the learning rate also rises linearly.
    """

    def __init__(self, budget: Budget, warmup: int = 0) -> None:
        self.budget = budget
        self.warmup = warmup
        self._base: list[list[float]] = []

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_STARTED, self.step_begins)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step_ends)

    def started(self, engine: Engine) -> None:
        """Keep the configured learning rates."""
        self._base = [[group["lr"] for group in optimizer.param_groups] for optimizer in engine.optimizers]

    def step_begins(self, engine: Engine) -> None:
        """Set the learning rates of this step."""
        step = engine.state.iteration - 1  # ignite counts the iteration that begins from 1
        factor = rate_factor(self.budget.progress(step), step, self.warmup)
        for optimizer, rates in zip(engine.optimizers, self._base, strict=True):
            for group, base in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = base * factor

    def step_ends(self, engine: Engine) -> None:
        """Stop when steps or seconds are used up."""
        if self.budget.progress(engine.state.iteration) >= 1.0:
            engine.terminate()


def rate_factor(progress: float, step: int, warmup: int) -> float:
    """What the base learning rate is multiplied by: (1 - progress)^0.9, rising over the first ``warmup`` steps.

    Args:
        progress: share of the training that is over, in [0, 1].
        step: counted from 0.
        warmup: steps of linear rise; 0 = none.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise * poly_factor(min(progress, 1.0 - 1e-6), 1.0)
