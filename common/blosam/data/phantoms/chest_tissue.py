"""How much a chest phantom attenuates: soft tissue, air in the lungs with disease in it, and bones."""

from __future__ import annotations

import numpy as np

from .canvas import Chance, Strokes, ellipse, ribbons, smooth_noise, soft, texture
from .chest_anatomy import Thorax


def add_soft_tissue(chance: Chance, thorax: Thorax) -> np.ndarray:
    """Mediastinum, heart, abdomen, breasts, muscle folds on top of the even body; H x W attenuation."""
    extra = thorax.occupied * np.float32(chance.between(0.1, 0.4)) * np.minimum(thorax.body_depth * 2, 1)
    extra += soft(-thorax.below, 0.02) * thorax.body_depth * np.float32(chance.between(0.0, 0.35))
    extra += np.clip(thorax.v - 1, 0, 1) * thorax.body_depth * np.float32(chance.between(0.0, 0.4))
    if chance.happens(0.35):
        level, size = chance.between(0.7, 0.9), chance.between(0.18, 0.3)
        amount = np.float32(chance.between(0.05, 0.25))
        squared = ellipse(thorax.a, thorax.v, (chance.between(0.28, 0.4), level), (size, size * 1.1), 0.3)
        extra += np.sqrt(np.clip(1 - squared, 0, 1)) * np.clip((thorax.v - level + 0.15) * 4, 0, 1) * amount
    if chance.happens(0.5):  # trachea and main bronchi
        trachea = np.abs(thorax.u - np.float32(chance.between(-0.02, 0.02))) - np.float32(chance.between(0.02, 0.035))
        trachea = np.maximum(trachea, thorax.v - 0.32)
        bronchi = np.maximum(np.abs(thorax.a - (thorax.v - 0.3) * 1.1) - 0.025, np.abs(thorax.v - 0.36) - 0.06)
        extra -= soft(trachea, 0.015) * np.float32(chance.between(0.05, 0.3))
        extra -= soft(bronchi, 0.02) * np.float32(chance.between(0.0, 0.15))
    extra += texture(chance, thorax.v.shape, 0.12, 2) * thorax.body_depth * np.float32(chance.between(0.0, 0.03))
    return extra


def _opacities(chance: Chance, thorax: Thorax) -> np.ndarray:
    """Part of the air that disease replaces, H x W in 0..1."""
    shape = thorax.v.shape
    filled = np.zeros(shape, dtype=np.float32)
    if chance.happens(0.4):  # patchy consolidation or ground glass
        field = texture(chance, shape, chance.between(0.06, 0.25), 3) + np.float32(chance.between(-1.5, 0.5))
        if chance.rng.random() < 0.5:
            field += (thorax.v - 0.5) * np.float32(chance.between(0.0, 4.0))
        filled += np.clip(field, 0, 1.5) * np.float32(chance.between(0.15, 0.6))
    if chance.happens(0.1):  # one whole lung, white-out at the extreme
        side = thorax.left if chance.rng.random() < 0.5 else ~thorax.left
        filled += side * np.float32(chance.between(0.3, 1.0))
    if chance.happens(0.12):  # both lungs evenly
        filled += np.float32(chance.between(0.2, 0.65))
    if chance.happens(0.12):  # effusion with a meniscus that climbs along the wall
        side = thorax.left if chance.rng.random() < 0.5 else ~thorax.left
        level = chance.between(0.6, 0.95) - 0.5 * np.clip(thorax.a - 0.35, 0, 1) ** 2 * 4
        filled += soft(level - thorax.v, chance.between(0.02, 0.08)) * side * np.float32(chance.between(0.6, 1.0))
    for _ in range(chance.integer(1, 4) if chance.happens(0.25) else 0):
        centre, radius = (chance.between(-0.5, 0.5), chance.between(0.1, 0.9)), chance.between(0.015, 0.09)
        squared = ellipse(thorax.u, thorax.v, centre, (radius, radius * chance.between(0.7, 1.3)))
        filled += np.clip((1 - squared) * 2, 0, 1) * np.float32(chance.between(0.2, 0.8))
    return np.minimum(filled, 1)


def _vessels(chance: Chance, thorax: Thorax) -> np.ndarray:
    """Branching vessels that leave both hila, H x W in 0..1."""
    frame = thorax.frame
    strokes = Strokes(frame.shape)
    for sign in (-1, 1):
        headings = np.linspace(-1.5, 1.5, chance.integer(6, 9)) + chance.rng.normal(0, 0.12)
        hilum = np.array([chance.between(0.1, 0.16), chance.between(0.4, 0.5)])
        stems = _wander(chance, np.repeat(hilum[None], headings.size, axis=0), headings, 0.06)
        width = chance.between(0.012, 0.024) * frame.unit
        for joint in range(5):
            paths = (
                stems
                if joint == 0
                else _wander(chance, stems[:, joint], headings + chance.rng.normal(0, 0.7, headings.size), 0.04)
            )
            points = frame.pixels((paths * [sign, 1]).reshape(-1, 2)).reshape(paths.shape)
            thickness = width if joint == 0 else width * 0.55
            for outline in ribbons(points, np.linspace(thickness, 0.3 * thickness, points.shape[1])):
                strokes.polygon(outline, 1.0 if joint == 0 else 0.7)
    return strokes.layer(0.004 * frame.unit)


def _wander(chance: Chance, starts: np.ndarray, headings: np.ndarray, length: float) -> np.ndarray:
    """Paths of 7 points that leave ``starts`` (N x 2) at ``headings`` (N, radians, 0 lateral); N x 7 x 2."""
    turned = headings[:, None] + np.cumsum(chance.rng.normal(0, 0.2, (len(headings), 6)), axis=1)
    moves = np.cumsum(length * np.stack([np.cos(turned), np.sin(turned)], axis=2), axis=1)
    return np.concatenate([starts[:, None], starts[:, None] + moves], axis=1)


def lung_attenuation(chance: Chance, thorax: Thorax) -> np.ndarray:
    """Attenuation that the air in the lungs takes away, H x W >= 0."""
    edge = chance.between(0.006, 0.02)
    inside = soft(thorax.lung, edge)
    wall = 1 - np.exp(np.minimum(thorax.sides, 0) / np.float32(chance.between(0.03, 0.12)))
    floor = 1 - np.exp(np.minimum(thorax.below, 0) / np.float32(chance.between(0.01, 0.05)))
    air = inside * (0.25 + 0.75 * wall) * (0.4 + 0.6 * floor)
    air *= 1 - thorax.occupied
    air *= 1 - _opacities(chance, thorax)
    air *= 1 + np.float32(chance.between(-0.4, 0.25)) * (thorax.v - np.float32(0.5))
    vessels = _vessels(chance, thorax) * np.float32(chance.between(0.1, 0.4))
    hilum = ellipse(thorax.a, thorax.v, (0.14, chance.between(0.4, 0.48)), (0.1, 0.14))
    vessels += np.exp(-2 * hilum) * np.float32(chance.between(0.05, 0.35))
    vessels += texture(chance, thorax.v.shape, 0.035, 2) * np.float32(chance.between(0.01, 0.1))
    if chance.happens(0.2):  # interstitial pattern
        vessels += np.abs(smooth_noise(chance, thorax.v.shape, 0.015)) * np.float32(chance.between(0.03, 0.15))
    air *= np.clip(1 - vessels, 0, 1.2)
    return air * np.float32(chance.between(0.55, 0.85)) * np.minimum(thorax.body_depth * 3, 1)


def _ribs(chance: Chance, thorax: Thorax) -> tuple[np.ndarray, np.ndarray]:
    """Posterior and anterior ribs: attenuation H x W and the posterior ribs as a mask."""
    a, v, wall = thorax.a, thorax.v, thorax.lateral
    spacing = chance.between(0.075, 0.108)
    half = spacing * chance.between(0.2, 0.31)
    relative = a / (np.float32(0.6 * thorax.wall.mean()) + np.float32(0.4) * np.maximum(wall, 0.2))
    drop = np.float32(chance.between(0.1, 0.26)) + np.float32(chance.between(0.0, 0.2)) * v
    curve = np.float32(chance.between(-0.16, 0.0)) * relative + drop * relative * relative
    posterior, rib = _bands(chance, thorax, (v - curve - chance.between(-0.04, 0.04)) / spacing, spacing, half)
    reach = soft(a - wall - 0.03, 0.02) * soft(0.04 - a, 0.03)
    # Below the domes the abdomen hides ribs on most exposures.
    reach *= 1 - np.clip(thorax.below * 8, 0, 1) * np.float32(chance.between(0.2, 1.0))
    tangential = 1 / np.sqrt(np.maximum(1.15 - (a / np.maximum(wall, 0.05)) ** 2, 0.12))
    total = posterior * reach * np.minimum(tangential, 2.2) * np.float32(chance.between(0.04, 0.17))
    steep = chance.between(0.5, 1.0)
    fall = np.float32(steep) * (1 - relative) - np.float32(0.35) * np.clip(1 - relative, 0, 1) ** 2
    anterior, _ = _bands(
        chance,
        thorax,
        (v - fall - chance.between(-0.05, 0.05)) / spacing / 1.1,
        spacing * 1.1,
        half * chance.between(0.9, 1.3),
    )
    reach_front = soft(a - wall - 0.02, 0.02) * soft(chance.between(0.15, 0.3) - a, 0.1) * soft(0.12 - v, 0.1)
    total += anterior * reach_front * np.float32(chance.between(0.0, 0.09))
    return total, (rib & (reach > 0.5))


def _bands(
    chance: Chance, thorax: Thorax, phase: np.ndarray, spacing: float, half: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bands at whole numbers of ``phase`` with a dense cortex, each of its own strength; and their mask."""
    number = np.rint(phase)
    count = 16
    index = np.clip(number + 3, 0, count - 1).astype(np.int32)
    strength = np.clip(1 + 0.2 * chance.normals(count), 0.3, 1.6)
    strength[:3], strength[13:] = 0, 0  # twelve ribs at most
    halves = np.float32(half) * np.clip(1 + 0.12 * chance.normals(count), 0.7, 1.3)
    across = np.abs(phase - number) * np.float32(spacing)
    width = halves.take(index)
    ratio = across / width
    inside = soft(across - width, 0.012)
    return inside * (0.5 + 0.5 * ratio * ratio) * strength.take(index), (ratio < 1) & (strength.take(index) > 0)


def _clavicles(chance: Chance, thorax: Thorax) -> np.ndarray:
    """Signed distance to both clavicles, H x W."""
    a, v = thorax.a, thorax.v
    height, tilt = chance.between(0.0, 0.14), chance.between(-0.32, 0.12)
    end, bow = chance.between(0.55, 0.75), chance.between(0.01, 0.045)
    line = np.float32(height) + np.float32(tilt) * a - np.float32(bow) * np.sin(a * np.float32(2 * np.pi / end))
    half = np.float32(chance.between(0.014, 0.026)) * (1 + np.exp(-(((a - 0.06) / 0.06) ** 2)))
    slant = np.sqrt(1 + tilt**2)
    return np.maximum(np.abs(v - line) / np.float32(slant) - half, np.maximum(a - np.float32(end), 0.05 - a))


def _shoulder_blades(chance: Chance, thorax: Thorax) -> np.ndarray:
    """Scapulae and humeral heads with shafts: attenuation H x W."""
    a, v = thorax.a, thorax.v
    edge, lean = chance.between(0.45, 0.72), chance.between(-0.15, 0.25)
    blade = np.maximum.reduce(
        [
            np.float32(edge) - a + np.float32(lean) * (v - 0.2),
            np.float32(-0.02) - v + 0.1 * a,
            (v - 0.55) + (a - np.float32(edge)) * 1.6,
        ]
    )
    total = soft(blade, 0.02) * (0.5 + 0.5 * np.exp(-np.abs(blade) / 0.02)) * np.float32(chance.between(0.02, 0.15))
    out = edge + chance.between(0.2, 0.32)
    head = ellipse(a, v, (out, chance.between(0.02, 0.12)), (0.08, 0.095))
    shaft = np.abs(a - out - (v - 0.1) * np.float32(chance.between(0.05, 0.6))) - 0.035
    shaft = soft(np.maximum(shaft, 0.08 - v), 0.015)
    bone = np.maximum(np.sqrt(np.clip(1 - head, 0, 1)), shaft * (0.6 + 0.4 * chance.rng.random()))
    return total + bone * np.float32(chance.between(0.1, 0.35)) * (thorax.body_depth > 0.05)


def add_bones(chance: Chance, thorax: Thorax) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ribs, clavicles, shoulder, spine and sternum: attenuation H x W and masks of the bones by name."""
    ribs, rib_mask = _ribs(chance, thorax)
    clavicle = _clavicles(chance, thorax)
    rim = 0.6 + 0.4 * np.exp(-np.abs(clavicle) / 0.008)
    total = ribs + soft(clavicle, 0.012) * rim * np.float32(chance.between(0.06, 0.25))
    total += _shoulder_blades(chance, thorax)
    half, period = chance.between(0.045, 0.065), chance.between(0.07, 0.1)
    spine = thorax.a - np.float32(half)
    wave = np.cos(thorax.v * np.float32(2 * np.pi / period))
    column = soft(spine, 0.02) * (0.8 + 0.2 * wave)
    pedicle = np.exp(-(((thorax.a - 0.6 * half) / 0.012) ** 2)) * np.clip(wave, 0, 1)
    total += (column + 0.25 * pedicle) * np.float32(chance.between(0.02, 0.2))
    body = np.minimum(thorax.body_depth * 4, 1)
    overlays = {"ribs": rib_mask, "clavicles": clavicle < 0, "spine": spine < 0}
    return (total * body).astype(np.float32), overlays
