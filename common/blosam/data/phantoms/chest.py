"""Chest X-ray phantoms: a thorax drawn as attenuation in anatomical coordinates, then exposed and processed.

Anatomical coordinates: ``u`` runs from the midline to the patient's left (right in the image), ``v`` from
the lung apex (0) to the costophrenic angle (1); ``a`` is the distance from the midline. Lungs, heart and
mediastinum are implicit functions of these; image and masks come from the same functions, so the masks are
exact.
"""

from __future__ import annotations

import numpy as np

from .canvas import Chance
from .chest_anatomy import Frame, Thorax
from .chest_devices import add_devices
from .chest_tissue import add_bones, add_soft_tissue, lung_attenuation
from .phantom import Phantom
from .xray import add_borders, add_noise, add_text, expose

STRUCTURES = {
    1: "right lung",
    2: "left lung",
    3: "right lung behind heart and mediastinum",
    4: "left lung behind heart and mediastinum",
    5: "heart",
    6: "mediastinum",
    7: "body",
    8: "abdominal gas",
}


def draw_chest(seed: int, shape: tuple[int, int], variety: float = 1.0) -> Phantom:
    """Draw one frontal chest X-ray.

    Args:
        seed: picks the patient and the exposure.
        shape: H, W in pixels.
        variety: 0 gives an average healthy adult, 1 the whole range of anatomy, disease and exposure.

    Returns:
        The phantom. Task class 1 is lung as annotators draw it: both lung fields with the part that lies
        behind the heart, down to the domes of the diaphragm, opacities included. Structures 1 and 2 alone
        are the lung fields beside heart and mediastinum.
    """
    chance = Chance([1, seed], variety)
    frame = Frame(chance, shape)
    thorax = Thorax(chance, frame)
    attenuation = thorax.body_depth * np.float32(chance.between(0.8, 1.3))
    attenuation += add_soft_tissue(chance, thorax)
    attenuation -= lung_attenuation(chance, thorax)
    bones, overlays = add_bones(chance, thorax)
    attenuation += bones
    gas = thorax.draw_gas(chance)
    attenuation -= gas * np.float32(chance.between(0.15, 0.5))
    image = expose(chance, np.maximum(attenuation, 0))
    image = add_devices(chance, image, frame)
    image, visible = add_borders(chance, image)
    image = add_noise(chance, add_text(chance, image))
    structures = _label(thorax, gas > 0.5) * visible
    overlays["heart"] = thorax.heart < 0
    overlays = {name: overlay & visible for name, overlay in overlays.items()}
    mask = ((structures >= 1) & (structures <= 4)).astype(np.uint8)
    return Phantom(np.clip(image, 0, 1), mask, structures, dict(STRUCTURES), overlays)


def _label(thorax: Thorax, gas: np.ndarray) -> np.ndarray:
    """The map of structures, H x W uint8: the later line wins."""
    structures = np.zeros(gas.shape, dtype=np.uint8)
    structures[thorax.body_depth > 0.02] = 7
    structures[(thorax.mediastinum < 0) & (thorax.v > -0.15) & (thorax.below < 0.1)] = 6
    structures[(thorax.heart < 0) & (thorax.below < 0.03)] = 5
    structures[gas] = 8
    covered = np.minimum(thorax.heart, thorax.mediastinum) < 0
    inside = thorax.lung < 0
    side = np.where(thorax.left, 2, 1).astype(np.uint8)
    structures[inside] = (side + np.where(covered, 2, 0).astype(np.uint8))[inside]
    return structures
