"""Early stopping on the validation metric, counted in validations and resumable."""

from __future__ import annotations

import math
from typing import Any

from ignite.engine import Engine
from ignite.handlers import EarlyStopping
from monai.handlers import EarlyStopHandler

from .events import BilevelEvents


def validated_this_epoch(engine: Engine, validator: Engine | None) -> bool:
    """Whether the validator ran to its end for the trainer's current epoch."""
    return (
        validator is not None
        and validator.state.iteration > 0
        and validator.state.epoch == engine.state.epoch
        and validator.state.key_metric_name in validator.state.metrics
    )


class KeyMetric:
    """Score function of MONAI's ``EarlyStopHandler``: the validator's key metric.

    Args:
        validator: a MONAI evaluator with a key metric, larger is better.
    """

    def __init__(self, validator: Engine) -> None:
        self.validator = validator

    def __call__(self, engine: Engine | None = None) -> float:
        """The latest value; minus infinity before the first validation and for NaN."""
        state = self.validator.state
        value = state.metrics.get(state.key_metric_name)
        return -math.inf if value is None or math.isnan(float(value)) else float(value)


class EarlyStop(EarlyStopHandler):
    """Stop after ``patience`` validations without a better key metric; place in the list and interval do not matter.

    MONAI's handler in the trainer's list works as well, but counts epochs, validated or not.

    Args:
        patience: validations to wait; 0 = never stop.
        validator: a MONAI evaluator with a key metric.
        min_delta: smallest rise that counts as better.
    """

    def __init__(self, patience: int, validator: Engine, min_delta: float = 0.0) -> None:
        super().__init__(patience=patience, score_function=KeyMetric(validator), min_delta=min_delta)
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        """Register at ``EPOCH_VALIDATED`` of a ``BilevelTrainer``; not at all with patience 0."""
        if self.patience > 0:
            engine.add_event_handler(BilevelEvents.EPOCH_VALIDATED, self)

    def set_trainer(self, trainer: Engine) -> None:
        """Set the trainer to stop."""
        if self.patience > 0:
            self._handler = EarlyStopping(self.patience, self.score_function, trainer, self.min_delta)

    def __call__(self, engine: Engine) -> None:
        """Count this epoch if it was validated."""
        if validated_this_epoch(engine, self.validator):
            super().__call__(engine)


def stopping_state(handler: EarlyStopHandler) -> dict[str, Any]:
    """Counter and best score of a handler that has a trainer; empty otherwise."""
    return {} if handler._handler is None else dict(handler._handler.state_dict())


def load_stopping_state(handler: EarlyStopHandler, state: dict[str, Any]) -> bool:
    """Restore the counter and best score.

    Returns:
        Whether the patience was already used up, so that the run had ended.
    """
    if handler._handler is None or not state:
        return False
    handler._handler.load_state_dict(state)
    return handler._handler.counter >= handler.patience
