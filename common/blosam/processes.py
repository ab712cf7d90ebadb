"""Several processes that do one piece of work: who this one is, what its share is, and what all of them agree on.

Without a process group everything here is that of a single process and costs nothing. Functions marked *collective*
must be called by every process, in the same order; they wait for the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from blosam.errors import BlosamError

T = TypeVar("T")
MAIN = 0  # the rank that writes files and talks to the user


def world_size() -> int:
    """Number of processes that work together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else MAIN


def is_main() -> bool:
    """Whether this is the process that writes files."""
    return rank() == MAIN


def processes_per_machine() -> int:
    """How many of them share this machine's memory, as torchrun tells."""
    return min(world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", world_size())))


def share(total: int, number: int | None = None) -> range:
    """The contiguous part of ``range(total)`` of one process; the parts differ in length by 1 at most.

    Args:
        total: how many things there are.
        number: the process; ``None`` is this one.
    """
    number, count = (rank() if number is None else number), world_size()
    return range(total * number // count, total * (number + 1) // count)


def interleaved(shards: Sequence[Sequence[T]]) -> list[T]:
    """One list in the original order, from shards that hold every n-th item each (shard k: items k, k + n, ...)."""
    longest = max(len(shard) for shard in shards)
    return [shard[turn] for turn in range(longest) for shard in shards if turn < len(shard)]


def gathered(value: T) -> list[T]:
    """The value of every process, by number. Collective."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(make: Callable[[], T]) -> T:
    """What ``make`` returns in the main process, in every process. Collective.

    Args:
        make: called in the main process only; its result must be picklable, with tensors on the CPU.

    Raises:
        BlosamError: in every process, when ``make`` raised it.
    """
    if world_size() == 1:
        return make()
    answer: list[Any] = [None, None]
    if is_main():
        try:
            answer[0] = make()
        except BlosamError as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer, src=MAIN)
    if answer[1] is not None:
        raise BlosamError(answer[1])
    return answer[0]


def require_same(what: str, value: Any) -> None:
    """Refuse to go on when a process would work on something else than the main one. Collective.

    Args:
        what: name of the thing, for the message.
        value: of this process; compared with ``==``.

    Raises:
        BlosamError: in every process.
    """
    values = gathered(value)
    for number, other in enumerate(values):
        if other != values[MAIN]:
            raise BlosamError(
                f"process {number} of {len(values)} has {what} {other}, process {MAIN} has {values[MAIN]}. Give every "
                "machine the same files and settings."
            )


def wait_for_all() -> None:
    """Return when every process has come here. Collective."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1, device=_wire()))


class _Total(torch.autograd.Function):
    """Sum over the processes; so is its derivative, and the derivative of that."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.apply(gradient)


def total(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes, differentiable any number of times. Collective, and so is its backward pass.

    What autograd gives a process is the derivative of the sum of all processes' losses. Where each of them computes
    the same loss from the same totals, that is ``world_size`` times its part of the gradient: see :func:`averaged`.
    """
    return tensor if world_size() == 1 else _Total.apply(tensor)


def averaged(gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """The mean of every gradient over the processes, sent as one buffer. Collective.

    Args:
        gradients: of this process, ``None`` at the same places in every process.

    Returns:
        bit for bit the same in every process; with a single one, the argument itself.
    """
    present = [gradient for gradient in gradients if gradient is not None]
    if world_size() == 1 or not present:
        return gradients
    buffer = torch.cat([gradient.detach().reshape(-1) for gradient in present])
    dist.all_reduce(buffer)
    buffer /= world_size()
    pieces = iter(buffer.split([gradient.numel() for gradient in present]))
    return tuple(None if g is None else next(pieces).view(g.shape).to(g.dtype) for g in gradients)


def exchange(table: Tensor) -> None:
    """Complete a table of which every process has filled its :func:`share` of the rows, in place. Collective."""
    for number in range(world_size() if world_size() > 1 else 0):
        rows = share(len(table), number)
        if len(rows):
            _send(table[rows.start : rows.stop], number)


def copy_from_main(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with those of the main process, in place. Collective."""
    if world_size() > 1:
        with torch.no_grad():
            for tensor in tensors:
                _send(tensor.detach(), MAIN)


def _send(tensor: Tensor, source: int) -> None:
    """Broadcast into ``tensor``; as bytes, because not every backend knows every type."""
    carried = tensor.contiguous().to(_wire())
    dist.broadcast(carried.reshape(-1).view(torch.uint8), src=source)
    if carried.data_ptr() != tensor.data_ptr():
        tensor.copy_(carried)


def _wire() -> torch.device:
    """Where tensors must be to be sent: NCCL knows GPUs only."""
    on_gpu = dist.get_backend() == dist.Backend.NCCL
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
