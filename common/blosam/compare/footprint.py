"""What a method costs: the memory of its training and the time it takes to segment an image."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import nn

from blosam.compare.measure import evaluation_transforms, needs_truth, segmenting_transforms

if sys.platform != "win32":
    import resource

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MIB = 2**20


class PeakMemory:
    """The most memory in use within a ``with`` block, and how much was in use before.

    On a GPU it is what PyTorch has allocated there. On a CPU it is the resident set of the process, with the
    interpreter and the libraries: their size is in ``before``. The system's high-water mark is set back at the start,
    so earlier runs of the same process do not count; where that is impossible, ``kind`` says so.

    Args:
        device: where the training runs.
    """

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.kind = ""
        self.before = self.peak = 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self.kind = "allocated on the GPU"
            self.before = torch.cuda.memory_allocated(self.device)
            return self
        _return_freed_memory()
        try:
            _RESET.write_text("5")  # Linux: the peak becomes what is resident now
            self.kind = "resident set of the process"
            self.before = _resident("VmRSS")
        except OSError:
            self.kind = "resident set of the process since it was started"
            self.before = _process_peak()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        elif self.kind.endswith("process"):
            self.peak = _resident("VmHWM")
        else:
            self.peak = _process_peak()

    def record(self) -> dict[str, Any]:
        """Plain values for the file of the run."""
        return {
            "kind": self.kind,
            "before_mib": round(self.before / _MIB, 1),
            "peak_mib": round(self.peak / _MIB, 1),
        }


def _return_freed_memory() -> None:
    """Give what earlier runs have freed back to the system, so that runs of one process start alike."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library, which has no such function
        return


def _resident(name: str) -> int:
    """A line of the process's status in bytes.

    Raises:
        OSError: when the system does not tell.
    """
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{_STATUS} has no {name}")


def _process_peak() -> int:
    """The most this process has ever had resident, in bytes; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def inference_time(
    network: nn.Module, pairs: Sequence[Mapping[str, str]], size: int, device: str | torch.device
) -> dict[str, Any]:
    """Milliseconds from an image file to its mask on the grid of the file.

    Args:
        network: B x 3 x S x S -> logits B x (K+1) x S x S, in evaluation mode. Reading the true mask does not count
            for one that needs it, making prompts of it does.
        pairs: items with ``image``; the first one is segmented once more before the clock runs.
        size: S; a network that says its own ``image_size`` is measured at that.
        device: where the network is.

    Returns:
        ``total_ms``: the median over images; ``network_ms``: the median of the network's part; ``images``.
    """
    transforms = segmenting_transforms(getattr(network, "image_size", size))
    times = [_timed(network, pair, transforms, torch.device(device)) for pair in (pairs[0], *pairs)]
    total, own = zip(*times, strict=True)
    return {
        "total_ms": round(1000 * statistics.median(total[1:]), 2),
        "network_ms": round(1000 * statistics.median(own[1:]), 2),
        "images": len(pairs),
    }


@torch.no_grad()
def _timed(
    network: nn.Module, pair: Mapping[str, str], transforms: tuple[Compose, Compose], device: torch.device
) -> tuple[float, float]:
    """Seconds for one image: of everything, and of the network."""
    before, after = transforms
    truth = []
    if needs_truth(network):
        with_label, _ = evaluation_transforms(network.out_channels - 1, network.image_size)
        truth = [with_label(dict(pair))["label"].as_tensor()[None]]
    started = time.perf_counter()
    item = before({"image": pair["image"]})
    ready = time.perf_counter()
    logits = network(item["image"].as_tensor()[None].to(device), *truth)[0]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    done = time.perf_counter()
    item["pred"] = MetaTensor(logits.cpu())  # what undoing the preprocessing asks for
    after(item)
    return time.perf_counter() - started, done - ready
