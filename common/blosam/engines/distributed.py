"""Training and measuring in several processes: joining them, dividing batches and images, and failing together.

A batch is the method's batch whatever the number of processes: each of them runs the network on its share of the
images, the logits are put together again, and every process computes the loss of the whole batch. So any loss is
exact (a batch-wise Dice is not a mean of Dices), and the result does not depend on how many processes there were.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from torch.utils.data import Sampler

from blosam import processes
from blosam.errors import BlosamError

logger = logging.getLogger(__name__)

TIMEOUT = 1800  # seconds to wait for another process before the run ends with an error
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "timed out")  # how a dead process shows
_NOTE = "blosam/failure"  # key of the first failure, in the store that all processes share
_store: dist.Store | None = None


class ProcessLost(BlosamError):
    """Another process of this run has failed or is gone."""


def local_device() -> torch.device:
    """The GPU of this process (by torchrun's ``LOCAL_RANK``), or the CPU where there is none.

    Raises:
        BlosamError: when there are more processes than GPUs on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise BlosamError(
            f"process {number} of this machine has no GPU: there are {count}. Start torchrun with "
            f"--nproc_per_node={count}, or train on the CPU with --device \"$torch.device('cpu')\"."
        )
    return torch.device("cuda", number)


def join(device: str | torch.device, timeout: float = TIMEOUT) -> None:
    """Meet the other processes that torchrun started; alone without torchrun. The first thing a config does.

    Only the main process logs progress from then on.

    Args:
        device: of this process; NCCL connects GPUs, Gloo anything else.
        timeout: seconds to wait for another process, then and later.
    """
    global _store
    device = torch.device(device)
    if dist.is_initialized():
        return
    if "RANK" not in os.environ:
        logger.info("Not started by torchrun: one process does everything.")
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    limit = datetime.timedelta(seconds=float(timeout))
    _store, number, count = next(rendezvous("env://", timeout=limit))
    _store.set_timeout(limit)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("blosam", _store),
        rank=number,
        world_size=count,
        timeout=limit,
    )
    with _outside_slurm():
        idist.sync()
    if not processes.is_main():
        logging.disable(logging.INFO)
    logger.info("%d processes, %s, this one on %s.", count, dist.get_backend(), device)


def leave() -> None:
    """Part from the other processes; the last thing a config does."""
    global _store
    if dist.is_initialized():
        dist.destroy_process_group()
        logging.disable(logging.NOTSET)
    _store = None


def run_together(engine: Engine) -> None:
    """Run a MONAI evaluator in every process and return when all have finished.

    Raises:
        BlosamError: also when another process failed; the message is that of the one that failed first.
    """
    with SharedFailure():
        engine.run()
        processes.wait_for_all()


class SharedFailure(AbstractContextManager):
    """Context in which the first process to fail tells the others why, so that none waits and all say the same."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave a note of an own failure; turn the loss of another process into the note that it left."""
        if error is None or processes.world_size() == 1 or isinstance(error, ProcessLost):
            return
        if not _shows_a_loss(error):
            reason = str(error) or type(error).__name__
            _leave_note(f"process {processes.rank()} of {processes.world_size()} failed: {reason}")
            return
        raise ProcessLost(
            _read_note()
            or f"process {processes.rank()} of {processes.world_size()} has lost another one, which was stopped, ran "
            "out of memory or took too long. Start again; with resume true, training goes on from the last saved epoch."
        ) from error


class ShardSampler(Sampler[int]):
    """Every n-th image of a dataset for this one of n processes.

    A process without any image takes the first one, so that it takes part in everything; ``padding`` is then true and
    the metrics leave the image out.

    Args:
        dataset: anything with a length.
    """

    def __init__(self, dataset: Sized) -> None:
        own = range(processes.rank(), len(dataset), processes.world_size())
        self.padding = len(own) == 0 and len(dataset) > 0
        self.indices = [0] if self.padding else list(own)

    def __len__(self) -> int:
        """Number of images this process works on."""
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        """Indices, in the order of the dataset."""
        return iter(self.indices)


def is_padding(engine: Engine | None) -> bool:
    """Whether the images of this process's evaluator only keep it busy (see :class:`ShardSampler`)."""
    sampler = getattr(getattr(engine, "data_loader", None), "sampler", None)
    return bool(getattr(sampler, "padding", False))


def whole_batch(shard: Tensor, rows: Tensor, size: int) -> Tensor:
    """Put the results for the images of a batch together again, so that autograd can follow. Collective.

    Args:
        shard: N x ..., this process's results, its own images first and then any padding, which is left out.
        rows: where in the batch its own images belong; at most N.
        size: B, images in the batch.

    Returns:
        B x ..., bit for bit the same in every process.
    """
    own = shard[: len(rows)]
    return processes.total(shard.new_zeros(size, *shard.shape[1:]).index_copy(0, rows, own))


def _shows_a_loss(error: BaseException) -> bool:
    """Whether it is the communication that failed, perhaps wrapped by a library."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).lower()
        if isinstance(cause, RuntimeError) and any(word in text for word in _LOST):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _leave_note(text: str) -> None:
    if _store is None:
        return
    try:
        _store.compare_set(_NOTE, "", text)  # the first one wins
    except RuntimeError as problem:  # the machine that kept the store is gone
        logger.warning("The other processes could not be told: %s", problem)


def _read_note() -> str | None:
    try:
        return _store.get(_NOTE).decode() if _store is not None and _store.check([_NOTE]) else None
    except RuntimeError:  # the machine that kept the store is gone
        return None


@contextmanager
def _outside_slurm() -> Iterator[None]:
    """Ignite replaces torchrun's local rank by Slurm's, which is that of torchrun itself."""
    job = os.environ.pop("SLURM_JOB_ID", None)
    try:
        yield
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job
