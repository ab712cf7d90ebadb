"""Tooth outlines and their places on the two arches of a panoramic radiograph.

Sizes follow the usual tables of average adult teeth in millimetres, position 1 (central incisor)
to 8 (wisdom tooth).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Chance, curve

WIDTHS = {
    "upper": (8.5, 6.5, 7.5, 7.0, 6.8, 10.2, 9.5, 8.5),
    "lower": (5.3, 5.8, 6.8, 7.0, 7.1, 11.2, 10.6, 10.0),
}
LENGTHS = {"upper": (23, 22, 27, 22, 21.5, 20, 19, 17), "lower": (21, 22, 26, 22.5, 22.5, 21.5, 20, 18)}
CROWNS = {"upper": (10.5, 9.5, 10, 8.5, 8.3, 7.5, 7.2, 6.5), "lower": (9, 9.5, 11, 8.7, 8.3, 7.5, 7.2, 7.0)}


@dataclass
class Tooth:
    """One tooth in millimetres (x to the right of the image, y down, origin between the incisors).

    Attributes:
        number: FDI number, 11..48 (quadrant 1 is the patient's upper right, left in the image).
        parts: outlines (N x 2) of the whole tooth, its enamel cap, the dentine inside the cap, and the pulp.
        size: width, length and height of the crown.
        origin: middle of the biting edge.
        angle: turn of the axis in radians.
        flip: 1 in the lower jaw (roots point down), -1 in the upper.
    """

    number: int
    parts: list[np.ndarray]
    size: tuple[float, float, float]
    origin: np.ndarray
    angle: float
    flip: float

    def place(self, points: np.ndarray) -> np.ndarray:
        """Tooth coordinates (across, along the root; mm) to millimetres of the jaw."""
        return _place(points, self.origin, self.angle, self.flip)


def _place(points: np.ndarray, origin: np.ndarray, angle: float, flip: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    across, along = points[:, 0], points[:, 1] * flip
    return origin + np.stack([across * cos - along * sin, across * sin + along * cos], axis=1)


def _single_root(chance: Chance, width: float, length: float, crown: float, point: float) -> np.ndarray:
    """Outline of an incisor, canine or premolar; ``point`` is how far the middle of the edge stands out."""
    neck, bend = chance.between(0.33, 0.4) * width, chance.between(-0.12, 0.12) * width
    root = length - crown
    side = np.array(
        [
            [0.36 * width, 0.02 * crown + point * 0.6],
            [0.5 * width, 0.3 * crown],
            [0.47 * width, 0.65 * crown],
            [neck, crown],
            [0.8 * neck + 0.3 * bend, crown + 0.45 * root],
            [0.42 * neck + 0.8 * bend, crown + 0.85 * root],
        ]
    )
    left = side[::-1] * [-1, 1]
    left[0, 0] += 1.6 * bend
    left[1, 0] += 0.6 * bend
    points = np.vstack([[0, -point * 0.4], side, [[bend, length]], left])
    return curve(points, 6, closed=True)


def _molar(chance: Chance, width: float, length: float, crown: float) -> np.ndarray:
    """Outline of a tooth with two visible roots."""
    root, lean = length - crown, chance.between(-0.12, 0.04) * width
    fork, spread = crown + chance.between(0.18, 0.4) * root, chance.between(0.2, 0.34) * width
    tips = [length * chance.between(0.92, 1.0) for _ in range(2)]
    points = [
        [0, 0.1 * crown],
        [0.24 * width, -0.03 * crown],
        [0.43 * width, 0.12 * crown],
        [0.5 * width, 0.5 * crown],
        [0.43 * width, crown],
        [0.42 * width + 0.5 * lean, crown + 0.5 * root],
        [spread + 0.06 * width + lean, tips[0] * 0.97],
        [spread - 0.05 * width + lean, tips[0]],
        [0.12 * width, crown + 0.7 * root],
        [0, fork],
        [-0.14 * width, crown + 0.7 * root],
        [-spread + 0.05 * width + lean, tips[1]],
        [-spread - 0.06 * width + lean, tips[1] * 0.97],
        [-0.42 * width + 0.5 * lean, crown + 0.5 * root],
        [-0.43 * width, crown],
        [-0.5 * width, 0.5 * crown],
        [-0.43 * width, 0.12 * crown],
        [-0.24 * width, -0.03 * crown],
    ]
    return curve(np.array(points), 5, closed=True)


def _inside(
    chance: Chance, outline: np.ndarray, width: float, length: float, crown: float, molar: bool
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Enamel cap, dentine core and pulp of a tooth, in tooth coordinates."""
    limit = crown * chance.between(0.85, 1.0)
    cap = outline.copy()
    cap[:, 1] = np.minimum(cap[:, 1], limit + 0.12 * crown * (2 * cap[:, 0] / width) ** 2)
    core = cap * [chance.between(0.68, 0.8), 1.0]
    core[:, 1] = np.maximum(core[:, 1], crown * chance.between(0.18, 0.3) + np.abs(core[:, 0]) * 0.15)
    thin = chance.between(0.05, 0.11) * width
    roots = (-0.27 * width, 0.27 * width) if molar else (0.0,)
    pulp = [
        np.array(
            [
                [-thin, 0.55 * crown],
                [thin, 0.55 * crown],
                [0.7 * thin + 0.4 * tip, crown + 0.3 * (length - crown)],
                [0.2 * thin + tip, 0.93 * length],
                [tip - 0.2 * thin, 0.93 * length],
                [0.4 * tip - 0.7 * thin, crown + 0.3 * (length - crown)],
            ]
        )
        for tip in roots
    ]
    if molar:
        pulp.append(np.array([[-0.2, 0.5], [0.2, 0.5], [0.24, 0.95], [-0.24, 0.95]]) * [width, crown])
    return cap, core, pulp


def draw_arches(chance: Chance) -> list[Tooth]:
    """All teeth of one mouth, back to front, so that front teeth lie over their neighbours."""
    smile, bite = chance.between(-0.001, 0.0042), chance.between(0.4, 6.0)
    child_scale = chance.between(0.92, 1.1)
    stretch = chance.between(1.0, 1.3)  # panoramic machines magnify horizontally
    crowding = chance.between(-0.08, 0.14)
    missing = chance.between(0.0, 0.1) + (chance.between(0.0, 0.45) if chance.happens(0.15) else 0.0)
    teeth = []
    for jaw, flip in (("upper", -1.0), ("lower", 1.0)):
        fan, shift = chance.between(0.0, 0.006), chance.between(-2.5, 2.5)
        for side in (-1, 1):
            reach = 0.0
            for position in range(1, 9):
                width = WIDTHS[jaw][position - 1] * child_scale * stretch * chance.between(0.88, 1.12)
                step = width * (1 - crowding * chance.rng.random())
                x = side * (reach + step / 2) + shift
                reach += step
                gone = chance.rng.random() < (missing * (2.5 if position == 8 else 0.6 if position <= 3 else 1.0))
                if gone and chance.variety > 0:
                    continue
                y = -smile * x * x + flip * bite / 2 + chance.rng.normal(0, 0.5 * chance.variety)
                angle = flip * fan * x + 2 * smile * -x * 0.6 + chance.rng.normal(0, 0.05 * chance.variety)
                if position == 8 and chance.happens(0.35):  # an impacted wisdom tooth
                    angle += side * flip * chance.between(0.3, 1.5)
                    y += flip * chance.between(3.0, 9.0)
                quadrant = {("upper", -1): 1, ("upper", 1): 2, ("lower", 1): 3, ("lower", -1): 4}[jaw, side]
                lengths = (
                    LENGTHS[jaw][position - 1] * child_scale * chance.between(0.86, 1.12),
                    CROWNS[jaw][position - 1] * child_scale * chance.between(0.88, 1.1),
                )
                teeth.append(_make(chance, 10 * quadrant + position, width, lengths, np.array([x, y]), angle, flip))
    return teeth[::-1]


def _make(
    chance: Chance,
    number: int,
    width: float,
    lengths: tuple[float, float],
    origin: np.ndarray,
    angle: float,
    flip: float,
) -> Tooth:
    position, (length, crown) = number % 10, lengths
    molar = position >= 6
    if molar:
        outline = _molar(chance, width, length, crown)
    else:
        point = {1: 0.0, 2: 0.1, 3: 1.4, 4: 0.9, 5: 0.8}[position]
        outline = _single_root(chance, width, length, crown, point)
    cap, core, pulp = _inside(chance, outline, width, length, crown, molar)
    parts = [outline, cap, core, *pulp]
    placed, ends = _place(np.vstack(parts), origin, angle, flip), np.cumsum([len(part) for part in parts])
    put = [placed[end - len(part) : end] for part, end in zip(parts, ends, strict=True)]
    return Tooth(number, put, (width, length, crown), origin, angle, flip)
