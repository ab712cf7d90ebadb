"""Approaches that are prompted from the true mask of the image they segment: marks to look up to, not competitors."""

from __future__ import annotations

import functools
from typing import Any

from blosam import weights
from blosam.baselines import OracleSam, train_boxes
from blosam.compare.options import Options
from blosam.compare.registry import Approach, Task, Trained, base_settings, digest, register, trained_by
from blosam.networks import PromptableSam

CAVEAT = "oracle prompt, not comparable"
_SAM_SOURCE = (
    "Kirillov et al., ICCV 2023, and the baseline SAM of the BLO-SAM paper, which does not say how its points and "
    "boxes are combined and whose numbers are implausibly low for true boxes (its mask tokens were probably "
    "random). Here stock SAM with SAM's normalisation, 1024 pixels (the embedded encoder: the size of the "
    "comparison), points and boxes apart. Every connected part of 1 % of the largest or more gets one positive "
    "point, its pixel farthest from the border, or its box; the class is the union of their masks. A point takes "
    "the best of three masks by SAM's own estimate, a box SAM's single mask"
)
_MEDSAM_SOURCE = (
    "Ma et al., Nature Communications 2024: one box per object, the prompt encoder frozen, Dice of the sigmoid "
    "(squared denominators) plus cross-entropy, AdamW 1e-4, decay 0.01, boxes enlarged by 0 to 20 of 1024 pixels. "
    "With --medsam-weights the released network as it is: 1024 pixels, minimum to maximum; images are padded "
    "instead of stretched to a square. Without, the recipe on our base: at the size of the comparison, SAM's "
    "normalisation (which the base was trained with), connected parts as objects, batches of 2, and the learning "
    "rate decays as for every method here"
)
_SAM_SIZE = 1024  # the only image size SAM's own encoders were trained at


def train_oracle(kind: str, task: Task) -> Trained:
    """SAM as it is, with one prompt per object read off the true mask: nothing is trained, no step is made.

    Every class is taken apart into its connected parts (8 neighbours; parts below 1 % of the largest are left out).
    Each gets one positive point, its pixel farthest from its border, or its bounding box; the class is the union of
    the masks. SAM's own encoders segment at 1024 pixels, for which they were made, the embedded one at the size of the
    comparison.

    Args:
        kind: ``point`` or ``box``.
        task: of the run.

    Raises:
        BlosamError: when the base weights are missing.
    """
    options = task.options
    size = options.image_size if options.encoder == "tiny" else _SAM_SIZE
    sam = weights.load_base(PromptableSam(options.encoder, size, task.seed), options.base_weights)
    return _untrained(OracleSam(sam, kind, task.out_channels), options.device)


def train_medsam(task: Task) -> Trained:
    """MedSAM: a true box for every object; its released weights as they are, or its recipe on our base.

    Raises:
        BlosamError: when weights are missing, or the views use up the time.
    """
    options = task.options
    if options.medsam_weights:
        sam = PromptableSam("vit_b", _SAM_SIZE, task.seed, normalisation="min-max")
        weights.load_base(sam, options.medsam_weights)
        return _untrained(OracleSam(sam, "box", task.out_channels), options.device)
    sam = weights.load_base(PromptableSam(options.encoder, options.image_size, task.seed), options.base_weights)
    network = OracleSam(sam, "box", task.out_channels).to(options.device)
    bank, budget = task.prepared(network)
    steps = train_boxes(network, bank, budget, seed=task.seed)
    return trained_by(network, steps, budget, [p for p in network.parameters() if p.requires_grad])


def _untrained(network: OracleSam, device: str) -> Trained:
    network = network.to(device).eval()
    network.requires_grad_(False)
    return Trained(network, 0, 0.0, 0.0, sum(p.numel() for p in network.parameters()), 0)


def _oracle_settings(kind: str, options: Options) -> dict[str, Any]:
    return {"recipe": f"sam-oracle-{kind}", "prompt": f"{kind} from the true mask", **base_settings(options)}


def _medsam_settings(options: Options) -> dict[str, Any]:
    common = {"prompt": "box from the true mask"}
    if options.medsam_weights:
        return {"recipe": "medsam-box", **common, "medsam_sha256": digest(options.medsam_weights)}
    return {"recipe": "MedSAM's recipe on our base", **common, **base_settings(options)}


def _caveat(options: Options) -> str:
    return CAVEAT


def register_all() -> None:
    """Add these approaches to the registry."""
    for kind, prompt in (("point", "one point inside every object"), ("box", "the box around every object")):
        register(
            Approach(
                f"sam-oracle-{kind}",
                f"SAM as it is, nothing trained, {prompt} taken from the true mask",
                functools.partial(train_oracle, kind),
                functools.partial(_oracle_settings, kind),
                _caveat,
                _SAM_SOURCE,
            )
        )
    register(
        Approach(
            "medsam-box",
            "MedSAM with --medsam-weights, else its recipe on our base; the box around every object from the true mask",
            train_medsam,
            _medsam_settings,
            _caveat,
            _MEDSAM_SOURCE,
        )
    )
