"""Where things are in a chest phantom: the frame and the implicit functions of lungs, heart and body.

Distances are in anatomical units (1 = height of the lungs), negative inside. Lengths that depend on one
coordinate only (the lateral wall as a function of the height, the dome as a function of the distance from the
midline) are tables for both sides, looked up for all pixels at once.
"""

from __future__ import annotations

import numpy as np

from .canvas import Chance, ellipse, pixel_grid, smooth_noise, soft

ENTRIES = 4096
V_LOW, V_HIGH, A_HIGH = -0.7, 1.9, 1.7


class Frame:
    """Maps pixels to anatomical coordinates: zoom, position, rotation, stretch, scoliosis, smooth warp.

    Attributes:
        u, v: H x W float32 coordinates of every pixel.
        unit: pixels per anatomical unit (vertically).
    """

    def __init__(self, chance: Chance, shape: tuple[int, int]) -> None:
        self.shape = shape
        longest = max(shape)
        extent = min(shape[0], shape[1] * chance.between(0.9, 1.15)) / longest
        height = chance.between(0.58, 1.0) + (chance.between(0.0, 0.3) if chance.happens(0.15) else 0.0)
        self.height = height * extent
        self.stretch = chance.between(0.82, 1.16)
        self.angle = chance.between(-0.09, 0.09) * (2.0 if chance.happens(0.1) else 1.0)
        self.centre = (chance.between(-0.06, 0.06), chance.between(-0.09, 0.05))
        bend, phase = chance.between(-0.05, 0.05), chance.between(0.0, 6.0)
        x, y = pixel_grid(shape)
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        dx, dy = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        self.v = (dy * cos - dx * sin) / np.float32(self.height) + np.float32(0.5)
        self.u = (dx * cos + dy * sin) / np.float32(self.height * self.stretch)
        if chance.happens(0.4):
            self.u += np.float32(bend) * np.sin(4 * self.v + np.float32(phase))
        for coordinate in (self.u, self.v):
            coordinate += smooth_noise(chance, shape, 0.35) * np.float32(chance.between(0.004, 0.016))
        self.unit = self.height * longest

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Anatomical (u, v) points (N x 2) as pixel (x, y); leaves out the smooth warp."""
        across = points[:, 0] * self.height * self.stretch
        along = (points[:, 1] - 0.5) * self.height
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        longest = max(self.shape)
        x = (across * cos - along * sin + self.centre[0]) * longest + self.shape[1] / 2
        y = (across * sin + along * cos + self.centre[1]) * longest + self.shape[0] / 2
        return np.stack([x, y], axis=1)


class Thorax:
    """Implicit functions of one patient.

    Attributes:
        left: H x W bool, the patient's left side (right in the image).
        a: H x W, distance from the midline.
        lung, heart, mediastinum: H x W signed distances (negative inside).
        lateral: H x W, distance of the chest wall from the midline at the height of the pixel.
        base: H x W, height of the dome at the pixel's distance from the midline.
        sides, below: H x W signed distances to the side walls and to the dome.
        body_depth: H x W, thickness of the body, 0 in air, about 1 in the middle of the trunk.
        occupied: H x W in 0..1, how much of the depth heart and mediastinum fill.
    """

    def __init__(self, chance: Chance, frame: Frame) -> None:
        self.frame, self.u, self.v = frame, frame.u, frame.v
        self.left = self.u > 0
        self.a = np.abs(self.u)
        offset = self.left.astype(np.int32) * ENTRIES
        scale = np.float32((ENTRIES - 1) / (V_HIGH - V_LOW))
        self._by_v = offset + np.clip((self.v - np.float32(V_LOW)) * scale, 0, ENTRIES - 1).astype(np.int32)
        scale = np.float32((ENTRIES - 1) / A_HIGH)
        self._by_a = offset + np.clip(self.a * scale, 0, ENTRIES - 1).astype(np.int32)
        self.heights = np.linspace(V_LOW, V_HIGH, ENTRIES)
        self.distances = np.linspace(0, A_HIGH, ENTRIES)
        self.wall = chance.pair(0.47, 0.62, 0.03)
        self.apex = chance.pair(-0.02, 0.03, 0.025)
        self.angle_height = chance.pair(0.95, 1.02, 0.04)
        self._draw_mediastinum(chance)
        self._draw_lungs(chance)
        self._draw_body(chance)

    def by_height(self, table: np.ndarray) -> np.ndarray:
        """Look up a 2 x ENTRIES table of (side, height) at every pixel; H x W float32."""
        return table.astype(np.float32).ravel().take(self._by_v)

    def by_distance(self, table: np.ndarray) -> np.ndarray:
        """Look up a 2 x ENTRIES table of (side, distance from the midline) at every pixel; H x W float32."""
        return table.astype(np.float32).ravel().take(self._by_a)

    def _draw_mediastinum(self, chance: Chance) -> None:
        v = self.heights
        width = np.empty((2, ENTRIES))
        base, waist = chance.between(0.07, 0.115), chance.between(0.085, 0.14)
        for side in range(2):
            width[side] = base + (waist - base) * np.clip((v - 0.2) / 0.5, 0, 1)
            width[side] += chance.between(0.0, 0.06) * np.exp(-(((v - chance.between(0.4, 0.5)) / 0.1) ** 2))
        width[1] += chance.between(0.01, 0.08) * np.exp(-(((v - chance.between(0.24, 0.33)) / 0.06) ** 2))
        width[0] += chance.between(0.0, 0.05) * np.exp(-(((v - 0.2) / 0.15) ** 2))
        if chance.happens(0.1):
            width += chance.between(0.02, 0.12) * np.exp(-(((v - 0.25) / 0.2) ** 2))
        self.mediastinum = self.a - self.by_height(width)
        large = chance.between(1.0, 1.35) if chance.happens(0.25) else 1.0
        shift = chance.between(-0.03, 0.06)
        low = chance.between(0.68, 0.76)
        radii = (chance.between(0.24, 0.33) * large, chance.between(0.17, 0.23) * (1 + (large - 1) / 2))
        ventricle = ellipse(self.u, self.v, (0.1 * large + shift, low), radii, chance.between(0.35, 0.95))
        atrium = ellipse(
            self.u,
            self.v,
            (-0.05 + shift, low - 0.02),
            (chance.between(0.11, 0.17) * large, chance.between(0.17, 0.22)),
        )
        blend = np.clip(0.5 + (atrium - ventricle) * 0.7, 0, 1)  # a smooth minimum rounds the notch between both
        squared = np.maximum(atrium + (ventricle - atrium) * blend - 0.36 * blend * (1 - blend), 0)
        self.heart = (np.sqrt(squared) - 1) * np.float32(min(radii))
        depth = np.sqrt(np.clip(1 - squared, 0, 1)) * np.float32(chance.between(0.5, 1.0))
        chest_only = np.clip((self.v + np.float32(0.15)) * 6, 0, 1)  # the neck has no mediastinum
        self.occupied = np.maximum(
            soft(self.heart, 0.02) * (0.25 + 0.75 * depth),
            soft(self.mediastinum, chance.between(0.01, 0.03)) * 0.92 * chest_only,
        )

    def _draw_lungs(self, chance: Chance) -> None:
        lateral, medial, base = (np.empty((2, ENTRIES)) for _ in range(3))
        peak, power = chance.between(0.68, 0.92), chance.between(1.7, 2.5)
        inner_top, inner_base = chance.between(0.05, 0.09), chance.between(0.07, 0.13)
        rise, lean, top = chance.between(0.1, 0.3), chance.between(1.8, 3.0), chance.between(0.38, 0.58)
        slope = chance.between(0.05, 0.4)
        higher = np.array([chance.between(0.0, 0.06), chance.between(-0.01, 0.03)])
        for side in range(2):
            t = np.clip((self.heights - self.apex[side]) / (self.angle_height[side] - self.apex[side]), 0, 1.2)
            start = self.wall[side] * chance.between(0.34, 0.46)
            bow = (1 - np.clip(1 - t / peak, 0, 1) ** power) ** (1 / chance.between(1.7, 2.2))
            lateral[side] = start + (self.wall[side] - start) * bow - 0.25 * np.clip(t - peak, 0, 1) ** 2
            cap = np.sqrt(1 - np.clip(1 - t / chance.between(0.07, 0.16), 0, 1) ** 2)
            medial[side] = start - (start - inner_top) * cap + (inner_base - inner_top) * np.clip(t - 0.2, 0, 1)
            x = self.distances / self.wall[side]
            outward = np.clip((x - top) / (1 - top), 0, 1.3) ** lean
            inward = slope * (np.clip(top - x, 0, 1) / top) ** 1.7
            base[side] = self.angle_height[side] - higher[side] - rise * (1 - outward - inward)
            base[side] += higher[side] * np.clip(outward, 0, 1)
        self.lateral, self.base = self.by_height(lateral), self.by_distance(base)
        self.base_table = base
        above = self.by_height(np.repeat(self.apex[:, None], ENTRIES, axis=1)) - self.v
        sides = np.maximum(self.a - self.lateral, self.by_height(medial) - self.a)
        self.below = self.v - self.base
        self.lung = np.maximum(np.maximum(sides, above), self.below)
        self.sides = sides

    def _draw_body(self, chance: Chance) -> None:
        neck, shoulder = chance.between(0.17, 0.26), chance.between(0.75, 1.15)
        top, slope = chance.between(-0.22, -0.08), chance.between(0.1, 0.24)
        flesh = chance.between(0.05, 0.2) + (chance.between(0.0, 0.25) if chance.happens(0.2) else 0.0)
        armpit = chance.between(0.25, 0.5)
        width = np.empty((2, ENTRIES))
        for side in range(2):
            trunk = self.wall[side] + flesh
            knots = [-0.7, top - 0.1, top, top + slope, armpit - 0.08, armpit, 0.9, 1.9]
            values = [
                neck,
                neck,
                neck * 1.15,
                shoulder,
                shoulder * chance.between(0.85, 1.1),
                trunk + 0.04,
                trunk * chance.between(0.98, 1.1),
                trunk * chance.between(0.9, 1.15),
            ]
            width[side] = np.interp(self.heights, knots, values)
        kernel = np.hanning(ENTRIES // 18)
        kernel /= kernel.sum()
        padded = np.pad(width, ((0, 0), (kernel.size // 2, kernel.size - 1 - kernel.size // 2)), mode="edge")
        width = np.stack([np.convolve(row, kernel, mode="valid") for row in padded])
        thick = np.interp(self.heights, [-0.5, -0.1, 0.25, 0.9, 1.4], [0.55, 0.7, 0.95, 1.05, 1.1])
        self.body_width = self.by_height(width)
        ratio = self.a / self.body_width
        profile = np.sqrt(np.clip(1 - ratio * ratio * ratio, 0, 1))
        self.body_depth = profile * self.by_height(np.stack([thick, thick]))
        if chance.happens(0.6):
            self._add_arms(chance, shoulder)

    def _add_arms(self, chance: Chance, shoulder: float) -> None:
        """Upper arms that hang beside the trunk at a random angle."""
        outward, thick = chance.between(0.1, 0.7), chance.between(0.1, 0.17)
        centre = np.float32(shoulder - thick) + np.float32(outward) * (self.v - np.float32(0.1))
        across = (self.a - centre) / np.float32(thick * np.sqrt(1 + outward**2))
        arm = np.sqrt(np.clip(1 - across * across, 0, 1)) * np.clip((self.v - 0.02) * 6, 0, 1)
        self.body_depth = np.maximum(self.body_depth, arm * np.float32(0.55))

    def draw_gas(self, chance: Chance) -> np.ndarray:
        """Stomach bubble and bowel gas below the domes; H x W in 0..1."""
        gas = np.zeros_like(self.v)
        bubbles = [(chance.between(0.2, 0.4), 0.06)] if chance.happens(0.7) else []
        if chance.happens(0.35):
            bubbles += [(chance.between(-0.35, 0.45), chance.between(0.08, 0.25)) for _ in range(chance.integer(1, 4))]
        ragged = smooth_noise(chance, self.v.shape, 0.05) * np.float32(chance.between(0.1, 0.4)) if bubbles else 0
        for across, down in bubbles:
            height = float(np.interp(abs(across), self.distances, self._base_at(across)))
            radii = (chance.between(0.04, 0.14), chance.between(0.03, 0.08))
            squared = ellipse(self.u, self.v, (across, height + down + radii[1]), radii, chance.between(-0.4, 0.4))
            squared += ragged
            gas = np.maximum(gas, np.clip((1 - squared) * np.float32(chance.between(0.6, 2.5)), 0, 1))
        return gas * soft(0.015 - self.below, 0.01)

    def _base_at(self, across: float) -> np.ndarray:
        return self.base_table[1 if across > 0 else 0]
