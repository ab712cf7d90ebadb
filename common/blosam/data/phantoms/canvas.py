"""Shared drawing primitives: random numbers with a variety knob, smooth noise, soft edges, strokes.

Everything here works on whole arrays. Scales are fractions of the longest image side, so that one seed
gives the same picture at any size; only pixel noise depends on the size.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage


class Chance:
    """Seeded random numbers whose spread is scaled by one ``variety`` knob.

    Args:
        seeds: integers that identify the stream (for example the number of the kind and the seed).
        variety: 0 draws the middle of every range and no accident, 1 the whole range.
    """

    def __init__(self, seeds: list[int], variety: float = 1.0) -> None:
        self.rng = np.random.default_rng(seeds)
        self.variety = variety

    def between(self, low: float, high: float) -> float:
        """A number around the middle of ``low``..``high``, uniform over all of it at full variety."""
        return (low + high) / 2 + (self.rng.random() - 0.5) * (high - low) * self.variety

    def pair(self, low: float, high: float, asymmetry: float = 0.0) -> np.ndarray:
        """One number for both body sides (shape 2), each moved by up to ``asymmetry``."""
        common = self.between(low, high)
        return np.array([common + self.between(-asymmetry, asymmetry) for _ in range(2)])

    def happens(self, probability: float) -> bool:
        """True with ``probability`` times the variety."""
        return bool(self.rng.random() < probability * self.variety)

    def integer(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included, whatever the variety."""
        return int(self.rng.integers(low, high + 1))

    def normals(self, *shape: int) -> np.ndarray:
        """Standard normal float32 numbers of the given shape."""
        return self.rng.standard_normal(shape, dtype=np.float32)


def image_shape(size: int, aspect: float) -> tuple[int, int]:
    """Height and width in pixels of an image with longest side ``size`` and ``aspect`` = width / height."""
    if aspect >= 1:
        return max(1, round(size / aspect)), size
    return size, max(1, round(size * aspect))


def pixel_grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres as (x: 1 x W, y: H x 1) float32, in units of the longest side, 0 in the image centre."""
    height, width = shape
    longest = max(shape)
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / longest
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / longest
    return x[None, :], y[:, None]


@lru_cache(maxsize=256)
def _spline_weights(length: int, cells: float, longest: int) -> np.ndarray:
    """Uniform cubic B-spline weights (length x knots) that sample ``cells`` knots per ``longest`` pixels."""
    position = (np.arange(length) + 0.5) / longest * cells
    first = np.floor(position).astype(int)
    t = position - first
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    weights = np.zeros((length, int(np.ceil(cells * length / longest)) + 4), dtype=np.float32)
    for offset in range(4):
        weights[np.arange(length), first + offset] += basis[:, offset]
    weights.setflags(write=False)
    return weights


def smooth_noise(chance: Chance, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Smooth random field: a coarse grid of normal numbers, upsampled by cubic B-splines.

    Args:
        chance: source of the numbers.
        shape: H, W in pixels.
        scale: size of a blob as a fraction of the longest side; at most 256 blobs a side are drawn.

    Returns:
        H x W float32, mean about 0, standard deviation about 1.
    """
    longest = max(shape)
    cells = float(np.clip(round(1 / scale), 1, 256))
    rows = _spline_weights(shape[0], cells, longest)
    columns = _spline_weights(shape[1], cells, longest)
    coarse = chance.normals(rows.shape[1], columns.shape[1])
    # A cubic B-spline averages its knots: the sum of squared weights is about 0.48 a side.
    return rows @ coarse @ columns.T * np.float32(1 / 0.48)


def texture(chance: Chance, shape: tuple[int, int], scale: float, octaves: int = 3) -> np.ndarray:
    """Sum of smooth fields (H x W), each half the size and 0.6 times the height of the one before."""
    total = smooth_noise(chance, shape, scale)
    for octave in range(1, octaves):
        total += smooth_noise(chance, shape, scale / 2**octave) * np.float32(0.6**octave)
    return total


def soft(distance: np.ndarray, edge: float) -> np.ndarray:
    """Coverage 0..1 of the inside (``distance`` < 0), smooth over ``edge`` (same unit) on both sides."""
    t = distance * np.float32(-0.5 / edge)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    rounded = 3 - 2 * t
    rounded *= t
    rounded *= t
    return rounded


def ellipse(x: np.ndarray, y: np.ndarray, centre: tuple, radii: tuple, angle: float = 0.0) -> np.ndarray:
    """Normalised squared radius of an ellipse turned by ``angle`` radians: 0 in its centre, 1 on its edge."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    across = (dx * cos + dy * sin) / np.float32(radii[0])
    along = (dy * cos - dx * sin) / np.float32(radii[1])
    return across * across + along * along


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of H x W (x C) by ``sigma`` pixels; wide blurs are computed on a reduced image.

    The reduced path is exact to about one percent of the range, which is all that exposure effects need.
    """
    if sigma < 0.2:
        return image
    spatial = (sigma, sigma) + (0.0,) * (image.ndim - 2)
    if sigma < 4:
        return ndimage.gaussian_filter(image, spatial, truncate=3.0)
    factor = max(2, int(sigma / 2))
    height, width = image.shape[:2]
    missing = [(0, -height % factor), (0, -width % factor)] + [(0, 0)] * (image.ndim - 2)
    padded = np.pad(image, missing, mode="symmetric")
    rows, columns = padded.shape[0] // factor, padded.shape[1] // factor
    small = padded.reshape(rows, factor, columns, factor, *image.shape[2:]).mean(axis=(1, 3), dtype=np.float32)
    # Averaging blocks and interpolating between them blur as well: factor^2 / 12 + factor^2 / 6 of the variance.
    remaining = np.sqrt(sigma**2 - factor**2 / 4) / factor
    small = ndimage.gaussian_filter(small, (remaining, remaining) + (0.0,) * (image.ndim - 2), truncate=3.0)
    vertical, horizontal = _linear_weights(height, rows, factor), _linear_weights(width, columns, factor)
    return np.einsum(
        "hr,rc...->hc...",
        vertical,
        np.einsum("wc,rc...->rw...", horizontal, small, optimize=True),
        optimize=True,
    )


@lru_cache(maxsize=64)
def _linear_weights(length: int, blocks: int, factor: int) -> np.ndarray:
    """Linear interpolation weights (length x blocks) from block means back to pixels."""
    position = np.clip((np.arange(length) + 0.5) / factor - 0.5, 0, blocks - 1)
    first = np.minimum(np.floor(position).astype(int), max(blocks - 2, 0))
    weights = np.zeros((length, blocks), dtype=np.float32)
    weights[np.arange(length), first] = 1 - (position - first)
    if blocks > 1:
        weights[np.arange(length), first + 1] = position - first
    weights.setflags(write=False)
    return weights


class Strokes:
    """A grey layer for lines, polygons and text, drawn twice as fine as the image and averaged down.

    Args:
        shape: H, W of the final layer. Coordinates are pixels of the final layer, (x, y).
        ground: value 0..1 of the empty layer.
    """

    def __init__(self, shape: tuple[int, int], ground: float = 0.0) -> None:
        self.shape = shape
        self.picture = Image.new("L", (shape[1] * 2, shape[0] * 2), round(ground * 255))
        self.draw = ImageDraw.Draw(self.picture)

    def line(self, points: np.ndarray, width: float, value: float = 1.0) -> None:
        """Draw a smooth polyline (N x 2) of ``width`` pixels with ``value`` 0..1."""
        # Half a pixel of the finer grid is the thinnest ribbon that has no gaps.
        self.polygon(ribbons(np.asarray(points)[None], np.full(len(points), max(width, 0.5)))[0], value)

    def polygon(self, points: np.ndarray, value: float = 1.0) -> None:
        """Fill a polygon (N x 2) with ``value`` 0..1."""
        self.draw.polygon((np.asarray(points) * 2.0).ravel().tolist(), fill=round(value * 255))

    def disc(self, centre: tuple[float, float], radius: float, value: float = 1.0) -> None:
        """Fill a disc of ``radius`` pixels."""
        x, y = centre
        self.draw.ellipse(
            [2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)], fill=round(value * 255)
        )

    def layer(self, sigma: float = 0.0) -> np.ndarray:
        """The layer, blurred by ``sigma`` pixels, as H x W float32 in 0..1 (in steps of 1/255)."""
        picture = self.picture.reduce(2)
        if sigma > 0.1:
            picture = picture.filter(ImageFilter.GaussianBlur(sigma))
        return np.asarray(picture, dtype=np.float32) * np.float32(1 / 255)


def ribbons(paths: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Outlines of bands along paths.

    Args:
        paths: P x N x 2 points, all different.
        widths: N full widths along every path.

    Returns:
        P x 2N x 2 closed outlines.
    """
    along = np.empty_like(paths, dtype=np.float64)
    along[:, 1:-1] = paths[:, 2:] - paths[:, :-2]
    along[:, 0], along[:, -1] = paths[:, 1] - paths[:, 0], paths[:, -1] - paths[:, -2]
    along /= np.maximum(np.sqrt((along * along).sum(axis=2, keepdims=True)), 1e-9)
    across = along[..., ::-1] * [-0.5, 0.5] * np.asarray(widths)[None, :, None]
    return np.concatenate([paths + across, (paths - across)[:, ::-1]], axis=1)


def curve(points: np.ndarray, count: int = 16, closed: bool = False) -> np.ndarray:
    """Catmull-Rom curve through ``points`` (N x 2): ``count`` samples per span, as M x 2."""
    points = np.asarray(points, dtype=np.float64)
    return _curve_weights(len(points), count, closed) @ points


@lru_cache(maxsize=128)
def _curve_weights(number: int, count: int, closed: bool) -> np.ndarray:
    """Weights (samples x points) of a Catmull-Rom curve; an open curve goes straight on beyond its ends."""
    t = np.arange(count) / count
    basis = 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2])
    identity = np.eye(number)
    if closed:
        extended = np.vstack([identity[-1], identity, identity[0], identity[1]])
    else:
        ends = (2 * identity[0] - identity[1], 2 * identity[-1] - identity[-2])
        extended = np.vstack([ends[0], identity, ends[1]])
    spans = [np.einsum("kc,kn->cn", basis, extended[first : first + 4]) for first in range(len(extended) - 3)]
    weights = np.vstack(spans if closed else [*spans, identity[-1:]])
    weights.setflags(write=False)
    return weights
