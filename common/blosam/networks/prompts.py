"""What the mask decoder gets beside the image: positions of the grid cells, and the learned prompt.

The dense prompt of BLO-SAM is SAM's own ``prompt_encoder.no_mask_embed`` (1 x 256, added at every grid cell),
so it needs no module here; the sparse prompt is a handful of learned tokens; label prompts are S-SAM's one token per
class, with one pass of the decoder for each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..compat import declare_torchvision_ops
from ..errors import BlosamError

declare_torchvision_ops()

from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom  # noqa: E402

_TEXT_LENGTH = 10.0  # about that of CLIP's vectors, which S-SAM does not normalise
_TOKEN_STD = 0.02  # near zero, so that an untrained sparse prompt hardly disturbs the decoder


class DensePositions(PositionEmbeddingRandom):
    """SAM's Fourier position encoding, with the encoding of the whole grid kept ready.

    segment_anything computes it anew in every pass, in float32 only; here it is computed once in float32,
    kept as the buffer ``dense`` (1 x C x g x g, not in the state dict, follows ``.to()``), and computed again
    whenever weights are loaded, because the frequencies are part of a checkpoint.

    Args:
        channels: C, even.
        grid: g, cells per side.
    """

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__(channels // 2)
        self.grid = grid
        self.register_buffer("dense", self._compute(), persistent=False)
        self.register_load_state_dict_post_hook(_refresh)

    def _compute(self) -> Tensor:
        matrix = self.positional_encoding_gaussian_matrix.detach().float()
        places = 2 * (torch.arange(self.grid, device=matrix.device) + 0.5) / self.grid - 1  # cell centres, -1..1
        # Products and sums instead of a matrix product, which autocast would do in half precision.
        columns = places.view(1, 1, -1) * matrix[0].view(-1, 1, 1)
        rows = places.view(1, -1, 1) * matrix[1].view(-1, 1, 1)
        angles = 2 * torch.pi * (columns + rows)
        return torch.cat((angles.sin(), angles.cos())).unsqueeze(0)


def _refresh(positions: DensePositions, incompatible_keys: Any) -> None:
    """Recompute the grid's encoding after loading (a free function: deep copies refresh themselves)."""
    positions.dense = positions._compute().to(positions.dense.dtype)


class SparsePrompt(nn.Module):
    """Learned prompt tokens, the same for every image.

    Args:
        count: number of tokens n, at least 1.
        channels: width of a token, 256 in SAM.

    Raises:
        BlosamError: when the count is not positive.
    """

    def __init__(self, count: int, channels: int) -> None:
        if count < 1:
            raise BlosamError(f"num_prompt_tokens is {count}. Use 1 or more sparse tokens, or prompt='dense'.")
        super().__init__()
        self.tokens = nn.Parameter(_TOKEN_STD * torch.randn(count, channels))

    def forward(self) -> Tensor:
        """The tokens, n x C."""
        return self.tokens


class LabelPrompt(nn.Module):
    """One learned token per class: S-SAM's label names without a text encoder.

    New classes cannot be named at inference; that needs a text encoder.

    Args:
        classes: K.
        channels: width of a token, 256 in SAM.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(_TOKEN_STD * torch.randn(classes, channels))

    def forward(self) -> Tensor:
        """The tokens, K x C."""
        return self.tokens


class TextPrompt(nn.Module):
    """S-SAM's text affine layer: a fixed vector per class name, through linear layer, ReLU and normalisation.

    The vectors (of CLIP in the paper, any text encoder here) are part of the state dict, so the encoder is not needed
    after training. Unlike the authors' batch normalisation, which makes all tokens equal for a single class, layer
    normalisation is used; the number of parameters is the same.

    Args:
        classes: K.
        channels: width of a token, 256 in SAM.
        width: of a text vector, 512 in CLIP.
    """

    def __init__(self, classes: int, channels: int, width: int = 512) -> None:
        super().__init__()
        directions = torch.nn.functional.normalize(torch.randn(classes, width), dim=1)
        self.register_buffer("vectors", _TEXT_LENGTH * directions)
        self.affine = nn.Linear(width, channels)
        self.norm = nn.LayerNorm(channels)

    def set_vectors(self, vectors: Tensor) -> None:
        """Use the output of a text encoder, K x width, in the order of the classes.

        Before training only: for another width than now the affine layer starts anew.

        Raises:
            BlosamError: for another number of vectors.
        """
        if vectors.ndim != 2 or len(vectors) != len(self.vectors):
            raise BlosamError(
                f"label vectors of shape {tuple(vectors.shape)}, expected {len(self.vectors)} x width: one per class."
            )
        if vectors.shape[1] != self.vectors.shape[1]:
            self.affine = nn.Linear(vectors.shape[1], self.affine.out_features).to(self.vectors)
        self.vectors = vectors.to(self.vectors)

    def forward(self) -> Tensor:
        """The tokens, K x C."""
        return self.norm(self.affine(self.vectors).relu())
