"""Anatomy phantoms as drawings, in half of the cases with the tone of their structures drawn anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blosam.data.phantoms import Phantom
from blosam.data.phantoms import draw as draw_phantom
from blosam.data.phantoms.canvas import Chance, blur, smooth_noise

from .drawing import Drawing
from .kinds import LABEL_CHANNELS, OVERLAY_CHANNELS, TASK_CHANNELS

_STREAM = 7003


@dataclass(frozen=True)
class _Framing:
    """Usual width / height of a kind, and the symmetries that keep it plausible."""

    narrowest: float
    widest: float
    mirror: bool
    turn: bool


# A mirrored chest has its heart on the wrong side; an endoscope may be held at any angle.
_FRAMINGS = {
    "chest": _Framing(0.75, 1.3, mirror=False, turn=False),
    "dental": _Framing(1.5, 2.3, mirror=True, turn=False),
    "colonoscopy": _Framing(0.9, 1.4, mirror=True, turn=True),
}


def draw_anatomy(kind: str, seed: int, size: int, plain: bool = False) -> Drawing:
    """Draw one phantom.

    Args:
        kind: "chest", "dental" or "colonoscopy".
        seed: of the patient and the picture, 0 or more.
        size: longest side in pixels.
        plain: leave the picture as the phantom generator drew it.

    Returns:
        the drawing; ``salient`` is the task's mask, ``dense`` the task classes, the structures and the overlays in
        fixed channels (see ``kinds``; channels of things this phantom lacks are empty).
    """
    chance = Chance([_STREAM, seed])
    framing = _FRAMINGS[kind]
    phantom = draw_phantom(kind, seed, size, aspect=chance.between(framing.narrowest, framing.widest))
    image = phantom.image if phantom.image.ndim == 3 else np.repeat(phantom.image[..., None], 3, axis=2)
    if not plain and chance.happens(0.5):
        image = _retone(chance, image, phantom.structures)
    if kind == "chest" and not plain and chance.happens(0.4):
        image = _whiten(chance, image, phantom)
    labels = [phantom.structures == value for value in sorted(phantom.structure_names)]
    labels += list(_teeth(phantom)) if kind == "dental" else []
    overlays = [phantom.overlays[name].astype(bool) for name in sorted(phantom.overlays)]
    salient = phantom.mask > 0
    structures = [layer for layer in (salient, *labels, *overlays) if layer.any()]
    stack = np.stack(structures) if structures else np.zeros((0, *salient.shape), dtype=bool)
    return Drawing(image.astype(np.float32), stack, salient, _dense(kind, phantom), framing.mirror, framing.turn)


def _whiten(chance: Chance, image: np.ndarray, phantom: Phantom) -> np.ndarray:
    """Fill lungs with what looks like the mediastinum, mostly from below, until their borders have to be guessed.

    Severe pneumonia, effusion and portable films look so, and annotators draw the lung all the same.

    Args:
        chance: source of the numbers.
        image: H x W x 3 in 0..1.
        phantom: where the lungs are.
    """
    solid = np.isin(phantom.structures, (5, 6))
    if not solid.any() or not phantom.mask.any():
        return image
    tone = np.median(image[solid], axis=0)
    rows = np.nonzero(phantom.mask.any(1))[0]
    height = (np.arange(len(image), dtype=np.float32)[:, None] - rows[0]) / max(1, rows[-1] - rows[0])
    filled = np.zeros(phantom.mask.shape, dtype=np.float32)
    for sides in ((1, 3), (2, 4)):  # a lung beside and behind the heart
        base = np.float32(chance.between(0.1, 0.9)) + (height - 0.5) * np.float32(chance.between(-0.3, 2.0))
        patches = smooth_noise(chance, filled.shape, chance.between(0.08, 0.4)) * np.float32(chance.between(0, 0.5))
        filled = np.where(np.isin(phantom.structures, sides), np.clip(base + patches, 0, 1), filled)
    filled = blur(filled, len(image) * chance.between(0.003, 0.03))[..., None]
    grain = smooth_noise(chance, phantom.mask.shape, chance.between(0.005, 0.03))[..., None]
    return image * (1 - filled) + (tone + grain * np.float32(chance.between(0, 0.06))) * filled


def _dense(kind: str, phantom: Phantom) -> np.ndarray:
    """Task classes, structures (of teeth: their groups) and overlays in their fixed channels, C x H x W."""
    dense = np.zeros((TASK_CHANNELS + LABEL_CHANNELS + OVERLAY_CHANNELS, *phantom.mask.shape), dtype=bool)
    for value in range(1, TASK_CHANNELS + 1):
        dense[value - 1] = phantom.mask == value
    if kind == "dental":
        layers = _teeth(phantom)
    else:
        layers = np.stack([phantom.structures == value for value in range(1, LABEL_CHANNELS + 1)])
    dense[TASK_CHANNELS : TASK_CHANNELS + len(layers)] = layers
    for index, name in enumerate(sorted(phantom.overlays)[:OVERLAY_CHANNELS]):
        dense[TASK_CHANNELS + LABEL_CHANNELS + index] = phantom.overlays[name]
    return dense


def _teeth(phantom: Phantom) -> np.ndarray:
    """Groups of teeth, 12 x H x W: the eight positions from the midline, incisors, upper and lower row, both jaws."""
    groups = np.zeros((LABEL_CHANNELS, *phantom.structures.shape), dtype=bool)
    for value, name in phantom.structure_names.items():
        here = phantom.structures == value
        if name.startswith("tooth "):
            quadrant, position = divmod(int(name.removeprefix("tooth ")), 10)
            groups[position - 1] |= here
            groups[8] |= here & (position <= 2)
            groups[9 if quadrant <= 2 else 10] |= here
        elif name.endswith("jaw"):
            groups[11] |= here
    return groups


def _retone(chance: Chance, image: np.ndarray, structures: np.ndarray) -> np.ndarray:
    """Move the tone of every structure by a random amount, or give it a random tone and grain altogether.

    Args:
        chance: source of the numbers.
        image: H x W x 3 in 0..1.
        structures: H x W, values 0..255.
    """
    tones = chance.normals(int(structures.max()) + 1, 3 if chance.happens(0.3) else 1)
    field = blur(np.broadcast_to(tones[structures], image.shape).astype(np.float32), chance.between(0.3, 2.0))
    if chance.happens(0.3):
        grain = smooth_noise(chance, structures.shape, chance.between(0.01, 0.1))[..., None]
        repainted = 0.5 + field * np.float32(0.25) + grain * np.float32(chance.between(0, 0.1))
        mix = np.float32(chance.between(0.3, 1.0))
        image = image * (1 - mix) + repainted * mix
    else:
        image = image + field * np.float32(chance.between(0, 0.12))
    return np.clip(image, 0, 1)
