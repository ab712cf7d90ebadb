"""The training loop: warm-up, a long plateau, a cool-down; averaged weights; checkpoints one can go on from.

The learning rate depends on the end of the run only during the cool-down, so a stopped run may be resumed with more
or fewer steps and, as long as the cool-down had not begun, equals an uninterrupted run of the new length. It may also
be resumed at another image size: no weight depends on it, and starting small (progressive resizing) shows the network
several times as many images in the same time.
"""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn
from torch.utils.data import DataLoader

from blosam.atomicio import atomic_path, atomic_write
from blosam.errors import BlosamError
from blosam.weightsio import read_state

from .held_out import held_out_batch, held_out_dice
from .kinds import KINDS
from .model import PromptableTiny
from .objective import batch_loss
from .samples import Mixture, PromptBatches

logger = logging.getLogger(__name__)

WARM_UP = 100  # steps
COOL_DOWN = 0.3  # last part of the run, during which the learning rate falls to 0
CLIP = 1.0
_ENDLESS = 10**7
_LOSSES = ("step", "seconds", "learning_rate", "loss", "unasked", "asked", "dense")
_SCORES = ("step", "seconds", "kind", "unasked", "box", "point")


@dataclass(frozen=True)
class Settings:
    """What a run is.

    Attributes:
        steps: length of the run, or None to go by ``minutes``.
        minutes: training time of the run including what was done before a resume, or None to go by ``steps``.
        stop_at: step to stop at before the run is over, to go on at another size; None goes to the end.
        size: side of the square images in pixels, divisible by 16.
        batch_size: even; half of the images come with a point or a box, half without.
        seed: of weights and images.
        kinds: what is drawn, names of ``kinds.KINDS``.
        learning_rate: of AdamW on the plateau.
        weight_decay: of AdamW.
        average: decay of the running average of the weights.
        held_out: drawings of each kind to score on; 0 switches scoring off.
        score_every: steps between two scorings.
        save_seconds: seconds between two checkpoints.
    """

    steps: int | None = None
    minutes: float | None = None
    stop_at: int | None = None
    size: int = 256
    batch_size: int = 16
    seed: int = 0
    kinds: tuple[str, ...] = KINDS
    learning_rate: float = 8e-4
    weight_decay: float = 0.05
    average: float = 0.995
    held_out: int = 16
    score_every: int = 200
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise BlosamError("The length of the run is given twice or not at all. Use either --steps or --minutes.")
        if self.size % 16 or self.size < 32:
            raise BlosamError(f"The image size {self.size} does not work. Use a multiple of 16 from 32 on.")
        if self.batch_size < 2 or self.batch_size % 2:
            raise BlosamError(f"The batch size {self.batch_size} is not even. Use 2, 4, 6, 8 or more.")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise BlosamError(f"Unknown kind of drawing {unknown}. Use some of {', '.join(KINDS)}.")


def rate_factor(step: int, progress: float) -> float:
    """Learning rate as a fraction of the plateau: linear warm-up, plateau, linear cool-down to 0.

    Args:
        step: steps done.
        progress: part of the run done, 0..1.
    """
    return min(1.0, (step + 1) / WARM_UP) * min(1.0, max(0.0, (1 - progress) / COOL_DOWN))


class Pretraining:
    """One run in one folder: ``last.pt`` to go on from, ``losses.csv``, ``held_out.csv``, ``tiny.safetensors``.

    Args:
        out: folder of the run.
        settings: what to do.
        device: torch device.
        workers: processes that draw images; 0 draws in this process.
        resume: go on from ``last.pt`` if it is there.
        start: weights to begin with, a ``tiny.safetensors`` of an earlier run; None begins with random ones.

    Raises:
        BlosamError: when the folder holds a run and ``resume`` is off, or a run of another seed or batch size.
    """

    def __init__(
        self,
        out: Path,
        settings: Settings,
        device: str = "cpu",
        workers: int = 1,
        resume: bool = False,
        start: Path | None = None,
    ) -> None:
        self.out, self.settings, self.device, self.workers = Path(out), settings, torch.device(device), workers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = PromptableTiny(settings.size) if start is None else load_weights(start, settings.size)
            self.network = network.train().to(self.device)
            self.average = PromptableTiny(settings.size).to(self.device).eval().requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            _groups(self.network, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.step, self.seconds = 0, 0.0
        self._scored: dict[str, dict[str, torch.Tensor]] = {}
        self.out.mkdir(parents=True, exist_ok=True)
        if (self.out / "last.pt").exists():
            if not resume:
                raise BlosamError(f"{self.out} already holds a run. Add --resume, or choose another folder.")
            self._load()

    def run(self) -> Path:
        """Train to the end of the run and write the averaged weights; returns their path."""
        logger.info("pretraining from step %d on %s", self.step, self.device)
        begun, before, saved = time.monotonic(), self.seconds, time.monotonic()
        for batch in self._batches():
            if self.progress() >= 1 or self.step == self.settings.stop_at:
                break
            parts = self._train_step(batch)
            self.seconds = before + time.monotonic() - begun
            self._log(parts)
            if self.settings.held_out and self.step % self.settings.score_every == 0:
                self._score()
            if time.monotonic() - saved > self.settings.save_seconds:
                self._save()
                saved = time.monotonic()
        self._save()
        return self.export()

    def progress(self) -> float:
        """Part of the run that is done, 0..1 or more."""
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        return self.seconds / (60 * self.settings.minutes)

    def export(self) -> Path:
        """Write the averaged weights as fp16 safetensors under SAM's key names, without the auxiliary head."""
        path = self.out / "tiny.safetensors"
        state = {
            key: value.detach().to("cpu", torch.float16).contiguous()
            for key, value in self.average.state_dict().items()
            if not key.startswith("dense_head.")
        }
        with atomic_write(path) as file:
            file.write(safetensors_bytes(state, metadata={"format": "pt", "step": str(self.step)}))
        return path

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        total = self.settings.steps if self.settings.steps is not None else _ENDLESS
        batches = PromptBatches(
            self.settings.seed, self.settings.batch_size, self.settings.size, Mixture.of(self.settings.kinds), total
        )
        return iter(
            DataLoader(
                batches,
                batch_size=None,
                sampler=range(self.step, total),
                num_workers=self.workers,
                prefetch_factor=8 if self.workers else None,
            )
        )

    def _train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        factor = rate_factor(self.step, self.progress())
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        loss, parts = batch_loss(self.network, batch)
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is not finite at step {self.step}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return parts

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        targets, sources = list(self.average.parameters()), list(self.network.parameters())
        torch._foreach_lerp_(targets, sources, 1 - decay)

    def _score(self) -> None:
        for kind in self.settings.kinds:
            if kind not in self._scored:
                self._scored[kind] = held_out_batch(kind, self.settings.held_out, self.settings.size)
            scores = held_out_dice(self.average, self._scored[kind])
            logger.info("step %d %s held-out Dice %s", self.step, kind, {k: round(v, 3) for k, v in scores.items()})
            _append(
                self.out / "held_out.csv",
                _SCORES,
                [self.step, round(self.seconds), kind, *[f"{scores[name]:.4f}" for name in _SCORES[3:]]],
            )

    def _log(self, parts: dict[str, float]) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        _append(
            self.out / "losses.csv",
            _LOSSES,
            [self.step, f"{self.seconds:.1f}", f"{rate:.3g}", *[f"{parts[name]:.4f}" for name in _LOSSES[3:]]],
        )

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "settings": {**asdict(self.settings), "kinds": list(self.settings.kinds)},
        }
        with atomic_path(self.out / "last.pt") as temporary:
            torch.save(state, temporary)

    def _load(self) -> None:
        path = self.out / "last.pt"
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name in ("seed", "batch_size"):
            was, now = state["settings"][name], getattr(self.settings, name)
            if was != now:
                raise BlosamError(f"{path} was made with {name} {was}, not {now}. Use the same or another folder.")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        for name in ("losses.csv", "held_out.csv"):
            _cut(self.out / name, self.step)


def _groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Parameters for the optimizer: matrices and kernels decay, biases, norms, gains and tokens do not."""
    decay, keep = [], []
    for name, parameter in network.named_parameters():
        one_dimensional = parameter.ndim < 2 or name.endswith(("tokens.weight", "token.weight", "embed.weight"))
        (keep if one_dimensional or "embeddings" in name else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def _append(path: Path, header: tuple[str, ...], row: list) -> None:
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(header)
        writer.writerow(row)


def _cut(path: Path, last_step: int) -> None:
    """Drop the rows a stopped run wrote after its last checkpoint: they are about to be written again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = lines[:1] + [line for line in lines[1:] if int(line.split(",", 1)[0]) <= last_step]
    with atomic_write(path, "w") as file:
        file.write("\n".join(kept) + "\n")


def load_weights(path: Path, size: int = 256) -> PromptableTiny:
    """The promptable model with weights written by ``Pretraining.export``; its auxiliary head stays random.

    Raises:
        BlosamError: when the file does not fit.
    """
    network = PromptableTiny(size)
    state = read_state(path)
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.startswith("dense_head.")]
    if missing or unexpected:
        key = (missing + unexpected)[0]
        raise BlosamError(f"{path} does not hold the embedded model (see {key}). Use a tiny.safetensors.")
    return network.eval()
