"""Colonoscopy phantoms: a shaded tube with folds, vessels, highlights and polyps, seen through an endoscope.

The wall is a height field lit from the tip of the endoscope. A polyp is a bump whose outline is an implicit
function; the mask is that function below zero where the field of view shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Chance, Strokes, curve, ellipse, pixel_grid, smooth_noise, soft, texture
from .endoscope import camera, field_of_view
from .phantom import Phantom

STRUCTURES = {1: "polyp", 2: "second polyp", 3: "mucosa", 4: "lumen", 5: "stool", 6: "instrument"}
PALETTES = (
    (0.86, 0.56, 0.5),
    (0.84, 0.5, 0.34),
    (0.86, 0.66, 0.36),
    (0.7, 0.4, 0.3),
    (0.88, 0.62, 0.58),
    (0.62, 0.66, 0.4),
    (0.45, 0.6, 0.6),
)
PALETTE_CHANCES = (0.3, 0.2, 0.15, 0.15, 0.13, 0.05, 0.02)


@dataclass
class _Wall:
    """The empty bowel: distance from the lumen, its direction, height of the folds and how lit it is (H x W)."""

    distance: np.ndarray
    toward_x: np.ndarray
    toward_y: np.ndarray
    folds: np.ndarray
    light: np.ndarray
    dark_radius: float


@dataclass
class _Polyp:
    """One polyp: implicit outline (negative inside), height above the wall, and its radius."""

    outline: np.ndarray
    height: np.ndarray
    radius: float


def draw_colonoscopy(seed: int, shape: tuple[int, int], variety: float = 1.0) -> Phantom:
    """Draw one frame.

    Args:
        seed: picks the bowel, the polyps and the camera.
        shape: H, W in pixels.
        variety: 0 gives an average clean frame, 1 the whole range of folds, polyps, soiling and light.

    Returns:
        The phantom with an H x W x 3 image. Task class 1 is polyp; rarely a frame holds two or none.
    """
    chance = Chance([3, seed], variety)
    x, y = pixel_grid(shape)
    visible = field_of_view(chance, shape)
    wall = _draw_wall(chance, shape, x, y)
    number = 0 if chance.happens(0.04) else 2 if chance.happens(0.12) else 1
    polyps = [_draw_polyp(chance, x, y, wall) for _ in range(number)]
    height = wall.folds + texture(chance, shape, 0.06, 2) * np.float32(chance.between(0.0005, 0.003))
    for polyp in polyps:
        height = height + polyp.height
    stool = _stool(chance, shape)
    height += stool * np.float32(0.004)
    shade, highlights = _light(chance, x, y, height, wall)
    for polyp in polyps:
        shade *= _shadow(chance, polyp, wall)
    planes = _paint(chance, shape, polyps, stool)
    planes = [plane * shade for plane in planes]
    _add_wet(chance, planes, shape, highlights)
    instrument = _add_instrument(chance, planes, shape)
    image = camera(chance, np.stack(planes, axis=2), visible)
    structures = np.full(shape, 3, dtype=np.uint8)
    structures[wall.distance < wall.dark_radius] = 4
    structures[stool > 0.5] = 5
    for index, polyp in enumerate(polyps):
        structures[(polyp.outline < 0) & (structures != 1)] = index + 1
    structures[instrument > 0.5] = 6
    structures *= visible > 0.5
    mask = ((structures == 1) | (structures == 2)).astype(np.uint8)
    overlays = {"highlights": (highlights > 0.5) & (visible > 0.5)}
    return Phantom(image, mask, structures, dict(STRUCTURES), overlays)


def _draw_wall(chance: Chance, shape: tuple[int, int], x: np.ndarray, y: np.ndarray) -> _Wall:
    """A tube that runs away from the camera, or a wall seen from close by when the lumen is out of sight."""
    angle = chance.rng.uniform(0, 2 * np.pi)
    away = chance.between(0.0, 0.45) if chance.rng.random() < 0.65 else chance.between(0.5, 1.1)
    centre = (away * np.cos(angle), away * np.sin(angle))
    turn, squeeze = chance.rng.uniform(0, np.pi), chance.between(0.6, 1.0)
    distance = np.sqrt(ellipse(x, y, centre, (1.0, squeeze), turn)) + np.float32(1e-3)
    bend = smooth_noise(chance, shape, chance.between(0.2, 0.5))
    distance = np.abs(distance * (1 + bend * np.float32(chance.between(0.02, 0.12)))) + np.float32(1e-3)
    toward_x, toward_y = (x - np.float32(centre[0])) / distance, (y - np.float32(centre[1])) / distance
    phase = np.log(distance + np.float32(0.06)) * np.float32(chance.between(0.7, 2.4))
    phase += smooth_noise(chance, shape, 0.3) * np.float32(chance.between(0.05, 0.25))
    lobes = chance.between(0.0, 0.12) * (toward_x**3 - 3 * toward_x * toward_y**2)  # triangular folds
    ridge = 0.5 + 0.5 * np.cos((phase + lobes.astype(np.float32)) * np.float32(2 * np.pi))
    ridge = ridge ** np.float32(chance.between(1.0, 5.0))
    present = np.clip(0.6 + smooth_noise(chance, shape, 0.35) * np.float32(0.5), 0, 1)
    folds = ridge * present * np.float32(chance.between(0.005, 0.08)) * np.minimum(distance * 3, 1)
    folds += smooth_noise(chance, shape, 0.25) * np.float32(chance.between(0.0, 0.02))
    dark_radius = chance.between(0.05, 0.2)
    light = 1 - np.exp(-((distance / np.float32(dark_radius * 1.6)) ** 2))
    reach = chance.between(0.5, 2.5)
    near = ellipse(x, y, (chance.between(-0.3, 0.3), chance.between(-0.3, 0.3)), (0.6, 0.6))
    light = light * (0.12 + 0.88 * np.exp(-near * np.float32(reach * 0.4))) + np.float32(0.02)
    return _Wall(distance, toward_x, toward_y, folds, light, dark_radius)


def _draw_polyp(chance: Chance, x: np.ndarray, y: np.ndarray, wall: _Wall) -> _Polyp:
    """A bump of random place, size, outline and steepness, with lobes or without."""
    radius = float(np.exp(chance.between(np.log(0.035), np.log(0.24))))
    centre = _polyp_place(chance, wall)
    turn, ratio = chance.rng.uniform(0, np.pi), chance.between(0.5, 1.0)
    squared = ellipse(x, y, centre, (radius, radius * ratio), turn)
    direction = np.arctan2(y - np.float32(centre[1]), x - np.float32(centre[0]))
    outline = np.ones_like(direction)
    for waves in range(2, 6):
        amount = chance.rng.normal(0, 0.13 * chance.variety / waves)
        outline += np.float32(amount) * np.cos(waves * direction + np.float32(chance.between(0, 6.28)))
    scaled = np.sqrt(squared) / np.maximum(outline, np.float32(0.4))
    flat = chance.between(0.9, 2.5)  # more has a flatter top and a steeper side
    dome = np.clip(1 - scaled ** np.float32(2 * flat), 0, 1) ** np.float32(chance.between(0.6, 1.6))
    bulge = radius * chance.between(0.12, 0.65)
    bumps = smooth_noise(chance, (y.shape[0], x.shape[1]), max(radius * 0.35, 0.008))
    height = dome * np.float32(bulge) * (1 + bumps * np.float32(chance.between(0.0, 0.09)))
    return _Polyp((scaled - 1).astype(np.float32), height.astype(np.float32), radius)


def _polyp_place(chance: Chance, wall: _Wall) -> tuple[float, float]:
    """A centre in the field of view, outside of the dark lumen if eight tries find one; (x, y)."""
    height, width = wall.distance.shape
    longest = max(height, width)
    for _ in range(8):
        angle, away = chance.rng.uniform(0, 2 * np.pi), chance.between(0.03, 0.4)
        x, y = away * np.cos(angle) * width / longest, away * np.sin(angle) * height / longest
        row, column = int(y * longest + height / 2), int(x * longest + width / 2)
        if wall.distance[row, column] > 1.5 * wall.dark_radius:
            break
    return x, y


def _light(
    chance: Chance, x: np.ndarray, y: np.ndarray, height: np.ndarray, wall: _Wall
) -> tuple[np.ndarray, np.ndarray]:
    """Shading and mirror-like highlights of the height field, both H x W."""
    longest = np.float32(max(height.shape))
    slope_y, slope_x = np.gradient(height)
    slope_x, slope_y = slope_x * longest, slope_y * longest
    # Light comes from the camera: surfaces that face the near end of the tube are bright.
    side_x, side_y = np.float32(chance.between(-0.25, 0.25)), np.float32(chance.between(-0.25, 0.25))
    strength = np.float32(chance.between(0.2, 0.7))
    lit_x, lit_y = wall.toward_x * strength + side_x, wall.toward_y * strength + side_y
    length = np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    facing = (1 - slope_x * lit_x - slope_y * lit_y) / length
    shade = wall.light * np.clip(facing * np.float32(chance.between(0.7, 1.0)) + np.float32(0.15), 0.03, 1.8)
    grain = np.float32(chance.between(0.25, 0.8))
    wet_x = slope_x + grain * smooth_noise(chance, height.shape, chance.between(0.01, 0.03))
    wet_y = slope_y + grain * smooth_noise(chance, height.shape, chance.between(0.01, 0.03))
    mirror_x = wet_x + x * np.float32(chance.between(0.0, 1.2)) - side_x
    mirror_y = wet_y + y * np.float32(chance.between(0.0, 1.2)) - side_y
    off = mirror_x * mirror_x + mirror_y * mirror_y
    moist = smooth_noise(chance, height.shape, 0.2) + np.float32(chance.between(-2.0, 0.5))
    limit = np.float32(chance.between(0.001, 0.016))
    highlights = soft(off - limit, 0.5 * limit) * np.clip(moist * 3, 0, 1) * (wall.light > 0.25)
    return shade, highlights


def _shadow(chance: Chance, polyp: _Polyp, wall: _Wall) -> np.ndarray:
    """More light on a raised polyp and less beside it; H x W factor."""
    beside = np.exp(-((np.maximum(polyp.outline, 0) / np.float32(chance.between(0.08, 0.3))) ** 2))
    beside *= polyp.outline > 0
    nearer = soft(polyp.outline, 0.3) * np.float32(chance.between(-0.05, 0.4))  # raised towards the lamp
    return 1 + nearer - beside * np.float32(chance.between(0.0, 0.35)) * np.minimum(wall.light * 2, 1)


def _stool(chance: Chance, shape: tuple[int, int]) -> np.ndarray:
    """Coverage of the wall by remains, H x W in 0..1."""
    if not chance.happens(0.3):
        return np.zeros(shape, dtype=np.float32)
    field = texture(chance, shape, chance.between(0.05, 0.2), 3) - np.float32(chance.between(2.0, 3.2))
    return np.clip(field * np.float32(3), 0, 1)


def _vessels(chance: Chance, shape: tuple[int, int]) -> np.ndarray:
    """Fine branching lines, H x W in 0..1: the zero crossings of smooth noise."""
    total = np.zeros(shape, dtype=np.float32)
    for scale, width in ((0.16, 0.07), (0.07, 0.1)):
        field = np.abs(smooth_noise(chance, shape, scale * chance.between(0.6, 1.4)))
        total += np.clip(1 - field / np.float32(width), 0, 1)
    present = np.clip(0.3 + smooth_noise(chance, shape, 0.3), 0, 1)
    return np.minimum(total, 1) * present


def _paint(chance: Chance, shape: tuple[int, int], polyps: list[_Polyp], stool: np.ndarray) -> list[np.ndarray]:
    """Colour of the surface as three H x W planes."""
    base = np.array(PALETTES[int(chance.rng.choice(len(PALETTES), p=PALETTE_CHANCES))])
    base = base * (1 + np.array([chance.between(-0.06, 0.06) for _ in range(3)]))
    patches = smooth_noise(chance, shape, 0.18) * np.float32(chance.between(0.01, 0.045))
    lines = _vessels(chance, shape) * np.float32(chance.between(0.0, 0.3))
    fine = texture(chance, shape, 0.012, 2) * np.float32(chance.between(0.0, 0.04))
    tint = [chance.between(-0.06, 0.12), chance.between(-0.22, 0.14), chance.between(-0.22, 0.14)]
    inside = [soft(polyp.outline, chance.between(0.03, 0.15)) for polyp in polyps]
    pits = smooth_noise(chance, shape, chance.between(0.008, 0.025)) * np.float32(chance.between(0.0, 0.09))
    remains = (chance.between(0.65, 1.0), chance.between(0.55, 0.85), chance.between(0.1, 0.5))
    planes = []
    for channel, redness in enumerate((-0.3, 1.0, 0.9)):
        plane = np.float32(base[channel]) * (1 - lines * np.float32(0.35 + 0.65 * max(redness, 0.0)))
        plane += fine - patches * np.float32(redness)
        for cover in inside:
            plane = plane * (1 + cover * (np.float32(tint[channel]) + pits))
        planes.append(plane * (1 - stool) + np.float32(remains[channel]) * stool)
    return planes


def _add_wet(chance: Chance, planes: list[np.ndarray], shape: tuple[int, int], highlights: np.ndarray) -> None:
    """Highlights and bubbles onto the three planes, in place."""
    layer = highlights * np.float32(chance.between(0.6, 1.0))
    strokes = Strokes(shape)
    longest = max(shape)
    if chance.happens(0.25):
        middle = np.array([chance.between(0.1, 0.9) * shape[1], chance.between(0.1, 0.9) * shape[0]])
        for _ in range(chance.integer(8, 40)):
            place, radius = middle + chance.rng.normal(0, 0.08 * longest, 2), chance.rng.uniform(0.003, 0.014) * longest
            strokes.disc(tuple(place), radius, 0.45)
            strokes.disc(tuple(place), radius * 0.75, 0.12)
            strokes.disc(tuple(place - 0.3 * radius), radius * 0.25, 1.0)
    bright = np.maximum(layer, strokes.layer(0.4))
    for plane in planes:
        plane *= 1 - bright
        plane += bright


def _add_instrument(chance: Chance, planes: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """A forceps or a catheter from the lower border, into the planes in place; its coverage H x W in 0..1."""
    tool, longest = Strokes(shape), max(shape)
    if not chance.happens(0.06):
        return np.zeros(shape, dtype=np.float32)
    tip = np.array([chance.between(0.3, 0.7) * shape[1], chance.between(0.3, 0.7) * shape[0]])
    start = np.array([chance.between(0.2, 1.0) * shape[1], 1.05 * shape[0]])
    path = curve(np.stack([start, (start + tip) / 2 + chance.rng.normal(0, 0.03, 2) * longest, tip]))
    width, grey = chance.between(0.02, 0.06) * longest, chance.between(0.3, 0.95)
    tool.line(path, width, 0.7)
    tool.line(path, width * 0.4, 1.0)
    shade = tool.layer(1.0)
    cover = np.minimum(shade * np.float32(1.45), 1)
    for plane, value in zip(planes, (0.95, 0.98, 1.0), strict=True):
        plane *= 1 - cover
        plane += cover * shade * np.float32(value * grey)
    return cover
