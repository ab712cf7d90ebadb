"""How much faster training is when the frozen encoder runs once per image instead of in every step.

Two processes train the same network on the same 4 synthetic images with the same batches, in the same precision and
without gradients in the frozen part. One re-encodes its two images in every step, as the authors' code does; a few
of its steps are timed and scaled to all of them (an extrapolation, and marked as one). The other encodes each image
once and runs all steps; its time includes the encoding. Loading libraries and building the network are in neither.

    python benchmarks/training_speed.py --encoder vit_b --image-size 256 --device cpu --steps 200

The last line is ``ratio X``: scaled seconds of the first over seconds of the second. Weights are random: they change
neither the time nor the comparison, and nothing needs to be downloaded.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import Dataset

from blosam.atomicio import atomic_write
from blosam.data.bank import FeatureBank, soft_labels
from blosam.data.loader import BilevelLoader
from blosam.engines import BilevelTrainer, PolySchedule
from blosam.engines.objective import published_loss
from blosam.networks import BloSam

IMAGES = 4
TOLERANCE = 1e-4  # of the losses of steps that both processes ran
LIMIT = 600.0  # seconds for both processes together


class ReencodingBank(FeatureBank):
    """A bank that keeps labels but no features: every request runs the encoder, in the precision of the real bank."""

    def fill(self) -> None:
        """Prepare the images and labels; the encoder does not run."""
        if self._labels is None:
            self._drawn = [self.draw(index, 0) for index in range(len(self))]
            labels = torch.stack([item["label"] for item in self._drawn])
            self._labels = soft_labels(labels, self.network.out_channels, self.network.logits_size)
            self._labels = self._labels.to(self.device, torch.float16)

    def get(self, images: list[int], views: list[int]) -> dict[str, torch.Tensor]:
        """Features, computed now, and labels."""
        self.fill()
        features = self._encode(torch.stack([self._drawn[index]["image"] for index in images]))
        return {"features": features.float(), "label": self._labels[images].float()}


def draw_images(size: int) -> list[dict[str, torch.Tensor]]:
    """Noisy bright ellipses, 3 x size x size in [0, 1], with their masks."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    items = []
    for _ in range(IMAGES):
        y, x, height, width = (torch.rand(4, generator=generator) * 0.4 + torch.tensor([-0.2, -0.2, 0.4, 0.3])).tolist()
        mask = ((((rows - y) / height) ** 2 + ((columns - x) / width) ** 2) < 1).to(torch.uint8)[None]
        image = 0.3 + 0.4 * mask + 0.2 * torch.rand(3, size, size, generator=generator)
        items.append({"image": image.clamp(0, 1), "label": mask})
    return items


def train(mode: str, encoder: str, size: int, device: str, steps: int, timed: int) -> dict[str, Any]:
    """Train in this process.

    Args:
        mode: ``cached`` runs all ``steps``; ``reencode`` a warm-up step and ``timed`` more.
        encoder: of ``BloSam``.
        size: image side in pixels.
        device: ``cpu`` or ``cuda``.
        steps: length of the whole run, which the learning rates follow in both modes.
        timed: whole re-encoding steps to time.

    Returns:
        Seconds, losses of each step, peak memory in MiB.
    """
    network = BloSam(encoder=encoder, image_size=size, out_channels=2).to(device)
    bank_class = FeatureBank if mode == "cached" else ReencodingBank
    bank = bank_class(Dataset(draw_images(size)), network, num_views=1, device=device)
    loader = BilevelLoader(bank)
    loss = published_loss()
    trainer = BilevelTrainer(
        device, -(-steps // len(loader)), loader, network,
        torch.optim.AdamW(network.weight_parameters(), lr=5e-3, weight_decay=0.1, fused=True),
        torch.optim.AdamW(network.prompt_parameters(), lr=5e-3, weight_decay=0.1, fused=True), loss,
        train_handlers=[PolySchedule()],
    )  # fmt: skip
    last = steps if mode == "cached" else timed + 1
    marks, losses = [], []

    def note(engine: BilevelTrainer) -> None:
        marks.append(time.perf_counter())  # the losses are floats already, so a GPU has finished the step
        losses.append([engine.state.output["loss"], engine.state.output["d2_loss"]])
        if engine.state.iteration == last:
            engine.terminate()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    started = time.perf_counter()
    trainer.run()
    seconds = marks[-1] - started if mode == "cached" else (marks[-1] - marks[0]) / timed
    return {"seconds": seconds, "encoding_seconds": bank.encoding_seconds, "losses": losses, "steps": len(losses),
            "peak_mib": peak_memory(device)}  # fmt: skip


def peak_memory(device: str) -> float:
    """Highest memory of this process so far in MiB: of the GPU if it trains there, resident memory otherwise."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if platform.system() == "Darwin" else 2**10)  # bytes on macOS, KiB on Linux


def in_own_process(mode: str, arguments: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Run :func:`train` in a fresh interpreter, so that memory and caches of the two modes do not mix."""
    command = [sys.executable, __file__, "--worker", mode]
    for name in ("encoder", "image_size", "device", "steps", "timed"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(limit, 1.0), check=False)
    except subprocess.TimeoutExpired:
        sys.exit(f"error: {mode} did not end within {LIMIT:.0f} s in all. Use fewer --steps or a smaller --image-size.")
    if done.returncode:
        sys.exit(f"error: {mode} failed.\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(arguments: argparse.Namespace, reencode: dict[str, Any], cached: dict[str, Any]) -> dict[str, Any]:
    """The record of a comparison; exits when the two runs did not do the same."""
    pairs = zip(reencode["losses"], cached["losses"], strict=False)
    difference = max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))
    if not difference <= TOLERANCE:
        sys.exit(f"error: the losses of the two runs differ by {difference:.1e}, allowed is {TOLERANCE:.0e}.")
    extrapolated = reencode["seconds"] * arguments.steps
    return {
        "encoder": arguments.encoder,
        "image_size": arguments.image_size,
        "device": arguments.device,
        "device_name": torch.cuda.get_device_name() if "cuda" in arguments.device else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": IMAGES,
        "views": 1,
        "steps": arguments.steps,
        "reencode": {
            "timed_steps": arguments.timed,
            "seconds_per_step": reencode["seconds"],
            "seconds_extrapolated": extrapolated,
            "peak_mib": reencode["peak_mib"],
        },
        "cached": {
            "seconds": cached["seconds"],
            "encoding_seconds": cached["encoding_seconds"],
            "peak_mib": cached["peak_mib"],
        },
        "compared_steps": min(reencode["steps"], cached["steps"]),
        "largest_loss_difference": difference,
        "ratio": extrapolated / cached["seconds"],
    }


def main() -> None:
    """Compare, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="vit_b")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--timed", type=int, help="whole re-encoding steps to time; default 5, or 3 from 1024 px on")
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    parser.add_argument("--worker", choices=("reencode", "cached"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.timed = arguments.timed or (3 if arguments.image_size >= 1024 else 5)
    if arguments.steps <= arguments.timed:
        parser.error(f"--steps {arguments.steps} must be above the {arguments.timed} timed steps")
    if arguments.worker:
        result = train(arguments.worker, arguments.encoder, arguments.image_size, arguments.device, arguments.steps,
                       arguments.timed)  # fmt: skip
        print(json.dumps(result))
        return
    started = time.monotonic()
    reencode = in_own_process("reencode", arguments, LIMIT)
    cached = in_own_process("cached", arguments, LIMIT - (time.monotonic() - started))
    record = report(arguments, reencode, cached)
    slow, fast = record["reencode"], record["cached"]
    print(f"{record['encoder']} at {record['image_size']} px on {record['device']}, {record['threads']} threads")
    print(
        f"re-encoding: {slow['seconds_per_step']:.3f} s per step, mean of {slow['timed_steps']} whole steps; "
        f"{record['steps']} steps = {slow['seconds_extrapolated']:.1f} s (extrapolated); "
        f"peak {slow['peak_mib']:.0f} MiB"
    )
    print(
        f"cached:      {fast['seconds']:.1f} s for all {record['steps']} steps, {fast['encoding_seconds']:.1f} s of it "
        f"encoding; peak {fast['peak_mib']:.0f} MiB"
    )
    print(f"losses of {record['compared_steps']} steps differ by at most {record['largest_loss_difference']:.1e}")
    if arguments.out:
        with atomic_write(arguments.out, mode="w") as file:
            json.dump(record, file, indent=4)
            file.write("\n")
    print(f"ratio {record['ratio']:.1f}")


if __name__ == "__main__":
    main()
