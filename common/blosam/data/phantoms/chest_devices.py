"""Things on and in the patient that are not anatomy: cables, electrodes, tubes, pacemakers, arrows."""

from __future__ import annotations

import numpy as np

from .canvas import Chance, Strokes, curve
from .chest_anatomy import Frame


def add_devices(chance: Chance, image: np.ndarray, frame: Frame) -> np.ndarray:
    """Draw devices onto an exposed image; H x W in 0..1 in and out."""
    strokes = Strokes(frame.shape)
    drawn = False
    for probability, draw in ((0.35, _cables), (0.2, _tube), (0.1, _pacemaker), (0.15, _line)):
        if chance.happens(probability):
            draw(chance, strokes, frame)
            drawn = True
    if drawn:
        layer = strokes.layer(0.5) * np.float32(chance.between(0.2, 0.8))
        image = image + layer * (np.float32(1.05) - image)
    if chance.happens(0.08):
        image = image * (1 - _arrows(chance, frame))
    return image


def _cables(chance: Chance, strokes: Strokes, frame: Frame) -> None:
    for _ in range(chance.integer(2, 5)):
        end = np.array([chance.between(-0.6, 0.6), chance.between(0.1, 1.0)])
        start = np.array([chance.between(-1.2, 1.2), chance.between(-0.6, 1.6)])
        middle = (start + end) / 2 + chance.rng.normal(0, 0.15, (2, 2))
        points = frame.pixels(curve(np.vstack([start, middle, end])))
        strokes.line(points, chance.between(0.006, 0.014) * frame.unit, chance.between(0.35, 0.8))
        if chance.rng.random() < 0.7:
            x, y = points[-1]
            radius = chance.between(0.015, 0.04) * frame.unit
            strokes.disc((x, y), radius, chance.between(0.3, 0.7))
            strokes.disc((x, y), radius * 0.4, 1.0)


def _tube(chance: Chance, strokes: Strokes, frame: Frame) -> None:
    """An endotracheal or a gastric tube near the midline."""
    down = chance.between(0.2, 1.3)
    heights = np.linspace(-0.6, down, 6)
    points = np.stack([chance.rng.normal(0, 0.012, 6) + 0.15 * np.clip(heights - 0.7, 0, 1), heights], axis=1)
    strokes.line(frame.pixels(curve(points)), chance.between(0.008, 0.025) * frame.unit, chance.between(0.4, 0.8))


def _pacemaker(chance: Chance, strokes: Strokes, frame: Frame) -> None:
    side = 1 if chance.rng.random() < 0.75 else -1
    centre = np.array([side * chance.between(0.35, 0.5), chance.between(0.1, 0.3)])
    radius = chance.between(0.06, 0.1)
    angles = np.linspace(0, 2 * np.pi, 40)
    rounded = np.stack(
        [
            np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** 0.6,
            np.sign(np.sin(angles)) * np.abs(np.sin(angles)) ** 0.6 * 0.85,
        ],
        axis=1,
    )
    strokes.polygon(frame.pixels(centre + radius * rounded), chance.between(0.8, 1.0))
    lead = np.vstack(
        [centre, centre + [-0.1 * side, -0.1], [side * 0.12, 0.05], [-0.06, 0.3], [-0.05, 0.65], [0.15, 0.8]]
    )
    strokes.line(frame.pixels(curve(lead)), 0.008 * frame.unit, 0.9)


def _line(chance: Chance, strokes: Strokes, frame: Frame) -> None:
    """A venous catheter from the neck or the arm to the vein above the heart."""
    side = chance.rng.choice([-1, 1])
    start = [side * chance.between(0.15, 0.9), chance.between(-0.4, 0.1)]
    points = np.array([start, [side * 0.2, chance.between(0.0, 0.1)], [-0.06, 0.2], [-0.08, chance.between(0.3, 0.6)]])
    strokes.line(frame.pixels(curve(points)), chance.between(0.006, 0.012) * frame.unit, chance.between(0.4, 0.9))


def _arrows(chance: Chance, frame: Frame) -> np.ndarray:
    """Arrows an author drew into a figure, H x W in 0..1."""
    strokes = Strokes(frame.shape)
    for _ in range(chance.integer(1, 3)):
        tip = frame.pixels(np.array([[chance.between(-0.5, 0.5), chance.between(0.1, 0.9)]]))[0]
        angle, length = chance.between(0, 6.28), chance.between(0.04, 0.1) * max(frame.shape)
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        strokes.line(np.stack([tip, tip + along * length]), max(1.0, length * 0.12))
        strokes.polygon(
            np.stack(
                [
                    tip,
                    tip + along * length * 0.4 + across * length * 0.2,
                    tip + along * length * 0.4 - across * length * 0.2,
                ]
            )
        )
    return strokes.layer()
