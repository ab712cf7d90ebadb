"""SAM as it was made: one mask for each point or box that somebody gives.

BLO-SAM needs no prompts; this network is what prompted baselines are measured with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import BlosamError
from .sam import PIXEL_MEAN, PIXEL_STD, build_sam, encoder_config

NORMALISATIONS = ("sam", "min-max")


class PromptableSam(nn.Module):
    """A SAM with its own four mask tokens, for one point or one box per mask.

    Weights are random after construction; ``blosam.weights.load_base`` fills in a checkpoint, SAM's heads included.

    Args:
        encoder: image encoder, one of ``ENCODERS``.
        image_size: side S of the square input in pixels, divisible by 16.
        init_seed: seed of the random weights.
        normalisation: ``sam`` subtracts SAM's mean colour, ``min-max`` stretches every image to 0..1 (MedSAM).

    Raises:
        BlosamError: for another encoder, size or normalisation.
    """

    head = "stock"

    def __init__(
        self, encoder: str = "tiny", image_size: int = 256, init_seed: int = 0, normalisation: str = "sam"
    ) -> None:
        super().__init__()
        if normalisation not in NORMALISATIONS:
            raise BlosamError(f"unknown normalisation {normalisation!r}. Use one of {', '.join(NORMALISATIONS)}.")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(init_seed)
            sam = build_sam(encoder, image_size)
        self.encoder_name, self.image_size, self.init_seed = encoder, image_size, init_seed
        self.normalisation = normalisation
        self.logits_size = 4 * (image_size // encoder_config(encoder).stride)
        self.image_encoder = sam.image_encoder
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1) / 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1) / 255, persistent=False)

    def encode(self, image: Tensor) -> Tensor:
        """Embedding B x 256 x g x g of images B x 3 x S x S in [0, 1]."""
        if self.normalisation == "sam":
            return self.image_encoder((image - self.pixel_mean) / self.pixel_std)
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        return self.image_encoder((image - low) / (high - low).clamp_min(1e-8))

    def masks(self, embedding: Tensor, points: Tensor | None = None, boxes: Tensor | None = None) -> Tensor:
        """Logits of one mask for each prompt, above 0 where the object is.

        A box asks for SAM's single mask. A point may mean a part or the whole, so, as SAM's authors recommend, the
        one of the three alternatives counts that SAM itself expects to be best.

        Args:
            embedding: 1 x 256 x g x g of one image.
            points: n x 2, x and y in pixels of the network's frame (the centre of the first pixel is 0, 0).
            boxes: n x 4, x0 y0 x1 y1 likewise; instead of points.

        Returns:
            n x S x S.
        """
        labelled = None if points is None else (points[:, None], points.new_ones(len(points), 1))
        sparse, dense = self.prompt_encoder(points=labelled, boxes=boxes, masks=None)
        positions = self.prompt_encoder.pe_layer.dense
        # Not `forward`, which slices the masks before the best one could be chosen.
        logits, quality = self.mask_decoder.predict_masks(embedding, positions, sparse, dense)
        best = 1 + quality[:, 1:].argmax(1) if boxes is None else torch.zeros_like(quality[:, 0], dtype=torch.long)
        chosen = logits[torch.arange(len(logits), device=logits.device), best]
        size = (self.image_size, self.image_size)
        return functional.interpolate(chosen[:, None], size, mode="bilinear", align_corners=False)[:, 0]
