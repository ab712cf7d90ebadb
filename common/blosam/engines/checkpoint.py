"""Files a training run leaves: the resumable state of every epoch, and the best model at the end.

``last.pt`` holds everything that changes during training and nothing that does not (the frozen base is named by its
digest). ``model.pt`` is one flat, complete state dict for MONAI's consumers, ``adapter.safetensors`` the few
megabytes people share.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import EarlyStopHandler
from torch import Tensor, nn

from blosam import processes, weightsio
from blosam.atomicio import atomic_write
from blosam.errors import BlosamError

from .events import BilevelEvents
from .randomness import capture_rng, restore_rng
from .stopping import load_stopping_state, stopping_state, validated_this_epoch

logger = logging.getLogger(__name__)

STATE_FORMAT = "blosam-state-1"
_ENGINE_KEYS = ("iteration", "epoch", "epoch_length", "best_metric", "best_metric_epoch")
_MANY = 1_000_000  # trained numbers; their moments are twice as many
_SIZE_KEYS = ("encoder_name", "image_size", "out_channels")


class LastCheckpoint:
    """Write the complete training state after each epoch, and continue from it bit for bit.

    Saved: theta and p, both optimizers, loss scalers, iteration and epoch, the loader, every global random stream,
    and the state of all train handlers that have one (best model so far, early stopping).

    Args:
        path: the file, usually ``models/last.pt``.
        resume: load ``path`` before training; if it does not exist, say so and start from the beginning.
        interval: epochs between two writes; the first epoch of a new training and the last one are always written, and
            on Ctrl-C the last complete one.
            0 = every epoch, but every tenth where more than a million numbers are trained: that file is large.
        method: name of the method; a state that was trained with another one is refused. Empty = not checked.
    """

    def __init__(self, path: str | os.PathLike, resume: bool = False, interval: int = 0, method: str = "") -> None:
        self.path = Path(path)
        self.resume = resume
        self.interval = int(interval)
        self.method = method
        self._base: dict[str, Any] | None = None
        self._kept_epoch = 0  # of this run, in the file
        self._unsaved: dict[str, Any] | None = None  # the last complete epoch, while it is not in the file

    def attach(self, engine: Engine) -> None:
        """Register with a ``BilevelTrainer``; the place in the list of handlers does not matter."""
        engine.add_event_handler(BilevelEvents.RESTORE, self.restore)
        engine.add_event_handler(BilevelEvents.EPOCH_CLOSED, self.save)
        engine.add_event_handler(BilevelEvents.INTERRUPTED, self.explain_interruption)

    def restore(self, engine: Engine) -> None:
        """Load the state if asked to, and check that the folder can be written before time is spent.

        Of several processes, the main one reads and the others get what it read.

        Raises:
            BlosamError: when the file is unreadable, belongs to another base or network, or has already run longer
                than ``max_epochs``; when the folder cannot be written.
        """
        state = processes.from_main(self._prepare)
        if state is not None:
            self._load(engine, state)

    def _prepare(self) -> dict[str, Any] | None:
        """The saved state if there is one to go on from."""
        _require_writable(self.path)
        if self.resume and not self.path.is_file():
            logger.info("resume is true, but %s does not exist: training starts from the beginning.", self.path)
        elif self.resume:
            return _read_state(self.path)
        elif self.path.is_file():
            logger.info("%s will be replaced after the first epoch; resume is false.", self.path)
        return None

    def save(self, engine: Engine) -> None:
        """Write the state, atomically; between two writes keep a copy, for Ctrl-C. The main process alone does.

        Raises:
            BlosamError: when it cannot be written (disk full, ...); the previous file survives.
        """
        if not processes.is_main():  # all have the same state
            return
        ends = engine.should_terminate or engine.state.epoch >= engine.state.max_epochs
        state = self._state(engine)
        trained = sum(tensor.numel() for tensor in state["trained"].values())
        interval = self.interval or (10 if trained > _MANY else 1)
        first = not self._kept_epoch  # a file of an earlier training would be resumed if this one were killed
        if ends or first or engine.state.epoch % interval == 0:
            self._unsaved = state
            self._write()
        else:
            for part in ("trained", "optimizers"):  # all else is not changed in place
                state[part] = copy.deepcopy(state[part])
            self._unsaved = state

    def explain_interruption(self, engine: Engine) -> None:
        """Write the last complete epoch if it is not in the file yet, and say what is kept and how to go on."""
        if not processes.is_main():
            return
        if self._unsaved is not None:
            self._write()
        if self._kept_epoch:
            logger.warning(
                "Interrupted in epoch %d of %d. %s keeps the state after epoch %d: run the same command again with "
                "resume=true to go on from there.",
                engine.state.epoch, engine.state.max_epochs, self.path, self._kept_epoch,
            )  # fmt: skip
        else:
            logger.warning("Interrupted before the first state was saved: nothing is kept, start again.")

    def _state(self, engine: Engine) -> dict[str, Any]:
        loader = engine.data_loader
        return {
            "format": STATE_FORMAT,
            "method": self.method,
            "base": self._base_facts(engine.network),
            "trained": _trained(engine.network),
            "optimizers": [optimizer.state_dict() for optimizer in engine.optimizers],
            "scalers": [scaler.state_dict() for scaler in engine.scalers],
            "engine": {key: getattr(engine.state, key) for key in _ENGINE_KEYS},
            "loader": loader.state_dict() if hasattr(loader, "state_dict") else {},
            "handlers": {name: _state_of(handler) for name, handler in _stateful(engine)},
            "rng": capture_rng(),
        }

    def _write(self) -> None:
        with atomic_write(self.path) as file:
            torch.save(self._unsaved, file)
        self._kept_epoch, self._unsaved = self._unsaved["engine"]["epoch"], None

    def _load(self, engine: Engine, state: dict[str, Any]) -> None:
        self._refuse_other_run(engine, state)
        network = engine.network
        expected = weightsio.adapter_parameters(network)
        weightsio.check_tensors(state["trained"], expected, self.path)
        try:
            for optimizer, saved in zip(engine.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (ValueError, KeyError) as error:
            raise BlosamError(
                f"{self.path}: its optimizers do not fit this method ({error}). Use the method it was trained with, or "
                "start anew with resume false."
            ) from error
        with torch.no_grad():
            for name, parameter in expected.items():
                parameter.copy_(state["trained"][name])
        for scaler, saved in zip(engine.scalers, state["scalers"], strict=True):
            scaler.load_state_dict(saved)
        if hasattr(engine.data_loader, "load_state_dict"):
            engine.data_loader.load_state_dict(state["loader"])
        for key, value in state["engine"].items():
            setattr(engine.state, key, value)
        stopped = [
            _load_state(handler, state["handlers"][name])
            for name, handler in _stateful(engine)
            if name in state["handlers"]
        ]
        restore_rng(state["rng"])
        self._kept_epoch = engine.state.epoch
        self._announce(engine, any(stopped))

    def _refuse_other_run(self, engine: Engine, state: dict[str, Any]) -> None:
        anew = "or start anew with resume false"
        theirs = state.get("method", "")  # older files do not say
        if theirs and self.method and theirs != self.method:
            raise BlosamError(
                f"{self.path}: its method is {theirs}, now it is {self.method}. Give --method {theirs}, {anew}."
            )
        for key, ours in self._base_facts(engine.network).items():
            theirs = state["base"].get(key)
            if theirs != ours:
                raise BlosamError(
                    f"{self.path}: its {key} is {theirs}, the network's is {ours}. Use the encoder, sizes and base "
                    f"weights it was trained with, {anew}."
                )
        saved = state["engine"]
        if saved["epoch_length"] != engine.state.epoch_length:
            raise BlosamError(
                f"{self.path}: an epoch had {saved['epoch_length']} iterations, now it has "
                f"{engine.state.epoch_length}. Use the same training images and batch size, {anew}."
            )
        if saved["epoch"] > engine.state.max_epochs:
            raise BlosamError(
                f"{self.path}: it has {saved['epoch']} epochs behind it, max_epochs is {engine.state.max_epochs}. "
                f"Raise max_epochs, {anew}."
            )

    def _announce(self, engine: Engine, stopped: bool) -> None:
        epoch, total = engine.state.epoch, engine.state.max_epochs
        if stopped or epoch >= total:
            how = "by early stopping" if stopped else "as planned"
            mend = "" if stopped else "raise max_epochs to go on, or "
            logger.info(
                "%s: training had already ended after epoch %d, %s. Nothing is trained; %sset resume to false to start "
                "anew.", self.path, epoch, how, mend,
            )  # fmt: skip
            engine.terminate()
        else:
            logger.info("Resumed from %s: %d of %d epochs are done.", self.path, epoch, total)

    def _base_facts(self, network: nn.Module) -> dict[str, Any]:
        """What the trained tensors belong to; hashed once a run, after all loaders."""
        if self._base is None:
            self._base = {key: getattr(network, key, None) for key in _SIZE_KEYS}
            self._base["base_sha256"] = weightsio.frozen_sha256(network)
        return self._base


class ModelSaver:
    """Keep the best epoch's theta and p; at the end load them and write ``model.pt`` and the adapter file.

    Best = highest key metric of the validator, ties going to the lower mean D2 loss of the epoch (NaN counts as the
    worst). Without a validator the D2 loss alone decides. Without any validated epoch the last weights are written:
    there is always a file.

    Args:
        model_path: where the flat complete state dict goes, usually ``models/model.pt``.
        adapter_path: where the adapter goes; ``None`` = no adapter file.
        validator: a MONAI evaluator with a key metric, run by a ``ValidationHandler``.
        metadata: facts for the adapter file, such as method, base and class names.
    """

    def __init__(
        self,
        model_path: str | os.PathLike,
        adapter_path: str | os.PathLike | None = None,
        validator: Engine | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.model_path = Path(model_path)
        self.adapter_path = None if adapter_path is None else Path(adapter_path)
        self.validator = validator
        self.metadata = dict(metadata or {})
        self.best_metric = -math.inf
        self.best_d2_loss = math.inf
        self.best_epoch = 0
        self.best: dict[str, Tensor] | None = None
        self._losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register with a ``BilevelTrainer``; the place in the list of handlers does not matter."""
        engine.add_event_handler(BilevelEvents.RESTORE, self.check)
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.note_loss)
        engine.add_event_handler(BilevelEvents.EPOCH_VALIDATED, self.compare)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def check(self, engine: Engine) -> None:
        """Refuse a folder that cannot be written before time is spent, and say how the best epoch is chosen."""
        processes.from_main(lambda: _require_writable(self.model_path))
        if self._metric_name() is None:
            logger.info("No validation metric: the epoch with the lowest mean D2 loss is kept.")

    def begin_epoch(self, engine: Engine) -> None:
        """Forget the losses of the epoch before."""
        self._losses = []

    def note_loss(self, engine: Engine) -> None:
        """Remember the D2 loss (in joint mode there is only the one loss)."""
        output = engine.state.output
        self._losses.append(output.get("d2_loss", output["loss"]))

    def compare(self, engine: Engine) -> None:
        """Keep a copy of theta and p if this epoch is the best one."""
        d2_loss = sum(self._losses) / len(self._losses) if self._losses else math.inf
        if self._metric_name() is None:
            metric = -d2_loss
        elif validated_this_epoch(engine, self.validator):
            metric = float(self.validator.state.metrics[self._metric_name()])
        else:
            return
        metric = -math.inf if math.isnan(metric) else metric
        if self.best is None or (metric, -d2_loss) > (self.best_metric, -self.best_d2_loss):
            self.best_metric, self.best_d2_loss, self.best_epoch = metric, d2_loss, engine.state.epoch
            self.best = {name: tensor.clone() for name, tensor in _trained(engine.network).items()}

    def finish(self, engine: Engine) -> None:
        """Load the best epoch into the network and write the files (the main process alone).

        Raises:
            BlosamError: when a file cannot be written.
        """
        network = engine.network
        if self.best is None:
            logger.info("No epoch was validated: %s holds the last weights.", self.model_path)
        else:
            parameters = weightsio.adapter_parameters(network)
            with torch.no_grad():
                for name, tensor in self.best.items():
                    parameters[name].copy_(tensor)
            logger.info(
                "%s holds epoch %d (%s %.4f).", self.model_path, self.best_epoch,
                self._metric_name() or "negative D2 loss", self.best_metric,
            )  # fmt: skip
        if not processes.is_main():
            return
        facts = self.metadata | weightsio.network_facts(network)  # by which `network_for` builds it again
        weightsio.save_state_dict(network.state_dict(), self.model_path, facts)
        if self.adapter_path is not None:
            weightsio.save_adapter(network, self.adapter_path, self.metadata)

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far."""
        keys = ("best_metric", "best_d2_loss", "best_epoch", "best")
        return {key: getattr(self, key) for key in keys}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best epoch so far, for the validator's log as well."""
        for key, value in state.items():
            setattr(self, key, value)
        if self._metric_name() is not None and self.best is not None:
            self.validator.state.best_metric = self.best_metric
            self.validator.state.best_metric_epoch = self.best_epoch

    def _metric_name(self) -> str | None:
        return None if self.validator is None else self.validator.state.key_metric_name


def _trained(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in weightsio.adapter_parameters(network).items()}


def _stateful(engine: Engine) -> Iterator[tuple[str, Any]]:
    """The train handlers with a state, named by class; MONAI Label's additions do not shift the names."""
    seen: dict[str, int] = {}
    for handler in engine.train_handlers:
        if isinstance(handler, EarlyStopHandler) or (
            hasattr(handler, "state_dict") and hasattr(handler, "load_state_dict")
        ):
            name = type(handler).__name__
            seen[name] = seen.get(name, 0) + 1
            yield f"{name}{seen[name]}", handler


def _state_of(handler: Any) -> dict[str, Any]:
    return stopping_state(handler) if isinstance(handler, EarlyStopHandler) else handler.state_dict()


def _load_state(handler: Any, state: dict[str, Any]) -> bool:
    """Restore a handler; true when it says that the run had ended."""
    if isinstance(handler, EarlyStopHandler):
        return load_stopping_state(handler, state)
    handler.load_state_dict(state)
    return False


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise BlosamError(f"{path}: is truncated or no training state. Start anew with resume false.") from error
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise BlosamError(f"{path}: is no training state ({STATE_FORMAT}). Start anew with resume false.")
    return state


def _require_writable(path: Path) -> None:
    """Fail now rather than after the first epoch."""
    probe = path.with_name(f".{path.name}.probe")
    with atomic_write(probe) as file:
        file.write(b"")
    probe.unlink()
