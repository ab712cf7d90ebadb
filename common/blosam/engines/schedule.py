"""Polynomial decay of the learning rates, in closed form.

The authors' code builds a OneCycleLR it never steps (which changes beta1 and the first learning rate), applies the
decay one step late and overwrites the prompt's learning rate with the weights'. A closed form in t, applied before
each step to each group's own base value, leaves no room for any of the three.
"""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from blosam.errors import BlosamError


def poly_factor(iteration: int, total: int, power: float = 0.9, warmup: int = 0) -> float:
    """What the base learning rate is multiplied by in one iteration.

    Args:
        iteration: t, counted from 0.
        total: T, iterations of the whole run.
        power: exponent of the decay; 0 = constant.
        warmup: iterations in which the rate also rises linearly; 0 = none.

    Returns:
        (1 - t/T)^power, times (t+1)/warmup while t < warmup; in (0, 1].

    Raises:
        ValueError: when ``iteration`` is not in 0..total-1.
    """
    if not 0 <= iteration < total:
        raise ValueError(f"iteration {iteration} is outside of 0..{total - 1}; T must be the length of the whole run")
    rise = (iteration + 1) / warmup if iteration < warmup else 1.0
    return rise * (1.0 - iteration / total) ** power


class PolySchedule:
    """Handler that sets every group's learning rate to ``base * poly_factor(t, T)`` before iteration t.

    T is ``max_epochs * epoch_length`` of the engine at that moment, so an override of ``max_epochs`` counts. Nothing
    needs saving: the rate depends on t alone.

    Args:
        power: exponent of the decay.
        warmup: iterations of linear rise.
        optimizers: whose groups to set; ``None`` takes ``engine.optimizers``.

    Raises:
        BlosamError: when ``warmup`` or ``power`` is negative.
    """

    def __init__(self, power: float = 0.9, warmup: int = 0, optimizers: Sequence[Optimizer] | None = None) -> None:
        if warmup < 0 or power < 0:
            raise BlosamError(f"schedule: warmup is {warmup} and power is {power}. Give numbers from 0 up.")
        self.power = power
        self.warmup = warmup
        self.optimizers = optimizers
        self._base: list[list[float]] | None = None

    def attach(self, engine: Engine) -> None:
        """Register at ``STARTED`` (base values, before a checkpoint brings decayed ones) and ``ITERATION_STARTED``."""
        engine.add_event_handler(Events.STARTED, self.remember)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def remember(self, engine: Engine) -> None:
        """Keep every group's configured learning rate, once: later ones are decayed."""
        if self._base is None:
            self._base = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._all(engine)]

    def __call__(self, engine: Engine) -> None:
        """Set the learning rates of the iteration that begins."""
        state = engine.state
        # Ignite counts the iteration that begins from 1.
        factor = poly_factor(state.iteration - 1, state.max_epochs * state.epoch_length, self.power, self.warmup)
        for optimizer, rates in zip(self._all(engine), self._base or (), strict=True):
            for group, base in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = base * factor

    def _all(self, engine: Engine) -> Sequence[Optimizer]:
        return engine.optimizers if self.optimizers is None else self.optimizers
