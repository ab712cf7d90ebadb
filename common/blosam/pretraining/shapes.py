"""Procedural shapes: random things of random texture, contrast and blur on a random background.

The idea is SynthSeg's (Billot et al., "SynthSeg", 2023): if shape and appearance vary beyond anything real, what is
left to learn is what a boundary is. Things overlap, come in mirrored pairs and in rows (as organs and teeth do), hide
what is behind them or shine through (as in a radiograph), and bulge under a light (as in endoscopy).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from blosam.data.phantoms.canvas import Chance, blur, image_shape, pixel_grid, smooth_noise, soft, texture

from .drawing import Drawing

DENSE_CHANNELS = 2  # all things together; their outlines
SMALLEST = 0.002  # least visible fraction of the image for a thing to be asked for
_STREAM = 7001  # keeps this stream of random numbers apart from the phantoms'


def draw_shapes(seed: int, size: int) -> Drawing:
    """Draw one image.

    Args:
        seed: any integer of 0 or more; the same seed gives the same picture.
        size: longest side in pixels.

    Returns:
        an image of 1 to about 20 things; ``salient`` is their union, ``dense`` the union and the outlines.
    """
    chance = Chance([_STREAM, seed])
    shape = image_shape(size, float(np.exp(chance.between(-0.5, 0.5))) if chance.happens(0.4) else 1.0)
    colours = _palette(chance)
    image = _background(chance, shape, colours)
    things: list[np.ndarray] = []
    for _ in range(chance.integer(1, 5)):
        family = _family(chance, shape)
        look = _Look(chance, colours)
        for distance in family:
            inside = distance < 0
            if not SMALLEST < inside.mean() < 0.5:
                continue
            image = look.paint(image, distance)
            if look.opaque:
                things = [thing & ~inside for thing in things]
            things.append(inside)
    image = _light(chance, image)
    things = [thing for thing in things if thing.mean() > SMALLEST]
    stack = np.stack(things) if things else np.zeros((0, *shape), dtype=bool)
    return Drawing(np.clip(image, 0, 1).astype(np.float32), stack, stack.any(axis=0), _dense(stack), True, True)


def _dense(stack: np.ndarray) -> np.ndarray:
    """Union and outlines of N x H x W masks, as 2 x H x W."""
    outlines = np.zeros(stack.shape[1:], dtype=bool)
    for thing in stack:
        outlines |= ndimage.binary_dilation(thing) & ~ndimage.binary_erosion(thing)
    return np.stack([stack.any(axis=0), outlines])


def _palette(chance: Chance) -> np.ndarray:
    """Twelve colours (12 x 3): greys, or hues scattered around one tone."""
    values = chance.rng.random((12, 1)).astype(np.float32)
    if chance.happens(0.5):
        return np.repeat(values, 3, axis=1)
    tone = chance.rng.random(3).astype(np.float32)
    spread = chance.between(0.1, 1.0)
    scatter = chance.rng.random((12, 3)).astype(np.float32)
    return np.clip((1 - spread) * tone * (0.3 + values) + spread * scatter, 0, 1)


def _background(chance: Chance, shape: tuple[int, int], colours: np.ndarray) -> np.ndarray:
    """One to four soft-edged regions of different tone, each with its own grain; H x W x 3."""
    image = np.broadcast_to(colours[0], (*shape, 3)).astype(np.float32)
    for region in range(chance.integer(0, 3)):
        field = smooth_noise(chance, shape, chance.between(0.15, 0.8)) + chance.between(-1, 1)
        cover = soft(field, chance.between(0.05, 1.5))[..., None]
        mix = cover * np.float32(chance.between(0.2, 1.0))
        image = image * (1 - mix) + colours[1 + region] * mix
    grain = texture(chance, shape, float(np.exp(chance.between(np.log(0.015), np.log(0.3)))))
    return image + grain[..., None] * np.float32(0.12 * chance.rng.random() ** 2)


class _Look:
    """How the things of one family are painted: tone, grain, edge, transparency, rim and bulge.

    Args:
        chance: source of the numbers.
        colours: palette, 12 x 3.
    """

    def __init__(self, chance: Chance, colours: np.ndarray) -> None:
        self.chance = chance
        self.colour = colours[chance.integer(0, 11)]
        self.opaque = not chance.happens(0.4)
        self.strength = chance.between(0.4, 1.0)
        self.edge = float(np.exp(chance.between(np.log(0.002), np.log(0.03))))
        self.grain_scale = float(np.exp(chance.between(np.log(0.01), np.log(0.3))))
        self.grain = 0.15 * chance.rng.random() ** 2
        self.rim = chance.between(-0.3, 0.3) if chance.happens(0.3) else 0.0
        self.bulge = chance.between(0.1, 0.5) if chance.happens(0.35) else 0.0
        self.light = chance.between(0, 2 * np.pi)

    def paint(self, image: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Paint the inside (``distance`` < 0, in longest sides) onto an H x W x 3 image."""
        chance = self.chance
        cover = (soft(distance, self.edge) * np.float32(self.strength))[..., None]
        grain = smooth_noise(chance, distance.shape, self.grain_scale) * np.float32(self.grain)
        if self.bulge:
            dy, dx = np.gradient(blur(np.clip(distance, -0.08, 0), 2.0))
            slope = (dx * np.cos(self.light) + dy * np.sin(self.light)) * max(distance.shape)
            grain = grain + np.clip(slope, -1, 1) * np.float32(self.bulge)
        if self.rim:
            grain = grain + np.exp(-((distance / np.float32(0.012)) ** 2)) * np.float32(self.rim)
        shade = np.float32(chance.between(-0.08, 0.08))
        if self.opaque:
            return image * (1 - cover) + (self.colour + shade + grain[..., None]) * cover
        return image + cover * ((self.colour - 0.5) * 0.6 + shade + grain[..., None])


def _light(chance: Chance, image: np.ndarray) -> np.ndarray:
    """Uneven light over everything, and now and then small highlights."""
    shape = image.shape[:2]
    if chance.happens(0.5):
        field = smooth_noise(chance, shape, chance.between(0.4, 1.0)) * np.float32(chance.between(0.05, 0.3))
        image = image * (1 + field[..., None])
    if chance.happens(0.2):
        spots = soft(2.2 - texture(chance, shape, chance.between(0.02, 0.06), 2), 0.2)
        image = image + spots[..., None] * np.float32(chance.between(0.3, 1.0))
    return image


def _family(chance: Chance, shape: tuple[int, int]) -> list[np.ndarray]:
    """Distances (H x W, negative inside) of one thing, of a mirrored pair, or of a row of similar things."""
    x, y = pixel_grid(shape)
    wide, high = shape[1] / max(shape) / 2, shape[0] / max(shape) / 2
    warp = np.float32(chance.between(0, 0.03))
    x = x + warp * smooth_noise(chance, shape, chance.between(0.1, 0.4))
    y = y + warp * smooth_noise(chance, shape, chance.between(0.1, 0.4))
    radius = float(np.exp(chance.between(np.log(0.04), np.log(0.32))))
    centre = np.array([chance.between(-wide, wide), chance.between(-high, high)]) * 0.85
    kind = chance.rng.random()
    if kind < 0.25:  # a pair, mirrored about a vertical axis
        offset = max(abs(centre[0]), radius * chance.between(0.6, 1.3))
        seed = chance.integer(0, 2**31 - 1)
        middle = chance.between(-0.05, 0.05)
        return [
            _thing(Chance([seed]), side * (x - middle) - offset, y - centre[1], radius * chance.between(0.9, 1.1))
            for side in (-1, 1)
        ]
    if kind < 0.4:  # a row along an arc
        return _row(chance, x - centre[0], y - centre[1])
    return [_thing(chance, x - centre[0], y - centre[1], radius)]


def _row(chance: Chance, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """4 to 12 similar things side by side along a bent line."""
    count = chance.integer(4, 12)
    step = chance.between(0.04, 0.09)
    bend, lean = chance.between(-1.2, 1.2), chance.between(-0.6, 0.6)
    long, power = step * chance.between(0.5, 1.6), chance.between(1.8, 4.0)
    row = []
    for index in range(count):
        at = (index - (count - 1) / 2) * step
        dx, dy = x - np.float32(at), y - np.float32(bend * at * at + lean * at)
        half = step * chance.between(0.38, 0.5)
        tall = long * chance.between(0.8, 1.2)
        radius = (np.abs(dx / half) ** power + np.abs(dy / tall) ** power) ** (1 / power)
        row.append(np.float32(step / 2) * (radius - 1))
    return row


def _thing(chance: Chance, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance to a superellipse, a lobed blob, a bent band, a polygon or a ring around 0 (approximate, H x W)."""
    angle = chance.between(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x * cos + y * sin, y * cos - x * sin
    kind = chance.integer(0, 5)
    if kind == 0:
        power = chance.between(1.5, 5)
        flat = radius * chance.between(0.3, 1.0)
        return np.float32(flat) * ((np.abs(u / radius) ** power + np.abs(v / flat) ** power) ** (1 / power) - 1)
    if kind == 1:
        return np.hypot(u, v) - _lobes(chance, np.arctan2(v, u), radius)
    if kind == 2:
        bent = v - np.float32(chance.between(-1.5, 1.5)) * u * u
        taper = np.float32(radius * chance.between(0.15, 0.4)) * (1 + np.float32(chance.between(-0.8, 0.8)) * u)
        return np.maximum(np.abs(bent) - taper, np.abs(u) - np.float32(radius * chance.between(1.0, 1.8)))
    if kind == 3:
        sides = [chance.between(0, 2 * np.pi) for _ in range(chance.integer(4, 7))]
        walls = [u * np.float32(np.cos(a)) + v * np.float32(np.sin(a)) for a in sides]
        polygon = np.maximum.reduce([wall - np.float32(radius * chance.between(0.5, 1.0)) for wall in walls])
        return np.maximum(polygon, np.hypot(u, v) - np.float32(1.4 * radius))
    around = np.hypot(u, v / np.float32(chance.between(0.5, 1.0)))
    if kind == 4:
        return np.abs(around - np.float32(radius)) - np.float32(radius * chance.between(0.15, 0.35))
    hole_x, hole_y = chance.between(-0.9, 0.9) * radius, chance.between(0.5, 1.0) * radius
    bite = np.float32(radius * chance.between(0.4, 0.8)) - np.hypot(u - np.float32(hole_x), v - np.float32(hole_y))
    return np.maximum(around - _lobes(chance, np.arctan2(v, u), radius), bite)


def _lobes(chance: Chance, angle: np.ndarray, radius: float) -> np.ndarray:
    """Radius of a closed outline with six random harmonics, at each ``angle``."""
    outline = np.full_like(angle, radius)
    for order in range(1, 7):
        height = radius * 0.25 / order * float(chance.rng.standard_normal())
        outline += np.float32(height) * np.cos(order * angle + np.float32(chance.between(0, 2 * np.pi)))
    return np.maximum(outline, np.float32(0.15 * radius))
