"""Disguises: random geometry and random appearance, so that no drawn image looks twice the same.

Real images differ from drawn ones in ways nobody listed; whatever the drawing code keeps constant, the network would
take for granted. So contrast, tone, sharpness, noise, framing and padding are all drawn anew for each view.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from blosam.data.phantoms.canvas import Chance, blur, smooth_noise

PADDING = (0.485, 0.456, 0.406)  # SAM's mean colour: 0 after normalisation


def random_grid(chance: Chance, source: tuple[int, int], size: int) -> torch.Tensor:
    """Sampling positions of a rotated, scaled, shifted, sheared and gently bent view.

    Args:
        chance: source of the numbers.
        source: H, W of the image to sample.
        size: longest side of the view in pixels.

    Returns:
        1 x h x w x 2 positions for ``grid_sample`` (-1..1 over the source), max(h, w) = ``size``.
    """
    aspect = source[1] / source[0] * float(np.exp(chance.between(-0.25, 0.25)))
    height, width = (size, round(size * aspect)) if aspect < 1 else (round(size / aspect), size)
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height * 2 - 1, (torch.arange(width) + 0.5) / width * 2 - 1, indexing="ij"
    )
    angle = chance.between(-0.3, 0.3) if chance.happens(0.7) else 0.0
    zoom = float(np.exp(chance.between(-0.35, 0.2)))
    shear = chance.between(-0.12, 0.12)
    ratio = source[1] / source[0]  # rotate in pixels, not in the stretched unit square
    cos, sin = float(np.cos(angle)) * zoom, float(np.sin(angle)) * zoom
    across = cos * x + (shear * zoom - sin) / ratio * y + chance.between(-0.15, 0.15)
    along = sin * ratio * x + cos * y + chance.between(-0.15, 0.15)
    if chance.happens(0.5):
        bend = chance.between(0.005, 0.03)
        across += bend * torch.from_numpy(smooth_noise(chance, (height, width), chance.between(0.2, 0.5)))
        along += bend * torch.from_numpy(smooth_noise(chance, (height, width), chance.between(0.2, 0.5)))
    return torch.stack([across, along], dim=-1)[None]


def warp(image: np.ndarray, masks: np.ndarray, grid: torch.Tensor, edge: str) -> tuple[np.ndarray, np.ndarray]:
    """Sample an image and its masks at ``grid``.

    Args:
        image: H x W x 3 float32.
        masks: N x H x W bool.
        grid: 1 x h x w x 2 (see ``random_grid``).
        edge: what lies outside the image: "border" or "zeros". Masks are always empty there.

    Returns:
        h x w x 3 float32 and N x h x w bool.
    """
    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    seen = functional.grid_sample(picture, grid, padding_mode=edge, align_corners=False)[0]
    layers = torch.from_numpy(masks.astype(np.float32))[None]
    marked = functional.grid_sample(layers, grid, padding_mode="zeros", align_corners=False)[0] > 0.5
    return seen.numpy().transpose(1, 2, 0), marked.numpy()


def disguise(chance: Chance, image: np.ndarray) -> np.ndarray:
    """Change the appearance of an image, not its geometry.

    Args:
        chance: source of the numbers.
        image: h x w x 3 float32 in 0..1.

    Returns:
        h x w x 3 float32 in 0..1.
    """
    image = _sharpness(chance, image)
    image = _colour(chance, image)
    image = _tone(chance, image)
    image = _noise(chance, image)
    return np.clip(_occlude(chance, image), 0, 1).astype(np.float32)


def _sharpness(chance: Chance, image: np.ndarray) -> np.ndarray:
    if chance.happens(0.35):
        return blur(image, float(np.exp(chance.between(np.log(0.4), np.log(2.0)))))
    if chance.happens(0.2):  # unsharp mask, as many radiography systems apply
        return image + (image - blur(image, chance.between(1, 12))) * np.float32(chance.between(0.2, 1.2))
    if chance.happens(0.15):  # a low-resolution original
        step = chance.integer(2, 3)
        return np.repeat(np.repeat(image[::step, ::step], step, 0), step, 1)[: image.shape[0], : image.shape[1]]
    return image


def _colour(chance: Chance, image: np.ndarray) -> np.ndarray:
    if chance.happens(0.15):
        weights = chance.rng.dirichlet(np.ones(3)).astype(np.float32)
        return np.repeat((image @ weights)[..., None], 3, axis=2)
    coloured = np.ptp(image[::8, ::8], axis=2).max() > 0.02
    if coloured and chance.happens(0.6):  # mix the channels: a turn and stretch of the colour space near identity
        matrix = np.eye(3, dtype=np.float32) + chance.normals(3, 3) * np.float32(chance.between(0, 0.25))
        image = image @ matrix.T + chance.normals(3) * np.float32(0.04)
        if chance.happens(0.15):
            image = image[..., chance.rng.permutation(3)]
    elif chance.happens(0.1):  # a tinted monitor photograph
        image = image * (1 + chance.normals(3) * np.float32(0.08))
    return image


def _tone(chance: Chance, image: np.ndarray) -> np.ndarray:
    image = np.clip(image, 0, 1) ** np.float32(np.exp(chance.between(-0.7, 0.7)))
    if chance.happens(0.12):
        image = 1 - image
    if chance.happens(0.3):  # a display window that clips both ends
        low, high = np.quantile(image[::4, ::4], [chance.between(0, 0.1), 1 - chance.between(0, 0.1)])
        image = (image - low) / max(high - low, 0.05)
    if chance.happens(0.15):  # local contrast normalisation
        mean = blur(image, image.shape[1] * chance.between(0.06, 0.2))
        image = 0.5 + (image - mean) * np.float32(chance.between(1.0, 2.0)) + (mean - 0.5) * np.float32(0.3)
    if chance.happens(0.4):  # uneven exposure
        field = smooth_noise(chance, image.shape[:2], chance.between(0.4, 1.0))[..., None]
        image = image * (1 + np.float32(chance.between(0, 0.25)) * field)
    return image * np.float32(chance.between(0.65, 1.25)) + np.float32(chance.between(-0.12, 0.12))


def _noise(chance: Chance, image: np.ndarray) -> np.ndarray:
    if chance.happens(0.6):
        channels = 3 if chance.happens(0.4) else 1
        noise = chance.normals(*image.shape[:2], channels)
        if chance.happens(0.4):
            noise = ndimage.uniform_filter(noise, (2, 2, 0)) * 2
        image = image + noise * np.float32(chance.between(0, 0.07))
    return image


def _occlude(chance: Chance, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if chance.happens(0.15):  # labels and letters
        image = image.copy()
        for _ in range(chance.integer(1, 3)):
            y, x = chance.integer(0, height - 2), chance.integer(0, width - 2)
            tall, wide = chance.integer(2, max(2, height // 16)), chance.integer(2, max(2, width // 8))
            image[y : y + tall, x : x + wide] = chance.rng.random()
    return image


def frame(chance: Chance, image: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Now and then black borders, as around endoscopy and scanned films; nothing is marked under them.

    Args:
        chance: source of the numbers.
        image: h x w x 3.
        masks: N x h x w bool.
    """
    if not chance.happens(0.2):
        return image, masks
    height, width = image.shape[:2]
    top, left = int(height * chance.between(0, 0.1)), int(width * chance.between(0, 0.1))
    inside = np.zeros((height, width), dtype=bool)
    inside[top : height - top, left : width - left] = True
    return image * inside[..., None], masks & inside
