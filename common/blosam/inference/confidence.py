"""How sure a mask is: one number in [0, 1] per image, from a second opinion of the network itself.

``views``: the image is segmented again in a few mildly changed views (smaller, shifted, brighter, darker; mirrored
where the images have no upright direction). Each answer is laid back on the original, and the confidence is the mean
Dice of what the answers agree on. It needs nothing but the network and works for every bundle and ``model.ts``.

``iou``: SAM's head that predicts the IoU of its masks. Only for bundles trained with ``iou_loss_weight`` above 0, and
not from a ``model.ts``, which gives masks alone.

Neither is a probability of being right: a network can be wrong in all views alike. Use it to sort, and calibrate a
threshold on images with known masks (``blosam evaluate``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from blosam.data.transforms import PIXEL_MEAN
from blosam.data.views import content_size
from blosam.errors import BlosamError

SOURCES = ("auto", "views", "iou", "none")
NO_UPRIGHT = ("ES", "GM", "SM", "XC")  # modalities (DICOM) whose pictures may be mirrored
DEGENERATE = 0.98  # a foreground above this share of the image, or of no pixel at all, is no segmentation

Network = Callable[[Tensor], Tensor]
"""B x 3 x S x S in [0, 1] to logits B x (K+1) x S x S."""


@dataclass(frozen=True)
class Confidence:
    """How sure one mask is.

    Args:
        value: in [0, 1]; 0 for a degenerate mask.
        source: ``views`` or ``iou``.
    """

    value: float
    source: str


@dataclass(frozen=True)
class View:
    """One change of an image that can be undone.

    Args:
        scale: side of the content afterwards, relative to before; at most 1.
        shift: rows and columns as a fraction of the content, rounded to whole pixels; positive is down and right.
        gamma: exponent of the brightness curve.
        flip: axes that are mirrored: -1 columns, -2 rows.
    """

    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    gamma: float = 1.0
    flip: tuple[int, ...] = ()

    def apply(self, content: Tensor) -> Tensor:
        """Change a content C x rows x columns in [0, 1]; a smaller one comes back for ``scale`` below 1."""
        changed = content.clamp(0, 1) ** self.gamma
        changed = changed.flip(self.flip) if self.flip else changed
        rows, columns = changed.shape[-2:]
        down, right = self._pixels(rows, columns)
        lines = (torch.arange(rows) - down).clamp(0, rows - 1)
        across = (torch.arange(columns) - right).clamp(0, columns - 1)
        changed = changed[:, lines][:, :, across]  # what comes in from outside repeats the edge
        return _resize(changed, self._size(rows, columns))

    def undo(self, answer: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Lay an answer back on the original content.

        Args:
            answer: C x the size that :meth:`apply` gave.
            rows: of the original content.
            columns: of the original content.

        Returns:
            C x rows x columns, and rows x columns: which pixels the view has seen.
        """
        answer = _resize(answer, (rows, columns))
        down, right = self._pixels(rows, columns)
        answer = answer.roll((-down, -right), (-2, -1))
        lines, across = torch.arange(rows) + down, torch.arange(columns) + right
        seen = ((lines >= 0) & (lines < rows))[:, None] & ((across >= 0) & (across < columns))[None]
        return (answer.flip(self.flip), seen.flip(self.flip)) if self.flip else (answer, seen)

    def _size(self, rows: int, columns: int) -> tuple[int, int]:
        return max(1, round(rows * self.scale)), max(1, round(columns * self.scale))

    def _pixels(self, rows: int, columns: int) -> tuple[int, int]:
        return round(rows * self.shift[0]), round(columns * self.shift[1])


UPRIGHT_VIEWS = (
    View(scale=0.88),
    View(shift=(0.05, -0.04)),
    View(gamma=0.7),
    View(gamma=1.4, shift=(-0.04, 0.05)),
    View(scale=0.94, gamma=0.85),
)
FREE_VIEWS = (
    View(scale=0.88),
    View(flip=(-1,)),
    View(flip=(-2,), gamma=0.75),
    View(gamma=1.35, shift=(-0.04, 0.05)),
    View(scale=0.94, flip=(-2, -1)),
)


def views_for(metadata: dict[str, Any]) -> tuple[View, ...]:
    """The views that make sense for a bundle's images: mirrored only where they have no upright direction."""
    try:
        modality = metadata["network_data_format"]["inputs"]["image"]["modality"]
    except (KeyError, TypeError):
        return UPRIGHT_VIEWS
    return FREE_VIEWS if modality in NO_UPRIGHT else UPRIGHT_VIEWS


def agreement(first: Tensor, second: Tensor, seen: Tensor | None = None) -> Tensor:
    """Soft Dice of two answers, per class: 2 sum(p q) / (sum(p) + sum(q)) over the pixels seen by both.

    Pixels that are unsure in both answers lower it, unlike in a Dice of masks.

    Args:
        first: K x rows x columns, probabilities of the foreground classes.
        second: the same.
        seen: rows x columns; None for all.

    Returns:
        K values in [0, 1]; 0 where both are empty.
    """
    if seen is not None:
        first, second = first * seen, second * seen
    shared, total = (first * second).sum((1, 2)), (first + second).sum((1, 2))
    return torch.where(total > 0, 2 * shared / total.clamp_min(1e-12), 0.0)


@torch.inference_mode()
def by_views(network: Network, image: Tensor, views: tuple[View, ...] = UPRIGHT_VIEWS) -> float:
    """Mean agreement between the answer for an image and those for its views.

    The mean is over the views and over the classes that the mask or an answer contains. A mask without foreground, or
    with hardly anything else, gives 0.

    Args:
        network: see :data:`Network`.
        image: 3 x S x S in [0, 1], padded at the bottom and right with the mean colour, on the network's device.
        views: at least one.
    """
    image = torch.as_tensor(image)
    rows, columns = content_size(image.cpu())
    content = image[:, :rows, :columns]
    changed = [view.apply(content.cpu()).to(image) for view in views]
    # One at a time: a large network at 1024 px already fills the memory with one image.
    inputs = [image, *(_padded(view, image.shape[-1]) for view in changed)]
    answers = [network(one[None])[0].float().softmax(0).cpu() for one in inputs]
    first = answers[0][:, :rows, :columns]
    if is_degenerate(first.argmax(0)):
        return 0.0
    foreground = first[1:]
    values, present = [], foreground.argmax(0).new_zeros(len(foreground), dtype=torch.bool)
    for answer, view, shape in zip(answers[1:], views, (c.shape[-2:] for c in changed), strict=True):
        laid_back, seen = view.undo(answer[:, : shape[0], : shape[1]], rows, columns)
        values.append(agreement(foreground, laid_back[1:], seen))
        present |= _present(laid_back) | _present(first)
    return float(torch.stack(values)[:, present].mean()) if present.any() else 0.0


@torch.inference_mode()
def by_iou_head(network: Any, image: Tensor) -> float:
    """Mean IoU that SAM's head predicts for the classes in the mask; 0 for a degenerate mask.

    Args:
        network: a ``BloSam`` whose head was trained.
        image: 3 x S x S in [0, 1], on the network's device.
    """
    image = torch.as_tensor(image)
    logits, iou = network.decode_with_iou(network.encode(image[None]))
    logits = functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
    rows, columns = content_size(image.cpu())
    answer = logits[0, :, :rows, :columns].float().softmax(0).cpu()
    if is_degenerate(answer.argmax(0)):
        return 0.0
    return float(iou[0, 1:].float().cpu()[_present(answer)].mean().clamp(0, 1))


class Judge:
    """Gives the confidence of one image after the other.

    Args:
        network: gives logits; a ``BloSam`` for ``iou``.
        source: ``views`` or ``iou``.
        views: of the source ``views``.
    """

    def __init__(self, network: Any, source: str, views: tuple[View, ...] = UPRIGHT_VIEWS) -> None:
        self.network, self.source, self.views = network, source, views

    def __call__(self, image: Tensor) -> Confidence:
        """How sure the mask of an image is.

        Args:
            image: 3 x S x S in [0, 1], as the network takes it, on any device.
        """
        parameter = next(iter(self.network.parameters()), None)
        image = torch.as_tensor(image).to("cpu" if parameter is None else parameter.device)
        if self.source == "iou":
            return Confidence(by_iou_head(self.network, image), "iou")
        return Confidence(by_views(self.network, image, self.views), "views")


def is_degenerate(mask: Tensor) -> bool:
    """Whether a mask (class indices) has no foreground, or hardly any background."""
    share = float((mask > 0).float().mean())
    return share == 0 or share > DEGENERATE


def choose_source(wanted: str, iou_trained: bool) -> str:
    """The source to use.

    Args:
        wanted: one of :data:`SOURCES`.
        iou_trained: whether the bundle's IoU head was trained and can be asked.

    Raises:
        BlosamError: for an unknown word, or for ``iou`` where the head cannot be asked.
    """
    if wanted not in SOURCES:
        raise BlosamError(f"--confidence {wanted}: unknown. Choose one of {', '.join(SOURCES)}.")
    if wanted == "iou" and not iou_trained:
        raise BlosamError(
            "--confidence iou: this bundle's IoU head was not trained, or it is a model.ts, which has none. "
            "Use views, or train with `--iou_loss_weight 1` (docs/quality.md) and give the bundle's folder."
        )
    return "views" if wanted == "auto" else wanted


def _present(answer: Tensor) -> Tensor:
    """Which foreground classes some pixel of an answer has: K booleans."""
    counts = torch.bincount(answer.argmax(0).flatten(), minlength=len(answer))
    return counts[1:] > 0


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    shrinks = size[0] < image.shape[-2]
    return functional.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=shrinks)[0]


def _padded(content: Tensor, side: int) -> Tensor:
    """3 x rows x columns at the top left of a square of the mean colour."""
    mean = torch.tensor(PIXEL_MEAN, dtype=content.dtype, device=content.device)
    out = mean[:, None, None].expand(3, side, side).clone()
    out[:, : content.shape[1], : content.shape[2]] = content
    return out
