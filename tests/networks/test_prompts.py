"""Grid positions and sparse prompt tokens."""

from __future__ import annotations

import copy

import pytest
import torch

from blosam.errors import BlosamError
from blosam.networks.prompts import DensePositions, SparsePrompt


def stock(positions: DensePositions) -> torch.Tensor:
    """segment_anything's own computation, still there as the inherited forward pass."""
    return positions((positions.grid, positions.grid)).unsqueeze(0)


def test_dense_positions_are_those_of_segment_anything():
    positions = DensePositions(256, 5)
    assert positions.dense.shape == (1, 256, 5, 5)
    torch.testing.assert_close(positions.dense, stock(positions), atol=1e-5, rtol=0)


def test_positions_follow_loaded_frequencies_also_in_a_copy():
    positions, other = DensePositions(8, 4), DensePositions(8, 4)
    duplicate = copy.deepcopy(positions)
    for loaded in (positions, duplicate):
        torch.nn.Sequential(loaded).load_state_dict(torch.nn.Sequential(other).state_dict())
        assert torch.equal(loaded.dense, other.dense)


def test_positions_are_no_part_of_the_state_dict():
    assert set(DensePositions(8, 4).state_dict()) == {"positional_encoding_gaussian_matrix"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_positions_are_computed_in_single_precision_and_cast(dtype):
    exact = DensePositions(256, 8)
    reference = exact.dense.clone()
    assert torch.equal(exact.to(dtype).dense, reference.to(dtype))


def test_positions_loaded_under_autocast_keep_their_precision():
    positions, other = DensePositions(256, 8), DensePositions(256, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        positions.load_state_dict(other.state_dict())
    assert positions.dense.dtype == torch.float32
    assert torch.equal(positions.dense, other.dense)


def test_sparse_prompt_has_one_parameter():
    prompt = SparsePrompt(3, 256)
    assert prompt().shape == (3, 256) and [name for name, _ in prompt.named_parameters()] == ["tokens"]


def test_sparse_prompt_needs_a_token():
    with pytest.raises(BlosamError, match="num_prompt_tokens is 0"):
        SparsePrompt(0, 256)
