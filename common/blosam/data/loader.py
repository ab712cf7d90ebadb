"""Batches of D1 and D2 for the bilevel trainer, each a pure function of the seed and the iteration.

A run that is resumed at iteration t therefore sees exactly the batches it would have seen, and nothing about
the order needs to be saved.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from blosam import processes
from blosam.data.bank import FeatureBank
from blosam.errors import BlosamError

_LOWER_OF_D1, _UPPER_OF_D2, _LOWER_OF_D2, _UPPER_OF_D1, _JOINT = range(5)  # independent random sequences
Plan = tuple[list[int], list[int]]  # image indices and view indices of one batch


class BilevelLoader:
    """Endless batches ``{"d1": ..., "d2": ...}`` from a feature bank.

    D1 is shuffled once per epoch and every image of it is used once. D2 has its own shuffled, cycling
    sequence, in which every image occurs at least once per epoch. Each image goes through its views in its
    own shuffled order.

    Args:
        bank: where features and labels come from.
        batch_size: images per batch and level; the last D1 batch of an epoch may be smaller, and a batch
            never holds an image twice.
        seed: seed of all orders.
        swap_roles: exchange D1 and D2 after every step, so that every image serves both levels.
        joint: no division at all: batches hold only ``d1``, from all images.

    Raises:
        BlosamError: when ``batch_size`` is below 1, or ``joint`` and ``swap_roles`` are both set.
    """

    def __init__(
        self,
        bank: FeatureBank,
        batch_size: int = 1,
        seed: int = 0,
        swap_roles: bool = False,
        joint: bool = False,
    ) -> None:
        if batch_size < 1:
            raise BlosamError(f"batch_size is {batch_size}, but at least 1 image is needed. Set batch_size.")
        if joint and swap_roles:
            raise BlosamError("joint and swap_roles are both true, but joint training has no roles. Set one to false.")
        self.bank = bank
        self.batch_size = batch_size
        self.seed = int(seed)
        self.swap_roles = swap_roles
        self.joint = joint
        self.next_iteration = 0

    def __len__(self) -> int:
        """Iterations per epoch: ceil(|D1| / batch size), or ceil(n / batch size) when joint."""
        images = len(self.bank) if self.joint else len(self.bank.d1)
        return -(-images // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, dict[str, torch.Tensor]]]:
        """Endless batches from ``next_iteration`` on, which always names the batch that comes next."""
        while True:
            iteration = self.next_iteration
            self.next_iteration = iteration + 1
            yield self.batch(iteration)

    def batch(self, iteration: int) -> dict[str, dict[str, torch.Tensor]]:
        """The batch of one iteration.

        Args:
            iteration: counted from 0 over the whole run.

        Returns:
            ``d1`` and, unless joint, ``d2``: each the ``features`` and ``label`` of ``FeatureBank.get``. In one of
            several processes ``features`` are its share of the batch, ``rows`` (integers) the places of these
            images in the batch, and ``label`` is that of the whole batch: see ``engines.distributed.whole_batch``.
        """
        take = self.bank.get if processes.world_size() == 1 else self._share
        return {level: take(images, views) for level, (images, views) in self.plan(iteration).items()}

    def _share(self, images: list[int], views: list[int]) -> dict[str, torch.Tensor]:
        """This process's part of a batch; every process gets equally many, so that all draw the same random numbers.

        What is missing is filled up with the first image, which gets no place in the batch and so counts nothing.
        """
        count = processes.world_size()
        own = list(range(processes.rank(), len(images), count))
        run = own + [0] * (-(-len(images) // count) - len(own))
        part = self.bank.get([images[k] for k in run], [views[k] for k in run])
        return {
            "features": part["features"],
            "rows": torch.as_tensor(own, dtype=torch.long, device=self.bank.device),
            "label": self.bank.labels(images, views),
        }

    def plan(self, iteration: int) -> dict[str, Plan]:
        """Image and view indices of one iteration; fills the bank first, which settles ``num_views``."""
        self.bank.fill()
        if self.joint:
            return {"d1": self._epoch_batch(_JOINT, list(range(len(self.bank))), iteration)}
        d1, d2 = self.bank.d1, self.bank.d2
        if not self.swap_roles:
            return {
                "d1": self._epoch_batch(_LOWER_OF_D1, d1, iteration),
                "d2": self._cycling_batch(_UPPER_OF_D2, d2, iteration, len(self)),
            }
        turn = iteration // 2  # each arrangement of roles has its own sequences, so no image is favoured
        if iteration % 2 == 0:
            return {
                "d1": self._epoch_batch(_LOWER_OF_D1, d1, turn),
                "d2": self._cycling_batch(_UPPER_OF_D2, d2, turn, len(self)),
            }
        return {
            "d1": self._epoch_batch(_LOWER_OF_D2, d2, turn),
            "d2": self._cycling_batch(_UPPER_OF_D1, d1, turn, len(self)),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the next iteration, the number of views (auto depends on timing), the plan."""
        return {"next_iteration": self.next_iteration, "num_views": self.bank.num_views, "plan": self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            BlosamError: when the batches would be others than those of the saved run, or the bank has already been
                filled with another number of views.
        """
        for name, now in self._settings().items():
            then = state.get("plan", {}).get(name, now)
            if then != now:
                raise BlosamError(
                    f"The saved training used {name} {then}, now it is {now}, so D1 and D2 would mix. Use the same "
                    "images, seed and method, or start anew with resume false."
                )
        if self.bank.filled and self.bank.num_views != state["num_views"]:
            raise BlosamError(
                f"The checkpoint was made with num_views={state['num_views']}, but {self.bank.num_views} "
                f"views are encoded. Set num_views to {state['num_views']}."
            )
        self.bank.num_views = state["num_views"]
        self.next_iteration = int(state["next_iteration"])

    def _settings(self) -> dict[str, Any]:
        """What decides, together with the iteration, which images a batch holds."""
        return {
            "images": len(self.bank),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "swap_roles": self.swap_roles,
            "joint": self.joint,
        }

    def _epoch_batch(self, stream: int, members: list[int], step: int) -> Plan:
        """Batch ``step`` of a sequence that is reshuffled whenever it has been used up."""
        steps = -(-len(members) // self.batch_size)
        epoch, position = divmod(step, steps)
        order = self._shuffled(stream, epoch, 0, len(members))
        chosen = [members[k] for k in order[position * self.batch_size : (position + 1) * self.batch_size]]
        return chosen, [self._view(stream, image, epoch) for image in chosen]

    def _cycling_batch(self, stream: int, members: list[int], step: int, epoch_length: int) -> Plan:
        """Batch ``step`` of a sequence that starts a fresh shuffle each epoch and cycles within it."""
        size = min(self.batch_size, len(members))
        epoch, position = divmod(step, epoch_length)
        cycles = -(-epoch_length * size // len(members))  # shuffles needed to serve one epoch
        chosen: list[int] = []
        views: list[int] = []
        for draw in range(position * size, (position + 1) * size):
            cycle, place = divmod(draw, len(members))
            image = members[self._shuffled(stream, epoch, cycle, len(members))[place]]
            if image in chosen:  # the batch straddles two shuffles
                image = next(other for other in members if other not in chosen)
            chosen.append(image)
            views.append(self._view(stream, image, epoch * cycles + cycle))
        return chosen, views

    def _shuffled(self, stream: int, epoch: int, cycle: int, count: int) -> tuple[int, ...]:
        """A permutation of range(count) that depends on the seed and these numbers only."""
        return _permutation((self.seed, stream, epoch, cycle), count)

    def _view(self, stream: int, image: int, use: int) -> int:
        """View for the ``use``-th use of an image: all views in shuffled order, then another order."""
        count = int(self.bank.num_views)
        round_, place = divmod(use, count)
        return _permutation((self.seed, stream, _JOINT + 1 + image, round_, count), count)[place]


@functools.lru_cache(maxsize=1024)
def _permutation(seed: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Kept, because every step of an epoch asks for it: drawn anew, the work would grow with the square of count."""
    return tuple(np.random.default_rng(seed).permutation(count).tolist())
