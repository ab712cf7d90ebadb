"""Prompts that are read off the true mask: what SAM and MedSAM can do when somebody points at every object.

Such a result cannot be compared with methods that see the image alone; it is an upper mark for what prompting gives.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from blosam.compare.budget import Budget, rate_factor
from blosam.data.bank import FeatureBank
from blosam.data.loader import BilevelLoader
from blosam.data.transforms import resized_shape
from blosam.errors import BlosamError
from blosam.networks import PromptableSam

KINDS = ("point", "box")
SPECK = 0.01  # parts below this share of the class's largest part are slips of the pen, not objects
MEDSAM_JITTER = 20 / 1024  # of the image size
_AT_ONCE = 16  # prompts decoded together
_NOTHING = -1.0  # logit of a class that is not there
_EIGHT = np.ones((3, 3), int)


def objects(mask: np.ndarray) -> list[np.ndarray]:
    """The objects of a mask, H x W bool each: its connected parts (8 neighbours) except specks, largest first.

    Args:
        mask: H x W bool.
    """
    parts, count = ndimage.label(mask, _EIGHT)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    return [parts == number + 1 for number in order if sizes[number] >= SPECK * sizes.max()]


def interior_point(part: np.ndarray) -> tuple[float, float]:
    """x and y of the pixel farthest from the border of an object; the border of the image counts as one."""
    depth = ndimage.distance_transform_edt(np.pad(part, 1))
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column - 1), float(row - 1)


def bounding_box(part: np.ndarray) -> tuple[float, float, float, float]:
    """x0, y0, x1 and y1 of an object's outermost pixels."""
    rows, columns = np.nonzero(part)
    return float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max())


def to_frame(coordinates: Tensor, height: int, width: int, size: int) -> Tensor:
    """Where places of an image lie after ``ResizeLongestPadd``: pixel centres to pixel centres.

    A pixel that has become several is in a box with all of them.

    Args:
        coordinates: points ... x 2 or boxes ... x 4, x before y.
        height: rows of the image.
        width: columns of the image.
        size: S.
    """
    rows, columns = resized_shape(height, width, size)
    scale = torch.tensor([columns / width, rows / height])
    if coordinates.shape[-1] == 2:
        return (coordinates + 0.5) * scale - 0.5
    beyond = ((scale - 1) / 2).clamp_min(0)
    return (coordinates + 0.5) * scale.repeat(2) - 0.5 + torch.cat([-beyond, beyond])


class OracleSam(nn.Module):
    """A promptable SAM that gets one prompt per object from the true mask, for every image it segments.

    Of every class each connected part is one object; a class's logit is the largest of those of its objects' masks,
    the background's is 0. Where masks of two classes overlap the likelier one wins.

    Args:
        sam: finds the masks.
        kind: ``point`` or ``box``.
        out_channels: K + 1.
    """

    needs_truth = True
    keeps = "image"

    def __init__(self, sam: PromptableSam, kind: str, out_channels: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise BlosamError(f"unknown prompt {kind!r}. Use one of {', '.join(KINDS)}.")
        self.sam, self.kind, self.out_channels = sam, kind, out_channels
        self.image_size = self.logits_size = sam.image_size
        self._place, self._argument = {"point": (interior_point, "points"), "box": (bounding_box, "boxes")}[kind]

    @torch.no_grad()
    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        """Segment images with prompts from their true masks.

        Args:
            image: B x 3 x S x S in [0, 1], as ``ResizeLongestPadd`` makes it.
            truth: B x 1 x H x W, classes 0..K on the grid of the source image.

        Returns:
            logits B x (K+1) x S x S.
        """
        embeddings = self.sam.encode(image)
        pairs = zip(embeddings, truth, strict=True)
        return torch.stack([self._one(embedding[None], label[0].cpu().numpy()) for embedding, label in pairs])

    def _one(self, embedding: Tensor, label: np.ndarray) -> Tensor:
        """Logits (K+1) x S x S of one image."""
        logits = embedding.new_full((self.out_channels, self.image_size, self.image_size), _NOTHING)
        logits[0] = 0.0
        for index in range(1, self.out_channels):
            found = [self._place(part) for part in objects(label == index)]
            for first in range(0, len(found), _AT_ONCE):
                places = to_frame(torch.tensor(found[first : first + _AT_ONCE]), *label.shape, self.image_size)
                masks = self.sam.masks(embedding, **{self._argument: places.to(embedding)})
                logits[index] = torch.maximum(logits[index], masks.amax(0))
        return logits

    def frozen_features(self, image: Tensor) -> Tensor:
        """The image itself: MedSAM's recipe trains the encoder."""
        return image


def train_boxes(network: OracleSam, bank: FeatureBank, budget: Budget, batch_size: int = 2, seed: int = 0) -> int:
    """MedSAM's recipe: one object of each image of the batch, its box enlarged at random, Dice plus cross-entropy.

    AdamW with 1e-4 and decay 0.01 on everything but the prompt encoder.

    Args:
        network: on the bank's device.
        bank: keeps the images themselves, in their views, with labels at S x S.
        budget: how many steps and seconds there are.
        batch_size: images of an update.
        seed: order of images and views, choice of objects, size of the boxes.

    Returns:
        Updates made.
    """
    sam = network.sam
    parameters = [*sam.image_encoder.parameters(), *sam.mask_decoder.parameters()]
    sam.prompt_encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)
    loader = BilevelLoader(bank, batch_size=batch_size, seed=seed, joint=True)
    rng = np.random.default_rng(seed)
    network.train()
    step = 0
    while (done := budget.progress(step)) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 * rate_factor(done, step, warmup=0)
        batch = loader.batch(step)["d1"]
        pairs = zip(batch["features"], batch["label"], strict=True)
        asked = [(image, *one) for image, label in pairs if (one := _ask(label, rng)) is not None]
        if asked:  # a view may have moved every object out of the picture
            images, targets, boxes = (torch.stack([torch.as_tensor(a[k]) for a in asked]) for k in range(3))
            embeddings = sam.encode(images)
            logits = torch.cat(
                [sam.masks(e[None], boxes=b[None].to(e)) for e, b in zip(embeddings, boxes, strict=True)]
            )
            optimizer.zero_grad(set_to_none=True)
            medsam_loss(logits, targets.to(logits)).backward()
            optimizer.step()
        step += 1
    network.eval()
    return step


def _ask(label: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor] | None:
    """Mask S x S of a random object of a soft label (K+1) x S x S, and its box; None when there is no object."""
    classes = label.argmax(0).cpu().numpy()
    present = [index for index in np.unique(classes) if index > 0]
    if not present:
        return None
    found = objects(classes == rng.choice(present))
    part = found[rng.integers(len(found))]
    size = label.shape[-1]
    slack = rng.uniform(0, MEDSAM_JITTER * size, 4) * (-1, -1, 1, 1)
    box = np.clip(np.array(bounding_box(part)) + slack, 0, size - 1)
    return torch.from_numpy(part), torch.from_numpy(box).float()


def medsam_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice of the sigmoid with squared denominators, per image, plus binary cross-entropy, unweighted.

    Args:
        logits: B x S x S.
        target: B x S x S, 0 or 1.
    """
    probability = logits.sigmoid()
    shared = (probability * target).sum((1, 2))
    total = probability.square().sum((1, 2)) + target.square().sum((1, 2))
    dice = 1 - (2 * shared + 1e-5) / (total + 1e-5)
    return dice.mean() + nn.functional.binary_cross_entropy_with_logits(logits, target)
