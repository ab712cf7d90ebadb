"""Panoramic dental phantoms: jaws, air spaces and up to 32 teeth, drawn as attenuation in millimetres."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .canvas import Chance, Strokes, blur, curve, pixel_grid, smooth_noise, soft, texture
from .dental_teeth import Tooth, draw_arches
from .phantom import Phantom
from .xray import add_borders, add_noise, add_text, expose

MARKERS = ("L", "R", "R", "L", "D", "S", "12.4", "66kV", "2.1x")
JAW, MAXILLA, BODY = 33, 34, 35
FDI = [10 * quadrant + position for quadrant in (1, 2, 3, 4) for position in range(1, 9)]
STRUCTURES = {index + 1: f"tooth {number}" for index, number in enumerate(FDI)}
STRUCTURES |= {JAW: "lower jaw", MAXILLA: "upper jaw", BODY: "soft tissue"}


class _Frame:
    """Maps millimetres around the front teeth to pixels: zoom, position, rotation, stretch."""

    def __init__(self, chance: Chance, shape: tuple[int, int]) -> None:
        height, width = shape
        self.shape = shape
        tall = chance.between(100.0, 138.0)  # millimetres from top to bottom
        if chance.happens(0.2):
            tall *= chance.between(0.5, 0.9)
        wide = tall * width / height
        if wide < 200:  # narrow formats either show the middle of the arches or a squeezed panorama
            wide = chance.between(wide, 270.0) if chance.rng.random() < 0.6 else wide
        self.scale = np.array([width / wide, height / tall])
        self.angle = chance.between(-0.05, 0.05)
        self.centre = np.array(
            [width / 2 + chance.between(-0.04, 0.04) * width, height * (0.53 + chance.between(-0.08, 0.08))]
        )
        self.unit = float(np.sqrt(self.scale.prod()))

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Millimetres (N x 2) to pixels (x, y)."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = np.stack([points[:, 0] * cos - points[:, 1] * sin, points[:, 0] * sin + points[:, 1] * cos], axis=1)
        return turned * self.scale + self.centre

    def millimetres(self) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates of every pixel centre in millimetres, two H x W float32 arrays."""
        height, width = self.shape
        x = ((np.arange(width, dtype=np.float32) + 0.5 - self.centre[0]) / self.scale[0]).astype(np.float32)[None, :]
        y = ((np.arange(height, dtype=np.float32) + 0.5 - self.centre[1]) / self.scale[1]).astype(np.float32)[:, None]
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        return x * cos + y * sin, y * cos - x * sin


def draw_dental(seed: int, shape: tuple[int, int], variety: float = 1.0) -> Phantom:
    """Draw one panoramic radiograph.

    Args:
        seed: picks the patient and the exposure.
        shape: H, W in pixels; a panorama is about twice as wide as high, other shapes show a part of it or
            are squeezed.
        variety: 0 gives an average complete dentition, 1 the whole range.

    Returns:
        The phantom. Task class 1 is tooth (crown and root); structures 1..32 are the teeth in the order of
        their FDI numbers (11..18, 21..28, 31..38, 41..48), then lower jaw, upper jaw and soft tissue.
    """
    chance = Chance([2, seed], variety)
    frame = _Frame(chance, shape)
    x, y = frame.millimetres()
    teeth = draw_arches(chance)
    outlines = _outlines(frame, teeth)
    labels = _label_teeth(frame, teeth, outlines)
    background, jaw, maxilla, body = _background(chance, frame, x, y)
    layer, metal = _tooth_layers(chance, frame, teeth, outlines)
    rim = np.clip(blur((labels > 0).astype(np.float32), 0.7 * frame.unit) * 2, 0, 1) - (labels > 0)
    background -= np.clip(rim, 0, 1) * np.float32(chance.between(0.0, 0.08))  # periodontal gap
    attenuation = background + layer * np.float32(chance.between(0.2, 0.7)) + metal * chance.between(0.3, 1.0)
    attenuation += texture(chance, shape, 0.02, 2) * (jaw + maxilla) * np.float32(chance.between(0.0, 0.035))
    image, visible = add_borders(chance, expose(chance, np.maximum(attenuation, 0)))
    image = add_noise(chance, add_text(chance, image, MARKERS))
    structures = np.zeros(shape, dtype=np.uint8)
    structures[body > 0.1] = BODY
    structures[maxilla > 0.5] = MAXILLA
    structures[jaw > 0.5] = JAW
    structures = np.where(labels > 0, labels, structures) * visible
    mask = ((structures >= 1) & (structures <= 32)).astype(np.uint8)
    overlays = {"metal": (metal > 0.5) & visible}
    return Phantom(np.clip(image, 0, 1), mask, structures, dict(STRUCTURES), overlays)


def _outlines(frame: _Frame, teeth: list[Tooth]) -> list[list[np.ndarray]]:
    """Pixel outlines of the parts of every tooth, all mapped at once."""
    flat = [part for tooth in teeth for part in tooth.parts]
    if not flat:
        return []
    mapped, start, result = frame.pixels(np.vstack(flat)), 0, []
    for tooth in teeth:
        result.append([])
        for part in tooth.parts:
            result[-1].append(mapped[start : start + len(part)])
            start += len(part)
    return result


def _label_teeth(frame: _Frame, teeth: list[Tooth], outlines: list[list[np.ndarray]]) -> np.ndarray:
    """Map of teeth, H x W uint8 in 0..32."""
    height, width = frame.shape
    picture = Image.new("L", (3 * width, 3 * height))
    draw = ImageDraw.Draw(picture)
    for tooth, parts in zip(teeth, outlines, strict=True):
        # PIL puts pixel centres on whole numbers and fills the outline too: the finer grid keeps that below 0.2 pixels.
        draw.polygon((3 * parts[0] - 0.5).ravel().tolist(), fill=FDI.index(tooth.number) + 1)
    return np.asarray(picture)[1::3, 1::3].copy()


def _tooth_layers(
    chance: Chance, frame: _Frame, teeth: list[Tooth], outlines: list[list[np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of the teeth and of metal, both H x W in 0..1."""
    hard, metal = Strokes(frame.shape), Strokes(frame.shape)
    dentine, enamel, pulp = chance.between(0.4, 0.6), chance.between(0.6, 0.85), chance.between(0.2, 0.45)
    braces, fillings = chance.happens(0.08), chance.between(0.0, 0.3)
    for tooth, parts in zip(teeth, outlines, strict=True):
        shade = chance.between(0.85, 1.1)
        for part, value in zip(parts[:3], (dentine, enamel, dentine * 1.1), strict=True):
            hard.polygon(part, min(value * shade, 1.0))
        for part in parts[3:]:
            hard.polygon(part, pulp * shade)
        if chance.happens(fillings) or braces:
            _restore(chance, metal, frame, tooth, braces)
    if braces:
        for flip in (-1.0, 1.0):
            wire = [t.place(np.array([[0, 0.5 * t.size[2]]]))[0] for t in teeth if t.flip == flip]
            if len(wire) > 1:
                metal.line(frame.pixels(np.array(sorted(wire, key=lambda p: p[0]))), 0.7 * frame.unit, 0.9)
    return hard.layer(chance.between(0.25, 0.6) * frame.unit), metal.layer()


def _restore(chance: Chance, metal: Strokes, frame: _Frame, tooth: Tooth, bracket: bool) -> None:
    """A bracket, a filling, a crown, a root filling or an implant screw."""
    width, length, crown = tooth.size
    if bracket:
        part = np.array([[-0.25, 0.35], [0.25, 0.35], [0.25, 0.7], [-0.25, 0.7]]) * [width, crown]
        metal.polygon(frame.pixels(tooth.place(part)), 1.0)
        return
    choice = chance.rng.random()
    if choice < 0.6:
        middle = np.array([chance.between(-0.3, 0.3) * width, chance.between(0.1, 0.5) * crown])
        angles = np.linspace(0, 2 * np.pi, 9)[:-1]
        radii = chance.rng.uniform(0.6, 1.2, 8) * chance.between(0.12, 0.32) * width
        blob = middle + np.stack([np.cos(angles) * radii, np.sin(angles) * radii * 0.7], axis=1)
        metal.polygon(frame.pixels(tooth.place(curve(blob, 4, closed=True))), chance.between(0.6, 1.0))
    elif choice < 0.8:
        metal.polygon(frame.pixels(tooth.parts[1]), chance.between(0.7, 1.0))
    else:
        for part in tooth.parts[3:]:
            metal.polygon(frame.pixels(part), chance.between(0.5, 0.9))


def _filled(frame: _Frame, points: list, edge: float) -> np.ndarray:
    """A smooth closed outline through ``points`` (millimetres) as soft coverage, H x W in 0..1."""
    strokes = Strokes(frame.shape)
    strokes.polygon(frame.pixels(curve(np.array(points, dtype=np.float64), 8, closed=True)))
    return strokes.layer(edge * frame.unit)


def _lower_jaw(chance: Chance, frame: _Frame) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of the lower jaw with its rami and its denser border, both H x W in 0..1."""
    chin, angle_x, angle_y = chance.between(36, 48), chance.between(78, 98), chance.between(14, 30)
    top, ramus = chance.between(-52, -38), chance.between(26, 36)
    ridge = chance.between(7, 11)
    right = [
        [25, chin - 2],
        [55, chin - (chin - angle_y) * 0.35],
        [angle_x - 6, angle_y + 3],
        [angle_x + 3, angle_y - 18],
        [angle_x + 6, top + 16],
        [angle_x + 8, top],
        [angle_x - 4, top - 3],
        [angle_x - 10, top + 14],
        [angle_x - ramus + 4, top + 4],
        [angle_x - ramus, top + 24],
        [angle_x - ramus - 6, -2],
        [50, ridge - 6],
        [28, ridge - 2],
    ]
    left = [[-x * chance.between(0.97, 1.03), y + chance.between(-2, 2)] for x, y in right[::-1]]
    outline = [[0, chin], *right, [0, ridge], *left]
    # One layer for both: 0.25 is neutral, the border brighter, the canal darker.
    strokes = Strokes(frame.shape, 0.25)
    border = curve(np.array([*left[-5:], [0, chin], *right[:5]], dtype=np.float64), 8)
    strokes.line(frame.pixels(border), chance.between(2.0, 4.5) * frame.unit)
    for sign in (-1, 1):
        path = np.array([[angle_x - 14, top + 35], [angle_x - 18, angle_y - 16], [55, 0.55 * chin], [34, 0.62 * chin]])
        strokes.line(frame.pixels(curve(path * [sign, 1])), 3 * frame.unit, 0.0)
    jaw = _filled(frame, outline, 0.8)
    cortex = (strokes.layer(0.7 * frame.unit) - 0.25) * jaw
    return jaw, cortex


def _sinuses(chance: Chance, frame: _Frame, floor: float, half: float) -> np.ndarray:
    """Coverage of both maxillary sinuses, H x W in 0..1."""
    strokes = Strokes(frame.shape)
    for sign in (-1, 1):
        low = floor + chance.between(0, 9)
        points = np.array([[22, low - 8], [38, low], [half - 4, low - 3], [half, low - 22], [30, low - 30]])
        strokes.polygon(frame.pixels(curve(points * [sign, 1], 8, closed=True)))
    return strokes.layer(1.2 * frame.unit)


def _background(chance: Chance, frame: _Frame, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Everything but teeth: attenuation, and coverage of lower jaw, upper jaw and body (all H x W)."""
    jaw, cortex = _lower_jaw(chance, frame)
    floor, half = chance.between(-34, -26), chance.between(56, 72)
    right = np.array(
        [[28, -9], [half, -14], [half + 6, floor + 2], [half - 6, floor - 14], [20, floor - 6]], dtype=np.float64
    )
    maxilla = _filled(frame, [[0, -7], *right, [0, floor - 4], *(right[::-1] * [-1, 1])], 1.5)
    a = np.abs(x)
    far = soft(a + np.maximum(y - 10, 0) * np.float32(chance.between(0.3, 1.0)) - chance.between(98, 125), 18)
    body = far * soft(y - chance.between(46, 62), 10)
    total = body * np.float32(chance.between(0.15, 0.4)) + jaw * np.float32(chance.between(0.15, 0.4))
    total += cortex * np.float32(chance.between(0.08, 0.3)) + maxilla * np.float32(chance.between(0.15, 0.35))
    palate = np.exp(-(((y - floor + 0.002 * x * x) / chance.between(1.5, 3.5)) ** 2)) * soft(a - half, 12)
    total += palate * np.float32(chance.between(0.05, 0.35))
    nose = _filled(
        frame,
        [
            [0, floor - 3],
            [13, floor - 5],
            [16, floor - 22],
            [6, floor - 42],
            [-6, floor - 42],
            [-16, floor - 22],
            [-13, floor - 5],
        ],
        1.5,
    )
    septum = np.exp(-((x / 2.5) ** 2)) + 0.6 * np.exp(-(((a - 9) / 3.5) ** 2) - ((y - floor + 14) / 8) ** 2)
    total -= nose * (1 - septum) * np.float32(chance.between(0.1, 0.3))
    sinus = _sinuses(chance, frame, floor, half)
    wall = sinus * (1 - sinus) * 4
    total += wall * np.float32(chance.between(0.02, 0.14)) - sinus * np.float32(chance.between(0.03, 0.15))
    arch = np.exp(-(((y - floor + 16 + 0.0014 * (a - 60) ** 2) / 4) ** 2)) * soft(58 - a, 14)
    total += arch * np.float32(chance.between(0.03, 0.25))
    spine = np.exp(-(((a - chance.between(108, 135)) / 14) ** 2))
    total += spine * np.float32(chance.between(0.0, 0.5)) * (1 + 0.3 * np.cos(y * 0.35))
    total += np.exp(-((x / 22) ** 2)) * np.float32(chance.between(0.0, 0.25))  # shadow of the neck spine
    throat = np.exp(-(((a - 62 - 0.35 * (y + 10)) / chance.between(7, 13)) ** 2)) * soft(np.abs(y + 8) - 34, 20)
    total -= throat * np.float32(chance.between(0.0, 0.22))
    bite = np.exp(-(((y + 0.0016 * x * x) / chance.between(2, 7)) ** 2)) * soft(a - 60, 25)
    total -= bite * np.float32(chance.between(0.0, 0.25))
    total += texture(chance, frame.shape, 0.1, 2) * np.float32(chance.between(0.005, 0.05)) * body
    total += smooth_noise(chance, frame.shape, 0.4) * np.float32(chance.between(0.0, 0.06))
    column, row = pixel_grid(frame.shape)
    total += (column * column + row * row) * np.float32(chance.between(-0.2, 0.3))
    return total.astype(np.float32), jaw, maxilla, body
