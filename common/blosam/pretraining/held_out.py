"""Dice on drawings that are never trained on: unasked, by a box and by a point, for every kind."""

from __future__ import annotations

import numpy as np
import torch

from blosam.data.phantoms.canvas import Chance

from .anatomy import draw_anatomy
from .model import PromptableTiny
from .objective import true_iou
from .samples import HELD_OUT, ask, choose_target, pack
from .shapes import draw_shapes

_STREAM = 7004


def held_out_batch(kind: str, count: int, size: int) -> dict[str, torch.Tensor]:
    """``count`` undisguised drawings of ``kind`` with a question each.

    Returns:
        image B x 3 x S x S; salient B x 1 x S/2 x S/2; and for the question point and box B x 4, target as salient.
    """
    rows = []
    seed = HELD_OUT
    while len(rows) < count:
        drawing = draw_shapes(seed, size) if kind == "shapes" else draw_anatomy(kind, seed, size, plain=True)
        chance = Chance([_STREAM, seed])
        seed += 1
        choice = choose_target(chance, drawing)
        if choice is None or drawing.salient.sum() < 100:
            continue
        asked, unasked = (
            pack(kind, drawing.image, np.concatenate([mask[None], drawing.dense]), torch.zeros(4), "none", size)
            for mask in (choice[0], drawing.salient)
        )
        rows.append(
            {
                "image": asked["image"],
                "salient": unasked["target"],
                "target": asked["target"],
                "point": ask(chance, choice[0], "point"),
                "box": ask(chance, choice[0], "box"),
            }
        )
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


@torch.no_grad()
def held_out_dice(network: PromptableTiny, batch: dict[str, torch.Tensor], chunk: int = 8) -> dict[str, float]:
    """Mean Dice at S/2 x S/2 of the single mask: "unasked", "box" and "point"."""
    device = next(network.parameters()).device
    scores: dict[str, list[torch.Tensor]] = {"unasked": [], "box": [], "point": []}
    for start in range(0, len(batch["image"]), chunk):
        part = {key: value[start : start + chunk].to(device) for key, value in batch.items()}
        embedding = network.encode(part["image"])
        boxes = torch.ones(len(embedding), dtype=torch.bool, device=device)
        scores["unasked"].append(_dice(network.decode(embedding)[0], part["salient"]))
        for name, is_box in (("box", boxes), ("point", ~boxes)):
            sparse = network.sparse_prompts(part[name], is_box)
            scores[name].append(_dice(network.decode(embedding, sparse)[0], part["target"]))
    return {name: float(torch.cat(values).mean()) for name, values in scores.items()}


def _dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    iou = true_iou(logits[:, 0], target[:, 0])
    return 2 * iou / (1 + iou)
