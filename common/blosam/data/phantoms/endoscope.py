"""What an endoscope does to a picture: field of view, light, colour, blur, noise, lettering on the screen."""

from __future__ import annotations

import numpy as np
from PIL import ImageFont
from scipy import ndimage

from .canvas import Chance, Strokes, blur, pixel_grid, soft


def field_of_view(chance: Chance, shape: tuple[int, int]) -> np.ndarray:
    """Where the optics show anything: a cut circle, an octagon, a rounded square or everything; H x W in 0..1."""
    x, y = pixel_grid(shape)
    kind = chance.rng.choice(4, p=[0.45, 0.15, 0.15, 0.25])
    if kind == 3:
        return np.ones(shape, dtype=np.float32)
    half_x, half_y = 0.5 * shape[1] / max(shape), 0.5 * shape[0] / max(shape)
    dx = np.abs(x - np.float32(chance.between(-0.04, 0.08) * half_x))
    dy = np.abs(y - np.float32(chance.between(-0.03, 0.03)))
    if kind == 0:
        radius = max(half_x, half_y) * chance.between(0.88, 1.2)
        distance = np.sqrt(dx * dx + dy * dy) - np.float32(radius)
        distance = np.maximum(distance, dy - np.float32(half_y * chance.between(0.94, 1.02)))
    else:
        distance = np.maximum(dx - half_x * chance.between(0.85, 0.99), dy - half_y * chance.between(0.9, 0.99))
        corner = half_x + half_y - chance.between(0.1, 0.3)
        if kind == 1:
            distance = np.maximum(distance, (dx + dy - np.float32(corner)) * np.float32(0.7))
    return soft(distance.astype(np.float32), 0.004)


def camera(chance: Chance, image: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Light, colour balance, blur, sharpening, noise and lettering; H x W x 3 in and out, clipped to 0..1."""
    shape = image.shape[:2]
    image = image * np.float32(chance.between(0.75, 1.35))
    if chance.happens(0.25):  # motion
        length = max(1, int(chance.between(0.0, 0.03) * max(shape)))
        image = ndimage.uniform_filter1d(image, length, axis=int(chance.rng.integers(2)), mode="nearest")
    image = blur(image, chance.between(0.0, 1.0))
    if chance.happens(0.4):  # edge enhancement of the processor
        image = image + (image - blur(image, 1.2)) * np.float32(chance.between(0.0, 1.2))
    image = np.clip(image, 0, None) ** np.float32(np.exp(chance.between(-0.3, 0.35)))
    grey = (image @ np.full(3, 1 / 3, dtype=np.float32))[..., None]
    image = grey + (image - grey) * np.float32(chance.between(0.6, 1.35))
    amount = np.float32(chance.between(0.0, 0.035))
    image = image + amount * chance.normals(*shape, 3 if chance.rng.random() < 0.5 else 1)
    image = np.clip(image, 0, 1) * visible[..., None]
    dark = np.float32(chance.between(0.0, 0.06))
    image = image + dark * (1 - visible[..., None])
    if visible.min() < 0.5 and chance.happens(0.6):
        image = _screen_text(chance, image, visible)
    return np.clip(image, 0, 1).astype(np.float32)


def _screen_text(chance: Chance, image: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Date, settings and a status bar in the black corners of the screen."""
    height, width = visible.shape
    strokes = Strokes(visible.shape)
    pixels = max(8, int(chance.between(0.018, 0.03) * max(visible.shape) * 2))
    font = ImageFont.load_default(size=pixels)
    for corner in (0.02, 0.75):
        for row in range(chance.integer(1, 5)):
            digits = "".join(str(digit) for digit in chance.rng.integers(0, 10, 6))
            text = f"{digits[:2]}/{digits[2:4]}" if row % 2 else f"Gr:{digits[:1]} {digits[1:3]}"
            strokes.draw.text((0.02 * 2 * width, corner * 2 * height + row * pixels * 1.2), text, fill=255, font=font)
    layer = strokes.layer() * (1 - visible) * np.float32(chance.between(0.4, 0.9))
    return image * (1 - layer[..., None]) + layer[..., None]
