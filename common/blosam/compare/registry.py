"""What an approach is, and the list of those that can be compared.

An approach gets a :class:`Task` (the same images, views, seed, time) and gives a :class:`Trained` network. To add one,
write a function from task to trained network and ``register`` it; nothing else needs to know.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.data import Dataset
from torch import nn

from blosam import weights
from blosam.compare.budget import Budget, clock_of
from blosam.compare.curve import LearningCurve, StepDone
from blosam.compare.options import Options
from blosam.data import FeatureBank, default_views
from blosam.errors import BlosamError
from blosam.weightsio import sha256_of


@dataclass(frozen=True)
class Task:
    """What every approach gets for one run.

    Args:
        dataset: the preprocessed training images, ``image`` 3 x S x S and ``label`` 1 x S x S each.
        options: settings of the comparison.
        seed: of this run.
        curve: looks at the training while it goes on; None does not.
    """

    dataset: Dataset
    options: Options
    seed: int
    curve: LearningCurve | None = None

    @property
    def out_channels(self) -> int:
        """K + 1."""
        return len(self.options.labels) + 1

    def bank(self, network: nn.Module) -> FeatureBank:
        """The views, before encoding: view v of image i is the same picture for every approach."""
        views = default_views(self.options.views_kind)
        device = next(network.parameters()).device
        return FeatureBank(self.dataset, network, views, self.options.views, self.seed, device)

    def prepared(self, network: nn.Module) -> tuple[FeatureBank, Budget]:
        """The views, encoded, and the budget of which that was the first part.

        Raises:
            BlosamError: when no time is left to train.
        """
        options = self.options
        budget = Budget(options.budget, options.max_steps, clock_of(options.device), options.device)
        bank = self.bank(network)
        bank.fill()
        budget.check()
        return bank, budget

    def followed(self, network: nn.Module, budget: Budget) -> AbstractContextManager[StepDone | None]:
        """Train in the body; what it gives must be called with the loss after every step, if it gives anything."""
        return nullcontext() if self.curve is None else self.curve.follow(network, budget)


@dataclass(frozen=True)
class Trained:
    """What an approach gives back.

    Args:
        network: B x 3 x S x S in [0, 1] -> logits B x (K+1) x S x S, with the last weights of the training. With
            ``needs_truth = True`` it is also handed the true mask, see :func:`blosam.compare.measure.measure`.
        steps: updates made.
        encoding_seconds: time for drawing and encoding the views, on the clock of the budget.
        training_seconds: time for everything, encoding included, on the clock of the budget.
        parameters: all of the network's numbers.
        trained_parameters: those that an optimizer changed.
        d1: indices of D1 in the training list; empty when all images were used together.
        d2: indices of D2.
    """

    network: nn.Module
    steps: int
    encoding_seconds: float
    training_seconds: float
    parameters: int
    trained_parameters: int
    d1: tuple[int, ...] = ()
    d2: tuple[int, ...] = ()


@dataclass(frozen=True)
class Approach:
    """One line of the comparison.

    Args:
        name: what users type.
        summary: one line.
        train: from task to trained network.
        settings: what the result depends on beyond ``Options.shared_settings``; plain JSON values.
        caveat: why the row cannot be ranked with these options; empty when it can.
        source: where the method comes from, and what differs from its authors' code and why; a method of
            :mod:`blosam.methods` says so itself.
    """

    name: str
    summary: str
    train: Callable[[Task], Trained]
    settings: Callable[[Options], dict[str, Any]]
    caveat: Callable[[Options], str] = lambda options: ""
    source: str = ""


_REGISTRY: dict[str, Approach] = {}
_FAMILIES: list[Callable[[str], Approach | None]] = []


def register(approach: Approach) -> Approach:
    """Add an approach, or replace the one of that name."""
    _REGISTRY[approach.name] = approach
    return approach


def register_family(make: Callable[[str], Approach | None]) -> None:
    """Add approaches that are made from their name when they are asked for; :func:`names` leaves them out.

    Args:
        make: gives None for a name that it does not know.
    """
    _FAMILIES.append(make)


def names() -> list[str]:
    """Every registered name, ``recommended`` first."""
    return list(_REGISTRY)


def get(name: str) -> Approach:
    """The approach of that name.

    Raises:
        BlosamError: when there is none.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    made = next((approach for make in _FAMILIES if (approach := make(name)) is not None), None)
    if made is None:
        raise BlosamError(f"unknown method '{name}'. Choose among: {', '.join(names())}.")
    return made


def trained_by(
    network: nn.Module,
    steps: int,
    budget: Budget,
    trained: list[nn.Parameter],
    d1: tuple[int, ...] = (),
    d2: tuple[int, ...] = (),
) -> Trained:
    """The result of a training within the budget; ``trained`` is what an optimizer changed."""
    return Trained(
        network=network,
        steps=steps,
        encoding_seconds=budget.preparation,
        training_seconds=budget.elapsed,
        parameters=sum(p.numel() for p in network.parameters()),
        trained_parameters=sum(p.numel() for p in trained),
        d1=d1,
        d2=d2,
    )


def base_settings(options: Options) -> dict[str, Any]:
    """The SAM that a run starts from, so that other weights are noticed.

    Raises:
        BlosamError: when the base weights are missing.
    """
    base = weights.resolve_base(options.encoder, options.base_weights)
    return {
        "encoder": options.encoder,
        "base_weights": "random" if base is None else base.name,
        "base_sha256": "" if base is None else digest(base),
    }


def digest(file: str | Path) -> str:
    """SHA-256 of a file, read again only when it has changed; empty for no file.

    Raises:
        BlosamError: when it is not there.
    """
    if not file:
        return ""
    path = Path(file)
    if not path.is_file():
        raise BlosamError(f"{path}: no such file. Give the path of one that is there.")
    return _sha256(path, path.stat().st_mtime_ns)


@functools.cache
def _sha256(path: Path, changed: int) -> str:
    """Digest of a file; ``changed`` makes a rewritten file a new question."""
    return sha256_of(path)
