"""Everything before the first trainable layer, computed once per image and augmented view.

With a frozen encoder a training step then runs the mask decoder only. The bank belongs to the training loop,
not to the network: it is filled after every checkpoint has been loaded and lives on the training device.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Randomizable
from torch.nn import functional as F
from tqdm import tqdm

from blosam import processes
from blosam.data.split import d1_d2_split
from blosam.errors import BlosamError

logger = logging.getLogger(__name__)

VIEW_COUNTS = (32, 16, 8, 4, 1)  # what num_views="auto" chooses from
MEMORY_SHARE = 0.5  # of the free memory, which num_views="auto" may fill
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class FeatureBank:
    """Frozen features and soft low-resolution labels of every (image, view) of a training set.

    View 0 is the image as it is; view v > 0 of image i is one draw of ``views`` with a random state that
    depends on (``seed``, i, v) only, so neither the order nor the number of other views matters.

    Args:
        dataset: items are ``{"image": 3 x S x S float in [0, 1], "label": 1 x S x S integer 0..K}``.
        network: a ``BloSam``; ``frozen_features``, ``logits_size`` and ``out_channels`` are used.
        views: random transform on such an item; ``None`` means no augmentation.
        num_views: views per image including view 0, or ``"auto"``: the largest of 32, 16, 8, 4, 1 whose
            encoding is expected to take at most ``seconds`` and half of the memory that is free.
        seed: seed of the D1/D2 split and of the views.
        device: where the features are kept (the training device).
        dtype: how the features are kept: float16, bfloat16 or float32. They are handed out as float32.
        seconds: budget of ``num_views="auto"``.
        amp_dtype: run the encoder under autocast with this type; ``None`` means full precision.

    Raises:
        BlosamError: for a ``num_views`` or ``dtype`` other than these.
    """

    def __init__(
        self,
        dataset: Dataset,
        network: torch.nn.Module,
        views: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        num_views: int | str = "auto",
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float16,
        seconds: float = 60.0,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        if num_views != "auto" and not (isinstance(num_views, int) and num_views >= 1):
            raise BlosamError(f"num_views is {num_views!r}, but must be auto or a whole number from 1. Set num_views.")
        if dtype not in DTYPES:
            raise BlosamError(f"The feature bank cannot keep {dtype}. Use one of {', '.join(map(str, DTYPES))}.")
        self.dataset = dataset
        self.network = network
        self.views = views
        self.seed = int(seed)
        self.device = torch.device(device)
        self.dtype = dtype
        self.seconds = seconds
        self.amp_dtype = amp_dtype
        # Without a view transform every view would be the same image.
        self.num_views: int | str = 1 if views is None else num_views
        self.encoding_seconds = 0.0
        self._halves: tuple[list[int], list[int]] | None = None
        self._features: torch.Tensor | None = None
        self._labels: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)

    @property
    def d1(self) -> list[int]:
        """Indices of the images of D1; needs the masks but no encoding."""
        return self._split()[0]

    @property
    def d2(self) -> list[int]:
        """Indices of the images of D2; needs the masks but no encoding."""
        return self._split()[1]

    @property
    def filled(self) -> bool:
        """Whether the features have been computed."""
        return self._features is not None

    @property
    def nbytes(self) -> int:
        """Bytes held by features and labels; 0 before ``fill``."""
        held = [t for t in (self._features, self._labels) if t is not None]
        return sum(t.numel() * t.element_size() for t in held)

    def fill(self) -> None:
        """Encode all views of all images; does nothing when that has been done.

        The network's training mode and the global random state are as before afterwards. Several processes share the
        encoding and then all hold everything; each of them must call this.

        Raises:
            BlosamError: when several processes have different numbers of images.
        """
        if self.filled:
            return
        processes.require_same("images and seed", [len(self), self.seed])
        started = time.perf_counter()
        was_training = self.network.training
        self.network.eval()
        try:
            if self.num_views == "auto":
                self.num_views = processes.from_main(self._choose_num_views)  # the others wait: nothing disturbs it
            self._encode_all()
        finally:
            self.network.train(was_training)
        self.encoding_seconds = time.perf_counter() - started
        logger.info(
            "Encoded %d images x %d views in %.1f s (%.1f MiB, %s).",
            len(self), self.num_views, self.encoding_seconds, self.nbytes / 2**20, self.dtype,
        )  # fmt: skip

    def clear(self) -> None:
        """Forget the features, for example after the frozen weights have changed."""
        self._features = self._labels = None

    def get(self, images: Sequence[int], views: Sequence[int]) -> dict[str, torch.Tensor]:
        """Features and labels of some (image, view) pairs, filling the bank first when needed.

        Args:
            images: B image indices.
            views: B view indices below ``num_views``.

        Returns:
            ``features``: B x whatever ``frozen_features`` gives for one image, float32. ``label``: B x (K+1)
                x 4g x 4g
            float32, the fraction of each low-resolution pixel that each class covers (sums to 1).
        """
        self.fill()
        rows = self._rows(images, views)
        return {"features": self._features[rows].float(), "label": self._labels[rows].float()}

    def labels(self, images: Sequence[int], views: Sequence[int]) -> torch.Tensor:
        """The ``label`` of :meth:`get` alone."""
        self.fill()
        return self._labels[self._rows(images, views)].float()

    def _rows(self, images: Sequence[int], views: Sequence[int]) -> torch.Tensor:
        rows = torch.as_tensor([i * int(self.num_views) + v for i, v in zip(images, views, strict=True)])
        return rows.to(self.device)

    def draw(self, image: int, view: int) -> dict[str, torch.Tensor]:
        """One view of one image before encoding.

        Returns:
            ``image``: 3 x S x S float32 in [0, 1]; ``label``: 1 x S x S integer 0..K.
        """
        return self._view(self.dataset[image], image, view)

    def _view(self, item: Mapping[str, Any], image: int, view: int) -> dict[str, torch.Tensor]:
        """Apply view ``view`` to the preprocessed item of image ``image``."""
        item = {key: _plain(item[key]) for key in ("image", "label")}
        if view > 0 and self.views is not None:
            seed = int(np.random.SeedSequence([self.seed, image, view]).generate_state(1)[0])
            # A transform of the user's may draw from PyTorch's global state: seed and restore that as well.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU as well
                if isinstance(self.views, Randomizable):
                    self.views.set_random_state(seed=seed)
                item = {key: _plain(value) for key, value in self.views(dict(item)).items() if key in item}
        return {"image": item["image"].float().clamp(0, 1), "label": item["label"]}

    def _split(self) -> tuple[list[int], list[int]]:
        """The two halves, derived from the masks once."""
        if self._halves is None:
            self._halves = d1_d2_split(self.dataset.data, self.seed)
        return self._halves

    def _choose_num_views(self) -> int:
        """Time the drawing and encoding of one view and take the most views that fit the budget."""
        item = self.dataset[0]
        features = self._encode(self._view(item, 0, 0)["image"][None])  # the first call also pays for set-up
        started = time.perf_counter()
        self._encode(self._view(item, 0, 1)["image"][None])
        each = time.perf_counter() - started
        size = features.numel() * features.element_size()
        room = MEMORY_SHARE * _free_memory(self.device)
        if self.device.type == "cpu":  # every process keeps all features, in the same memory
            room /= processes.processes_per_machine()
        encoders = processes.world_size()
        fitting = [
            count
            for count in VIEW_COUNTS
            if count * len(self) * each <= self.seconds * encoders and count * len(self) * size <= room
        ]
        chosen = fitting[0] if fitting else 1
        logger.info(
            "num_views auto: one encoding takes %.3f s and %.2f MiB, so %d views of %d images fit into %.0f s and %.0f "
            "MiB.", each, size / 2**20, chosen, len(self), self.seconds, room / 2**20,
        )  # fmt: skip
        return chosen

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        """Frozen features of B x 3 x S x S images, on the bank's device."""
        at = next(self.network.parameters()).device
        autocast = nullcontext() if self.amp_dtype is None else torch.autocast(at.type, dtype=self.amp_dtype)
        with autocast:
            features = self.network.frozen_features(images.to(at))
        features = features.to(self.device, self.dtype)
        return features if at.type == "cpu" else _synchronised(features)

    def _encode_all(self) -> None:
        """Fill the two tables, one view at a time on a CPU (memory) and a few at a time on a GPU (speed).

        A process encodes its share of the rows, at least one so that it knows their shape, and gets the others.
        """
        count = int(self.num_views)
        chunk = 1 if next(self.network.parameters()).device.type == "cpu" else 4
        size, channels = int(self.network.logits_size), int(self.network.out_channels)
        share = processes.share(len(self) * count) or range(1)
        features = labels = None
        silent = None if processes.is_main() else True
        bar = tqdm(total=len(share), desc="encoding", unit="view", delay=2.0, leave=False, disable=silent)
        with bar:
            for image in range(share.start // count, -(-share.stop // count)):
                item = self.dataset[image]
                begin, end = max(share.start - image * count, 0), min(share.stop - image * count, count)
                for first in range(begin, end, chunk):
                    drawn = [self._view(item, image, view) for view in range(first, min(first + chunk, end))]
                    encoded = self._encode(torch.stack([d["image"] for d in drawn]))
                    label = soft_labels(torch.stack([d["label"] for d in drawn]), channels, size)
                    if features is None:  # now the shapes are known: joining pieces at the end would need twice as much
                        features = encoded.new_empty(len(self) * count, *encoded.shape[1:])
                        labels = label.new_empty(len(self) * count, *label.shape[1:], dtype=torch.float16)
                    row = image * count + first
                    features[row : row + len(drawn)] = encoded
                    labels[row : row + len(drawn)] = label
                    bar.update(len(drawn))
        labels = labels.to(self.device)
        for table in (features, labels):
            processes.exchange(table)
        self._labels, self._features = labels, features


def soft_labels(label: torch.Tensor, channels: int, size: int) -> torch.Tensor:
    """Area-averaged one-hot labels on the grid of the low-resolution logits.

    Averaging over areas keeps pixel centres where bilinear resizing with ``align_corners=False`` puts them,
    so labels and logits are not shifted against each other. With S a power-of-two multiple of ``size`` the
    fractions are exact in float16.

    Args:
        label: B x 1 x S x S, integers 0..channels-1.
        channels: number of classes including the background.
        size: side of the result.

    Returns:
        B x channels x size x size float32 in [0, 1], summing to 1 over the channels.

    Raises:
        BlosamError: when a label is above ``channels - 1``.
    """
    highest = int(label.max())
    if highest >= channels:
        raise BlosamError(
            f"A mask holds class {highest}, but the network has classes 0..{channels - 1}. "
            f"Set num_classes to {highest}."
        )
    one_hot = F.one_hot(label[:, 0].long(), channels).movedim(-1, 1).float()
    return F.interpolate(one_hot, size=(size, size), mode="area")


def _plain(value: Any) -> torch.Tensor:
    """A plain tensor: metadata and applied operations are of no use to the bank and slow the views down."""
    tensor = torch.as_tensor(value)
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


def _synchronised(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, once the GPU has finished it; otherwise timing would measure the launch only."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return tensor


def _free_memory(device: torch.device) -> float:
    """Bytes that are free on a GPU, or in the computer where the system tells; otherwise infinity."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # not on macOS or Windows
        return math.inf
