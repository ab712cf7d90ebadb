"""Several processes under ``torchrun``, each segmenting its share of the inputs; one alone works the same way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from blosam.errors import BlosamError

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # the fastest process waits for the slowest; one that dies ends the waiting at once
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """The processes of this run.

    Args:
        rank: of this one, from 0.
        world_size: how many there are.
        local_rank: of this one on its computer.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the first process, in all of them.

        Raises:
            BlosamError: in all of them, when it does in the first.
        """
        if self.world_size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = make()
            except BlosamError as error:
                box[1] = str(error)
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise BlosamError(box[1])
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes in the first one; an empty list in the others."""
        if self.world_size == 1:
            return [value]
        found: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, found, dst=0)
        return found or []

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def processes() -> Iterator[Processes]:
    """This process alone, or all that ``torchrun`` started.

    Raises:
        BlosamError: when the environment names several processes but not how they find each other.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes()
        return
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing:
        raise BlosamError(f"WORLD_SIZE is {world_size}, but {', '.join(missing)} is not set. Start with torchrun.")
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Processes(int(os.environ["RANK"]), world_size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
