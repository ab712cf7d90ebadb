"""What happens to a radiograph after the patient: exposure, processing, collimation, markers, noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import ImageFont

from .canvas import Chance, Strokes, blur, pixel_grid, smooth_noise, texture

MARKERS = (
    "L",
    "R",
    "L",
    "R",
    "S",
    "D",
    "AP",
    "PA",
    "PORTABLE",
    "SITTING",
    "SUPINE",
    "ERECT",
    "07:41",
    "MOBILE 2",
)


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=max(8, pixels))


def expose(chance: Chance, attenuation: np.ndarray) -> np.ndarray:
    """Turn attenuation into the brightness of a processed radiograph (dense = bright).

    Args:
        chance: source of the exposure, window and processing parameters.
        attenuation: H x W float32, 0 in air.

    Returns:
        H x W float32 in 0..1.
    """
    longest = max(attenuation.shape)
    image = attenuation
    if chance.happens(0.7):  # scattered radiation lowers contrast where much tissue surrounds the pixel
        image = image + blur(image, 0.1 * longest) * np.float32(chance.between(0.0, 0.4))
    if chance.happens(0.6):  # detail enhancement of digital systems
        image = image + (image - blur(image, chance.between(0.03, 0.12) * longest)) * chance.between(0.0, 1.2)
    if chance.happens(0.5):  # heel effect and uneven grids
        x, y = pixel_grid(image.shape)
        image = image + (x * chance.between(-0.3, 0.3) + y * chance.between(-0.3, 0.3)).astype(np.float32)
    if chance.happens(0.5):
        image = image + smooth_noise(chance, image.shape, chance.between(0.3, 0.9)) * chance.between(0.0, 0.08)
    sample = np.sort(image[:: max(1, longest // 64), :: max(1, longest // 64)], axis=None)
    low = sample[int(chance.between(0.0, 0.06) * (sample.size - 1))]
    high = sample[int(chance.between(0.93, 1.0) * (sample.size - 1))]
    image = (image - low) / max(float(high - low), 1e-3)
    steep = chance.between(1.5, 5.5)  # film curve: a sigmoid whose steepness sets the contrast of the middle
    image = 1 / (1 + np.exp(np.float32(steep) * (np.float32(chance.between(0.35, 0.65)) - image)))
    image = (image - image.min()) / max(float(np.ptp(image)), 1e-3)
    return (image ** np.float32(np.exp(chance.between(-0.45, 0.45)))).astype(np.float32)


def add_borders(chance: Chance, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Collimation blades (possibly turned) and black or white frames.

    Returns:
        The image (H x W) and where it still shows the patient (H x W bool): masks end there.
    """
    shape, longest = image.shape, max(image.shape)
    x, y = pixel_grid(shape)
    inside = np.ones(shape, dtype=bool)
    if chance.happens(0.25):
        angle = chance.between(-0.06, 0.06)
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        across, along = x * cos + y * sin, y * cos - x * sin
        half_x, half_y = 0.5 * shape[1] / longest, 0.5 * shape[0] / longest
        for coordinate, half in ((across, half_x), (-across, half_x), (along, half_y), (-along, half_y)):
            if chance.rng.random() < 0.5:
                inside &= coordinate < half - chance.between(0.0, 0.1)
        value = 0.0 if chance.rng.random() < 0.8 else chance.between(0.7, 1.0)
        image = np.where(inside, image, np.float32(value) + image * np.float32(0.05))
    if chance.happens(0.3):
        value = np.float32(0.0 if chance.rng.random() < 0.85 else 1.0)
        frame = np.zeros(shape, dtype=bool)
        for view in (frame, frame[::-1], frame.T, frame.T[::-1]):
            if chance.rng.random() < 0.4:
                view[: int(chance.between(0.0, 0.12) * longest)] = True
        image = np.where(frame, value, image)
        inside &= ~frame
    return image, inside


def add_text(chance: Chance, image: np.ndarray, markers: tuple[str, ...] = MARKERS) -> np.ndarray:
    """Side markers and lettering near the image border, burnt in bright or dark; H x W in, H x W out."""
    if not chance.happens(0.6):
        return image
    height, width = image.shape
    strokes = Strokes(image.shape)
    for _ in range(chance.integer(1, 3)):
        pixels = int(chance.between(0.025, 0.08) * max(image.shape) * 2)
        text = markers[chance.integer(0, len(markers) - 1)]
        x = chance.rng.choice([chance.between(0.01, 0.2), chance.between(0.78, 0.95)]) * width * 2
        y = chance.rng.choice([chance.between(0.01, 0.2), chance.between(0.6, 0.95)], p=[0.8, 0.2]) * height * 2
        strokes.draw.text((x, y), text, fill=255, font=_font(pixels))
        if chance.happens(0.25):  # a lead plate or a circle around the letter
            box = [x - pixels * 0.3, y - pixels * 0.2, x + pixels * (0.6 * len(text) + 0.3), y + pixels * 1.3]
            strokes.draw.ellipse(box, outline=255, width=max(1, pixels // 12))
    value = np.float32(1.0 if chance.rng.random() < 0.85 else 0.0)
    layer = strokes.layer() * np.float32(chance.between(0.6, 1.0))
    return image * (1 - layer) + value * layer


def add_noise(chance: Chance, image: np.ndarray) -> np.ndarray:
    """Blur, quantum noise, grain, limited contrast, rarely an inverted display; H x W in 0..1."""
    image = blur(image, chance.between(0.0, 0.9) * (1.8 if chance.happens(0.15) else 1.0))
    amount = chance.between(0.0, 0.02) + (chance.between(0.0, 0.05) if chance.happens(0.15) else 0.0)
    image = image + chance.normals(*image.shape) * (np.float32(amount) * np.sqrt(0.3 + np.clip(image, 0, 1)))
    if chance.happens(0.3):
        image = image + texture(chance, image.shape, chance.between(0.008, 0.02), 1) * chance.between(0.0, 0.04)
    if chance.happens(0.15):
        x, y = pixel_grid(image.shape)
        image = image * (1 - np.float32(chance.between(0.2, 1.2)) * (x * x + y * y))
    low, high = (chance.between(0.0, 0.35), chance.between(0.6, 1.0)) if chance.happens(0.35) else (0.0, 1.0)
    image = np.clip(image, 0, 1) * np.float32(high - low) + np.float32(low)
    return (1 - image if chance.happens(0.04) else image).astype(np.float32)
