"""SAM at any size: shapes against segment_anything's own builders, position tables, batched decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling.image_encoder import get_rel_pos

from blosam.errors import BlosamError
from blosam.networks import ENCODERS, build_sam, resize_position_tables

GLOBAL_BLOCKS = {"vit_b": (2, 5, 8, 11), "vit_l": (5, 11, 17, 23), "vit_h": (7, 15, 23, 31)}
DEPTHS = {"vit_b": 12, "vit_l": 24, "vit_h": 32}


def on_meta(build, *args):
    with torch.device("meta"):
        return build(*args)


def shapes(module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("encoder", sorted(DEPTHS))
def test_keys_and_shapes_are_those_of_the_official_builder(encoder):
    assert shapes(on_meta(build_sam, encoder, 1024)) == shapes(on_meta(sam_model_registry[encoder]))


@pytest.mark.parametrize("encoder", sorted(DEPTHS))
def test_only_position_tables_depend_on_the_image_size(encoder):
    full, small = shapes(on_meta(build_sam, encoder, 1024)), shapes(on_meta(build_sam, encoder, 256))
    differing = {name for name in full if full[name] != small[name]}
    assert full.keys() == small.keys()
    assert differing == {"image_encoder.pos_embed"} | {
        f"image_encoder.blocks.{block}.attn.rel_pos_{axis}" for block in GLOBAL_BLOCKS[encoder] for axis in "hw"
    }


def test_total_parameters_of_the_base_model():
    assert sum(p.numel() for p in on_meta(build_sam, "vit_b", 1024).parameters()) == 93_735_472
    assert sum(p.numel() for p in on_meta(build_sam, "vit_b", 256).parameters()) == 90_737_200


@pytest.mark.parametrize("masks", [1, 5])
def test_mask_count_changes_tokens_hypernetworks_and_quality_head(masks):
    decoder = on_meta(build_sam, "tiny", 64, masks).mask_decoder
    assert decoder.mask_tokens.weight.shape == (masks + 1, 256)
    assert len(decoder.output_hypernetworks_mlps) == masks + 1
    assert decoder.iou_prediction_head.layers[-1].weight.shape == (masks + 1, 256)


def test_unknown_encoder_lists_the_known_ones():
    with pytest.raises(BlosamError, match="unknown encoder 'vit_x'.*tiny, vit_b, vit_l, vit_h"):
        build_sam("vit_x", 256)


@pytest.mark.parametrize("size", [0, -16, 8, 100, 250, 256.0, "256", True])
def test_sizes_that_are_no_multiple_of_sixteen_are_refused(size):
    with pytest.raises(BlosamError, match=f"image_size.*{size}"):
        build_sam("tiny", size)


@pytest.mark.parametrize("encoder", ["tiny", "vit_b"])
@pytest.mark.parametrize("size", [48, 80])
def test_odd_multiples_of_sixteen_work(encoder, size):
    sam = build_sam(encoder, size).eval()
    grid = size // (8 if encoder == "tiny" else 16)
    with torch.no_grad():
        embedding = sam.image_encoder(torch.rand(1, 3, size, size))
    assert embedding.shape == (1, 256, grid, grid)
    assert sam.prompt_encoder.get_dense_pe().shape == (1, 256, grid, grid)


# --- position tables -------------------------------------------------------------------------------------------------


def bilinear(table: np.ndarray, side: int) -> np.ndarray:
    """Bilinear resize of an n x n x C table with pixel centres aligned, written out."""
    for axis in (0, 1):
        old = table.shape[axis]
        places = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, None)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, old - 1)
        weight = (places - low).reshape([-1 if a == axis else 1 for a in range(3)])
        table = (1 - weight) * np.take(table, low, axis) + weight * np.take(table, high, axis)
    return table


def tables(encoder: str, grid: int, width: int = 6) -> dict[str, torch.Tensor]:
    """Random position tables of every block (windowed and global), with narrow heads."""
    generator = torch.Generator().manual_seed(3)
    state = {"image_encoder.pos_embed": torch.randn(1, grid, grid, width, generator=generator)}
    for block in range(DEPTHS[encoder]):
        length = 2 * grid - 1 if block in GLOBAL_BLOCKS[encoder] else 27
        for axis in "hw":
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            state[name] = torch.randn(length, width, generator=generator)
    return state


@pytest.mark.parametrize("size", [64, 256, 400])
def test_absolute_table_is_resized_bilinearly(size):
    state = tables("vit_b", 64)
    resized = resize_position_tables(state, "vit_b", size)["image_encoder.pos_embed"]
    expected = bilinear(state["image_encoder.pos_embed"][0].double().numpy(), size // 16)
    np.testing.assert_allclose(resized[0].numpy(), expected, atol=5e-5)  # torch places samples in float32


@pytest.mark.parametrize("encoder", sorted(DEPTHS))
def test_relative_tables_of_global_blocks_act_as_in_stock_sam(encoder):
    """Regression B16: the blocks are chosen by index; a choice by digits in the key is wrong for vit_l and vit_h."""
    state, grid = tables(encoder, 64), 16
    resized = resize_position_tables(state, encoder, 16 * grid)
    for block in range(DEPTHS[encoder]):
        for axis in "hw":
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            if block in GLOBAL_BLOCKS[encoder]:
                assert resized[name].shape == (2 * grid - 1, 6)
                stock = get_rel_pos(grid, grid, state[name])
                torch.testing.assert_close(get_rel_pos(grid, grid, resized[name]), stock, atol=1e-6, rtol=0)
            else:
                assert resized[name] is state[name]


def test_tables_of_the_right_size_are_left_alone():
    state = tables("vit_b", 16)
    resized = resize_position_tables(state, "vit_b", 256)
    assert all(torch.equal(resized[name], state[name]) for name in state)


def test_small_encoder_has_no_tables():
    state = {"image_encoder.stem.0.weight": torch.zeros(1)}
    assert resize_position_tables(state, "tiny", 128) == state


# --- decoding --------------------------------------------------------------------------------------------------------


def test_batched_decoding_equals_the_stock_decoder_image_by_image(tiny_sam, images):
    prompts = tiny_sam.prompt_encoder
    sparse, dense = prompts(points=None, boxes=None, masks=None)
    with torch.no_grad():
        embedding = tiny_sam.image_encoder(tiny_sam.preprocess(255 * images))
        logits, quality = tiny_sam.mask_decoder.decode(embedding, prompts.get_dense_pe(), dense)
        assert logits.shape == (3, 4, 32, 32) and quality.shape == (3, 4)
        for i in range(3):
            masks, iou = tiny_sam.mask_decoder.predict_masks(
                embedding[i : i + 1], prompts.get_dense_pe(), sparse, dense
            )
            torch.testing.assert_close(logits[i : i + 1], masks, atol=1e-5, rtol=0)
            torch.testing.assert_close(quality[i : i + 1], iou, atol=1e-5, rtol=0)


def test_sparse_tokens_go_behind_the_output_tokens(tiny_sam, images):
    prompts, tokens = tiny_sam.prompt_encoder, torch.randn(2, 256, generator=torch.Generator().manual_seed(1))
    _, dense = prompts(points=None, boxes=None, masks=None)
    with torch.no_grad():
        embedding = tiny_sam.image_encoder(tiny_sam.preprocess(255 * images[:1]))
        logits, _ = tiny_sam.mask_decoder.decode(embedding, prompts.get_dense_pe(), dense, tokens)
        stock, _ = tiny_sam.mask_decoder.predict_masks(embedding, prompts.get_dense_pe(), tokens.unsqueeze(0), dense)
        without, _ = tiny_sam.mask_decoder.decode(embedding, prompts.get_dense_pe(), dense)
    torch.testing.assert_close(logits, stock, atol=1e-5, rtol=0)
    assert (logits - without).abs().max() > 1e-3


def test_every_encoder_is_listed():
    assert ("tiny", *sorted(DEPTHS, key=lambda name: DEPTHS[name])) == ENCODERS
