"""What is compared: the settings that all runs share, and the list of runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from blosam import ablations
from blosam.compare.budget import WALL, clock_of
from blosam.compare.paper import data_set
from blosam.data.datalist import Split, file_stem, load_split
from blosam.errors import BlosamError


class Job(NamedTuple):
    """One run.

    Args:
        method: name of the approach.
        shots: training images.
        seed: draws images, D1 and D2, views, order and initial weights.
    """

    method: str
    shots: int
    seed: int

    @property
    def name(self) -> str:
        """File name of the run without its suffix."""
        return f"{self.method}_k{self.shots}_s{self.seed}"


@dataclass(frozen=True)
class Options:
    """Settings of a comparison.

    Args:
        data: the data folder, see :func:`blosam.data.load_split`.
        out: where results go.
        methods: names of approaches.
        shots: numbers of training images.
        seeds: number of seeds; 0, 1, ... are used.
        encoder: encoder of the methods that build on SAM.
        base_weights: ``auto``, ``random`` or the path of a checkpoint.
        budget: seconds of training per run, the encoding of the views included, on the clock of
            :func:`blosam.compare.budget.clock_of`.
        max_steps: updates per run at most.
        views: augmented views per image.
        views_kind: ``greyscale`` or ``rgb``.
        image_size: S, pixels of the longest side in training.
        labels: foreground classes, name to value 1..K.
        device: where to train.
        threads: of a run on the processor; each counts against the budget.
        runs_per_gpu: runs that share a GPU, and so the seconds of its budget.
        more: further methods with a number of training images each.
        backbone_weights: file of an ImageNet ResNet-50 for the methods that were published with one; empty = random.
        text_embeddings: vectors of the class names for the methods that read names, as
            :func:`blosam.networks.text.label_vectors` takes them; empty = learned or random ones.
        medsam_weights: file of MedSAM's released weights for ``medsam-box``; empty = its recipe on our base.
        paper: which of the BLO-SAM paper's data sets this is: ``auto`` (by the folder's name), ``none``, ``kvasir``,
            ``jsrt`` or ``dental``.
    """

    data: Path
    out: Path
    methods: tuple[str, ...]
    shots: tuple[int, ...] = (2, 4, 8)
    seeds: int = 3
    encoder: str = "tiny"
    base_weights: str = "auto"
    budget: float = 45.0
    max_steps: int = 400
    views: int = 16
    views_kind: str = "greyscale"
    image_size: int = 256
    labels: dict[str, int] = field(default_factory=lambda: {"lung": 1})
    device: str = "cpu"
    threads: int = 1
    runs_per_gpu: int = 1
    more: tuple[tuple[str, int], ...] = ()
    backbone_weights: str = ""
    medsam_weights: str = ""
    paper: str = "auto"
    text_embeddings: str = ""

    def jobs(self) -> list[Job]:
        """Every run; all methods of one seed come before the next seed, so partial results are comparable."""
        grid = [(method, shots) for shots in self.shots for method in self.methods]
        pairs = list(dict.fromkeys([*grid, *self.more]))
        return [Job(method, shots, seed) for seed in range(self.seeds) for method, shots in pairs]

    def with_ablations(self, names: Sequence[str]) -> Options:
        """The same comparison with what some ablations need; ``methods`` are what is varied.

        Raises:
            BlosamError: for an unknown ablation or method, or data that cannot be read.
        """
        found, by_examples = ablations.expand(names, self.methods, self.encoder)
        counts = [count for count in ablations.EXAMPLES if by_examples and self._has_room_for(count)]
        more = tuple((method, count) for count in counts for method in by_examples)
        return replace(self, methods=tuple(found), more=(*self.more, *more))

    def _has_room_for(self, shots: int) -> bool:
        """Whether so many training images leave some to measure on, for every seed."""
        try:
            for seed in range(self.seeds):
                self.split(Job("", shots, seed))
        except BlosamError:
            return False
        return True

    def split(self, job: Job) -> Split:
        """The images of a run; the same for every method.

        Raises:
            BlosamError: when the folder cannot be split so, or no image is left to measure on.
        """
        split = load_split(self.data, job.shots, job.seed)
        if not split["test"]:
            raise BlosamError(f"{self.data}: {job.shots} shots leave no image to measure on. Give fewer --shots.")
        return split

    def shared_settings(self) -> dict[str, Any]:
        """What must be equal for runs to be comparable; names and numbers only, no folders."""
        return {
            "data": self.data.resolve().name,
            "data_digest": _digest(load_split(self.data)),
            "image_size": self.image_size,
            "views": self.views,
            "views_kind": self.views_kind,
            "budget": self.budget,
            "clock": clock_of(self.device),
            "threads": self.threads,
            "max_steps": self.max_steps,
            "labels": self.labels,
            "weights": "last",
            **({"runs_per_gpu": self.runs_per_gpu} if clock_of(self.device) == WALL else {}),
        }

    def check(self) -> None:
        """Find what would stop every run before the first one starts.

        Raises:
            BlosamError: naming the option to mend.
        """
        data_set(self.paper, self.data.name)
        if not self.methods or not self.shots or self.seeds < 1:
            raise BlosamError("nothing to compare. Give at least one of --methods, --shots and --seeds.")
        if min(self.shots) < 2:
            raise BlosamError(f"--shots {min(self.shots)}: D1 and D2 need an image each. Give 2 or more.")
        if self.views < 1 or not self.budget > 0 or self.max_steps < 1 or self.threads < 1:
            raise BlosamError("--views, --budget, --max-steps and --threads must be positive. Give larger ones.")
        if self.image_size < 32 or self.image_size % 16:
            raise BlosamError(f"--image-size {self.image_size}: must be at least 32 and divisible by 16. Give 256.")
        if sorted(self.labels.values()) != list(range(1, len(self.labels) + 1)):
            raise BlosamError(f"--labels {self.labels}: the values must be 1, 2, ... Give e.g. lung=1.")
        for job in {Job("", k, seed) for k in self.shots for seed in range(self.seeds)}:
            self.split(job)


def settings_digest(settings: Any) -> str:
    """12 hexadecimal digits of some plain JSON values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _digest(split: Split) -> str:
    """12 hexadecimal digits that change when images are added, removed, renamed or change in size."""
    lines = []
    for part in sorted(split):
        for pair in split[part]:
            sizes = [Path(pair[key]).stat().st_size for key in ("image", "label")]
            lines.append(f"{part} {file_stem(pair['image'])} {sizes}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]
