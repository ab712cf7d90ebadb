"""How a training went: loss and Dice at a few points of its budget, so that overfitting shows.

Looking costs the training nothing: the clock of the budget stands still meanwhile, and every random stream, the mode
of every layer and the weights are afterwards as before, so a run ends with the same weights with and without it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from blosam.compare.budget import Budget
from blosam.compare.measure import evaluation_transforms
from blosam.data import ResizeLongestPadd
from blosam.data.datalist import file_stem
from blosam.data.transforms import resized_shape
from blosam.engines.randomness import preserved_rng

POINTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the budget after which a training is looked at."""

COLUMNS = ("progress", "step", "loss", "train_dice", "held_out_dice")
"""What is noted at each point."""

HELD_OUT = 6
"""Held-out images that are looked at, at most; all test images at every point would take longer than the training."""

_RECENT = 20  # losses that are averaged, the last ones before a point
_BATCH = 4
StepDone = Callable[[Tensor | float], None]


class LearningCurve:
    """Follows one training.

    Dice is measured at training resolution without the padding, every image counting once with the mean of its
    classes; a class that is absent from truth and prediction counts 1.

    Args:
        training: the training images, ``{"image": path, "label": path}``.
        held_out: images that are not trained on.
        classes: K.
        size: S.
        device: where the network is.

    Attributes:
        rows: what was noted, in the order of ``COLUMNS``.
        seconds: time that looking took, on the wall.
        processor_seconds: the same as processor time.
    """

    def __init__(
        self,
        training: Sequence[Mapping[str, str]],
        held_out: Sequence[Mapping[str, str]],
        classes: int,
        size: int,
        device: str | torch.device,
    ) -> None:
        self.names = [file_stem(pair["image"]) for pair in held_out]
        self.classes, self.size = classes, size
        self.device = torch.device(device)
        self.seconds = self.processor_seconds = 0.0
        self.rows: list[list[float | int | None]] = []
        self._pairs = [*training, *held_out]
        self._trained_on = len(training)
        self._losses: deque[Tensor | float] = deque(maxlen=_RECENT)
        self._first_loss: Tensor | float | None = None
        self._steps = 0
        self._passed = 1  # points at which the training was looked at
        self._truth: list[np.ndarray] = []
        self._inputs = torch.empty(0)
        self._forward: Callable[[Tensor], Tensor] = nn.Identity()

    @contextmanager
    def follow(self, network: nn.Module, budget: Budget) -> Iterator[StepDone]:
        """Look at a network while it is trained in the body.

        Args:
            network: B x 3 x S x S in [0, 1] -> logits B x (K+1) x S x S. One with ``frozen_features`` and
                ``logits_from`` computes what does not change only once.
            budget: of the training.

        Yields:
            What the training must call after every step with the loss of that step.
        """
        with self._looking(network, budget):
            self._prepare(network)
            self._note(0.0)

        def step_done(loss: Tensor | float) -> None:
            self._losses.append(loss.detach() if isinstance(loss, Tensor) else loss)
            if self._steps == 0:
                self._first_loss = self._losses[0]
            self._steps += 1
            progress = budget.progress(self._steps)
            passed = sum(point <= progress for point in POINTS)
            if progress < 1.0 and passed > self._passed:  # a slow training may pass several points in one step
                with self._looking(network, budget):
                    self._note(progress)
                self._passed = passed

        yield step_done
        with self._looking(network, budget):
            self._note(budget.progress(self._steps) if self._steps else 1.0)
        self._inputs = torch.empty(0)  # what is kept for a large image size is not small

    def record(self) -> dict[str, Any]:
        """Plain values for the file of the run; the loss at the start is that of the first step."""
        rows = [list(row) for row in self.rows]
        if rows and self._first_loss is not None:
            rows[0][2] = float(self._first_loss)
        return {
            "columns": list(COLUMNS),
            "held_out": self.names,
            "rows": [[round(v, 5) if isinstance(v, float) else v for v in row] for row in rows],
        }

    @contextmanager
    def _looking(self, network: nn.Module, budget: Budget) -> Iterator[None]:
        """Evaluation mode and a stopped clock; afterwards every layer's own mode and all random streams as before."""
        modes = [(module, module.training) for module in network.modules()]
        wall, processor = time.perf_counter(), time.process_time()
        with budget.pause(), preserved_rng(), torch.no_grad():
            network.eval()
            try:
                yield
            finally:
                for module, mode in modes:
                    module.training = mode
        self.seconds += time.perf_counter() - wall
        self.processor_seconds += time.process_time() - processor

    def _prepare(self, network: nn.Module) -> None:
        """Read the images and compute what no step changes."""
        before, _ = evaluation_transforms(self.classes, self.size)
        resize = ResizeLongestPadd("label", self.size)
        frozen = getattr(network, "frozen_features", None)
        self._forward = network.logits_from if frozen else network
        inputs = []
        for pair in self._pairs:
            item = before(dict(pair))
            rows, columns = resized_shape(*item["label"].shape[-2:], self.size)
            self._truth.append(np.asarray(resize(item)["label"])[0, :rows, :columns].astype(int))
            image = item["image"].as_tensor().float().clamp(0, 1)[None].to(self.device)
            inputs.append(frozen(image) if frozen else image)
        self._inputs = torch.cat(inputs)

    def _note(self, progress: float) -> None:
        dice = self._dice()
        loss = float(torch.stack([torch.as_tensor(v) for v in self._losses]).mean()) if self._losses else None
        groups = dice[: self._trained_on], dice[self._trained_on :]
        means = [float(np.mean(group)) if group else None for group in groups]
        self.rows.append([float(progress), self._steps, loss, *means])

    def _dice(self) -> list[float]:
        """Mean Dice of the classes, for each image."""
        found: list[float] = []
        for first in range(0, len(self._inputs), _BATCH):
            logits = self._forward(self._inputs[first : first + _BATCH])
            if logits.shape[-1] != self.size:
                shape = (self.size, self.size)
                logits = functional.interpolate(logits, size=shape, mode="bilinear", align_corners=False)
            chosen = logits.argmax(dim=1).cpu().numpy()
            for pred, truth in zip(chosen, self._truth[first : first + _BATCH], strict=True):
                cut = pred[: truth.shape[0], : truth.shape[1]]
                found.append(float(np.mean([_dice(cut == k, truth == k) for k in range(1, self.classes + 1)])))
        return found


def held_out_subset(test: Sequence[Mapping[str, str]], seed: int) -> list[Mapping[str, str]]:
    """The same few test images for every method with this seed, in the order of the list."""
    chosen = np.random.default_rng([seed, len(test)]).permutation(len(test))[:HELD_OUT]
    return [test[i] for i in sorted(chosen)]


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two bool masks; 1 when both are empty."""
    pixels = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / pixels if pixels else 1.0
