"""What the mask decoder gets beside the image: positions of the grid cells, and the learned prompt.

The dense prompt of BLO-SAM is SAM's own ``prompt_encoder.no_mask_embed`` (1 x 256, added at every grid cell),
so it needs no module here; the sparse prompt is a handful of learned tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..compat import declare_torchvision_ops
from ..errors import BlosamError

declare_torchvision_ops()

from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom  # noqa: E402

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
