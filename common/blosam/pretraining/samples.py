"""Training samples: a drawing, a disguise, a question and its answer.

Every sample is a pure function of (seed, number), so that a run can stop and go on anywhere, with any number of loader
processes, and see the same images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional
from torch.utils.data import Dataset

from blosam.data.phantoms.canvas import Chance

from .anatomy import draw_anatomy
from .appearance import PADDING, disguise, frame, random_grid, warp
from .drawing import Drawing
from .kinds import DENSE_OFFSETS, TOTAL_DENSE
from .shapes import draw_shapes

HELD_OUT = 2**40  # drawing seeds from here on are never trained on
MIN_PIXELS = 24  # least visible size of the thing asked for, in pixels of the final image
_STREAM = 7002


@dataclass(frozen=True)
class Mixture:
    """Which kinds of drawings are used, and how often.

    Attributes:
        kinds: names of ``kinds.KINDS``.
        asked: probability of each kind when a point or a box asks.
        unasked: probability of each kind when nothing is asked.
    """

    kinds: tuple[str, ...]
    asked: tuple[float, ...]
    unasked: tuple[float, ...]

    @staticmethod
    def of(kinds: tuple[str, ...]) -> Mixture:
        """The recommended mixture: shapes are half of what is asked about and a quarter of the rest."""
        return Mixture(kinds, _share(kinds, 0.5), _share(kinds, 0.25))


def _share(kinds: tuple[str, ...], shapes: float) -> tuple[float, ...]:
    others = [kind for kind in kinds if kind != "shapes"]
    if "shapes" not in kinds:
        return tuple(1 / len(kinds) for _ in kinds)
    if not others:
        return (1.0,)
    return tuple(shapes if kind == "shapes" else (1 - shapes) / len(others) for kind in kinds)


def draw(kind: str, seed: int, size: int) -> Drawing:
    """Draw one image of ``kind`` with longest side ``size``."""
    return draw_shapes(seed, size) if kind == "shapes" else draw_anatomy(kind, seed, size)


class PromptBatches(Dataset):
    """Batches by number: the first half asks nothing, the second half asks by a point or a box.

    Args:
        seed: of the whole run.
        batch_size: even.
        size: side of the square images in pixels.
        mixture: what is drawn.
        length: number of batches.
    """

    def __init__(self, seed: int, batch_size: int, size: int, mixture: Mixture, length: int) -> None:
        self.seed = seed
        self.batch_size = batch_size
        self.size = size
        self.mixture = mixture
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """The batch ``number``.

        Returns:
            image B x 3 x S x S in 0..1; target B x 1 x S/2 x S/2 in 0..1; dense B x D x S/4 x S/4 in 0..1;
            dense_known B x D (1 where the kind has that channel); prompt B/2 x 4 (x, y, 0, 0 or a box x0 y0 x1 y1,
            pixels) and is_box B/2 bool for the second half of the batch.
        """
        first, half = number * self.batch_size, self.batch_size // 2
        samples = [self.sample(first + index, asked=index >= half) for index in range(self.batch_size)]
        batch = {key: torch.stack([s[key] for s in samples]) for key in ("image", "target", "dense", "dense_known")}
        batch["prompt"] = torch.stack([s["prompt"] for s in samples[half:]])
        batch["is_box"] = torch.stack([s["is_box"] for s in samples[half:]])
        return batch

    def sample(self, number: int, asked: bool) -> dict[str, torch.Tensor]:
        """One sample (see ``__getitem__``, without the batch axis)."""
        chance = Chance([_STREAM, self.seed, number])
        odds = self.mixture.asked if asked else self.mixture.unasked
        while True:
            kind = self.mixture.kinds[int(chance.rng.choice(len(odds), p=odds))]
            drawing = draw(kind, int(chance.rng.integers(HELD_OUT)), self.size)
            found = make_sample(chance, kind, drawing, asked, self.size)
            if found is not None:
                return found


def make_sample(chance: Chance, kind: str, drawing: Drawing, asked: bool, size: int) -> dict[str, torch.Tensor] | None:
    """Disguise a drawing and ask for something in it; None when the thing asked for is hardly visible."""
    target, mode = drawing.salient, "none"
    if asked:
        choice = choose_target(chance, drawing)
        if choice is None:
            return None
        target, mode = choice
    masks = np.concatenate([target[None], drawing.dense])
    image = drawing.image
    if drawing.mirror and chance.happens(0.5):
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    if drawing.turn and chance.happens(0.5):
        turns = chance.integer(1, 3)
        image, masks = np.rot90(image, turns), np.rot90(masks, turns, axes=(1, 2))
    grid = random_grid(chance, image.shape[:2], size)
    image, masks = warp(image, masks, grid, "zeros" if chance.happens(0.3) else "border")
    image, masks = frame(chance, disguise(chance, image), masks)
    if asked and masks[0].sum() < MIN_PIXELS:
        return None
    return pack(kind, image, masks, ask(chance, masks[0], mode), mode, size)


def choose_target(chance: Chance, drawing: Drawing) -> tuple[np.ndarray, str] | None:
    """A structure, or one connected part of it, and how to ask for it ("point" or "box"); None if there is none."""
    visible = [s for s in drawing.structures if s.sum() >= 2 * MIN_PIXELS]
    if not visible:
        return None
    # Small things (teeth) are many and teach little of what a prompt means: they are drawn less often than large ones.
    weights = np.sqrt([s.sum() for s in visible])
    target = visible[int(chance.rng.choice(len(visible), p=weights / weights.sum()))]
    mode = "box" if chance.happens(0.5) else "point"
    parts, count = ndimage.label(target)
    # A point cannot say how many separate parts are meant, so it always means the one it lies in.
    if count > 1 and (mode == "point" or chance.happens(0.5)):
        sizes = np.bincount(parts.ravel())[1:]
        large = np.flatnonzero(sizes >= 2 * MIN_PIXELS)
        if not len(large):
            return None
        weights = np.sqrt(sizes[large])
        target = parts == 1 + int(chance.rng.choice(large, p=weights / weights.sum()))
    return target, mode


def ask(chance: Chance, target: np.ndarray, mode: str) -> torch.Tensor:
    """The four numbers of a prompt for ``target`` (h x w bool): a random point inside, or a loose bounding box."""
    if mode == "none":
        return torch.zeros(4)
    rows, columns = np.nonzero(target)
    if mode == "point":
        index = int(chance.rng.integers(len(rows)))
        return torch.tensor([columns[index], rows[index], 0, 0], dtype=torch.float32)
    box = np.array([columns.min(), rows.min(), columns.max(), rows.max()], dtype=np.float32)
    slack = np.tile([box[2] - box[0], box[3] - box[1]], 2) * 0.05 + 1
    return torch.from_numpy(box + chance.normals(4) * slack.astype(np.float32))


def pack(kind: str, image: np.ndarray, masks: np.ndarray, prompt: torch.Tensor, mode: str, size: int) -> dict:
    """Pad to a square and average the masks down to the resolutions of the two heads."""
    height, width = image.shape[:2]
    canvas = torch.tensor(PADDING)[:, None, None].repeat(1, size, size)
    canvas[:, :height, :width] = torch.from_numpy(image.transpose(2, 0, 1))
    marked = torch.zeros(len(masks), size, size)
    marked[:, :height, :width] = torch.from_numpy(masks)
    dense, known = torch.zeros(TOTAL_DENSE, size // 4, size // 4), torch.zeros(TOTAL_DENSE)
    first = DENSE_OFFSETS[kind]
    dense[first : first + len(masks) - 1] = functional.avg_pool2d(marked[1:], 4)
    known[first : first + len(masks) - 1] = 1
    return {
        "image": canvas,
        "target": functional.avg_pool2d(marked[:1], 2),
        "dense": dense,
        "dense_known": known,
        "prompt": prompt,
        "is_box": torch.tensor(mode == "box"),
    }
