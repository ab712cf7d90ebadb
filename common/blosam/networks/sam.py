"""SAM at any image size and any number of output masks, built from the segment_anything package.

segment_anything fixes the image size to 1024 pixels, repeats image embeddings once per prompt and slices the
masks; here its modules are put together for a given size, with a mask decoder that takes one embedding per
image and returns all masks. Names of parameters are those of segment_anything's ``Sam``, so official
checkpoints load key by key.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..compat import declare_torchvision_ops
from ..errors import BlosamError
from .prompts import DensePositions
from .tiny import TinyEncoder

declare_torchvision_ops()

from segment_anything.modeling import (  # noqa: E402
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

EMBED_DIM = 256
PIXEL_MEAN = (123.675, 116.28, 103.53)  # of images in 0..255
PIXEL_STD = (58.395, 57.12, 57.375)
SIZE_MULTIPLE = 16


@dataclass(frozen=True)
class EncoderConfig:
    """What tells the image encoders apart.

    Args:
        stride: pixels per grid cell and side.
        decoder_mlp: hidden width of the MLPs in the mask decoder's transformer.
        dim: width of the ViT; 0 for the convolutional one.
        depth: number of ViT blocks.
        heads: attention heads of a block; the width of a head is ``dim // heads``.
        global_blocks: indices of the blocks that attend to the whole grid instead of 14 x 14 windows. Only
            their relative position tables depend on the image size.
    """

    stride: int
    decoder_mlp: int
    dim: int = 0
    depth: int = 0
    heads: int = 0
    global_blocks: tuple[int, ...] = ()


CONFIGS = {
    "tiny": EncoderConfig(stride=TinyEncoder.stride, decoder_mlp=1024),
    "vit_b": EncoderConfig(16, 2048, dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": EncoderConfig(16, 2048, dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": EncoderConfig(16, 2048, dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
}
ENCODERS = tuple(CONFIGS)


class BatchedMaskDecoder(MaskDecoder):
    """SAM's mask decoder with one more method, for one prompt per image.

    The stock ``predict_masks`` repeats every image embedding once per prompt, which fails for B images with B
    prompts; it stays available for promptable use.
    """

    def decode(
        self, embedding: Tensor, positions: Tensor, dense_prompt: Tensor, sparse_prompt: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decode all masks of each image.

        Args:
            embedding: B x C x g x g, from the image encoder.
            positions: 1 x C x g x g, position encoding of the grid.
            dense_prompt: B or 1 x C x 1 x 1 or x g x g, added to the embedding.
            sparse_prompt: n x C tokens put after the output tokens, the same for all images; None for no
                tokens.

        Returns:
            logits B x M x 4g x 4g and predicted mask quality B x M, with M mask tokens.
        """
        tokens = [self.iou_token.weight, self.mask_tokens.weight]
        if sparse_prompt is not None:
            tokens.append(sparse_prompt)
        batch, _, height, width = embedding.shape
        queries = torch.cat(tokens, dim=0).unsqueeze(0).expand(batch, -1, -1)
        answers, cells = self.transformer(embedding + dense_prompt, positions, queries)

        upscaled = self.output_upscaling(cells.transpose(1, 2).reshape(batch, -1, height, width))
        filters = [mlp(answers[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        logits = torch.stack(filters, dim=1) @ upscaled.flatten(2)
        return logits.reshape(batch, -1, 4 * height, 4 * width), self.iou_prediction_head(answers[:, 0])

    def decode_labels(
        self, embedding: Tensor, positions: Tensor, dense_prompt: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode one mask per class, each in a pass of its own with the token of that class.

        Args:
            embedding: B x C x g x g, from the image encoder.
            positions: 1 x C x g x g, position encoding of the grid.
            dense_prompt: 1 x C x 1 x 1, added to the embedding.
            labels: K x C tokens.

        Returns:
            logits B x K x 4g x 4g, above 0 where the class is, and predicted mask quality B x K. Mask token 1 answers.
        """
        batch, channels, height, width = embedding.shape
        count = labels.shape[0]
        output = torch.cat([self.iou_token.weight, self.mask_tokens.weight], dim=0)
        queries = torch.cat([output.expand(count, -1, -1), labels.unsqueeze(1)], dim=1)
        queries = queries.unsqueeze(0).expand(batch, -1, -1, -1).flatten(0, 1)
        images = (embedding + dense_prompt).unsqueeze(1).expand(-1, count, -1, -1, -1).flatten(0, 1)
        answers, cells = self.transformer(images, positions, queries)
        upscaled = self.output_upscaling(cells.transpose(1, 2).reshape(-1, channels, height, width))
        filters = self.output_hypernetworks_mlps[1](answers[:, 2])
        logits = (filters.unsqueeze(1) @ upscaled.flatten(2)).reshape(batch, count, 4 * height, 4 * width)
        return logits, self.iou_prediction_head(answers[:, 0])[:, 1].reshape(batch, count)


def encoder_config(encoder: str) -> EncoderConfig:
    """The configuration of an encoder by name.

    Raises:
        BlosamError: when the name is none of ``ENCODERS``.
    """
    if encoder not in CONFIGS:
        raise BlosamError(f"unknown encoder {encoder!r}. Use one of {', '.join(ENCODERS)}.")
    return CONFIGS[encoder]


def build_sam(encoder: str, image_size: int, num_multimask_outputs: int = 3) -> Sam:
    """Put a SAM together, with random weights, for square images of one size.

    Args:
        encoder: one of ``ENCODERS``.
        image_size: side S of the images in pixels, divisible by 16; the grid has g = S / stride cells per
            side.
        num_multimask_outputs: K; the decoder has K + 1 mask tokens and hypernetworks (SAM itself: 3).

    Returns:
        a segment_anything ``Sam`` whose mask decoder is a :class:`BatchedMaskDecoder`.

    Raises:
        BlosamError: for an unknown encoder, or a size that is not a positive multiple of 16.
    """
    config = encoder_config(encoder)
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < SIZE_MULTIPLE:
        raise BlosamError(f"image_size is {image_size!r}. Use a positive multiple of {SIZE_MULTIPLE}, e.g. 256.")
    if image_size % SIZE_MULTIPLE:
        nearest = SIZE_MULTIPLE * max(1, round(image_size / SIZE_MULTIPLE))
        raise BlosamError(f"image_size {image_size} is not divisible by {SIZE_MULTIPLE}. Use e.g. {nearest}.")
    grid = image_size // config.stride
    return Sam(
        image_encoder=_image_encoder(config, image_size),
        prompt_encoder=_prompt_encoder(grid, image_size),
        mask_decoder=BatchedMaskDecoder(
            num_multimask_outputs=num_multimask_outputs,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, mlp_dim=config.decoder_mlp, num_heads=8),
            transformer_dim=EMBED_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


def _image_encoder(config: EncoderConfig, image_size: int) -> nn.Module:
    if not config.dim:
        return TinyEncoder(image_size)
    return ImageEncoderViT(
        img_size=image_size,
        patch_size=config.stride,
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        qkv_bias=True,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=config.global_blocks,
        out_chans=EMBED_DIM,
    )


def _prompt_encoder(grid: int, image_size: int) -> PromptEncoder:
    encoder = PromptEncoder(
        embed_dim=EMBED_DIM,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    encoder.pe_layer = DensePositions(EMBED_DIM, grid)
    return encoder


def position_table_names(encoder: str) -> tuple[str, ...]:
    """Tensors whose shape depends on the image size: the absolute table and those of the global blocks."""
    config = encoder_config(encoder)
    if not config.dim:
        return ()
    relative = [f"image_encoder.blocks.{block}.attn.rel_pos_{axis}" for block in config.global_blocks for axis in "hw"]
    return ("image_encoder.pos_embed", *relative)


def resize_position_tables(state: dict[str, Tensor], encoder: str, image_size: int) -> dict[str, Tensor]:
    """Resize the position tables of a SAM state dict to another image size.

    The absolute table is resized bilinearly with pixel centres aligned, as BLO-SAM and SAMed do; the relative
    tables of the global blocks linearly, which is what segment_anything would do in every pass.

    Args:
        state: name -> tensor; ``image_encoder.pos_embed`` is 1 x n x n x dim, relative tables are L x head
            width.
        encoder: one of ``ENCODERS``.
        image_size: the new S in pixels, divisible by 16.

    Returns:
        a new dict with ``pos_embed`` 1 x g x g x dim and relative tables (2g - 1) x head width; other entries
        are those of ``state``.
    """
    grid = image_size // encoder_config(encoder).stride
    resized = dict(state)
    for name in position_table_names(encoder):
        table = state[name].float()
        if name.endswith("pos_embed"):
            resized[name] = _resize_absolute(table, grid)
        else:
            resized[name] = _resize_relative(table, 2 * grid - 1)
    return resized


def _resize_absolute(table: Tensor, grid: int) -> Tensor:
    if tuple(table.shape[1:3]) == (grid, grid):
        return table
    channels_first = table.permute(0, 3, 1, 2)
    resized = functional.interpolate(channels_first, size=(grid, grid), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).contiguous()


def _resize_relative(table: Tensor, length: int) -> Tensor:
    if table.shape[0] == length:
        return table
    resized = functional.interpolate(table.T.unsqueeze(0), size=length, mode="linear", align_corners=False)
    return resized.squeeze(0).T.contiguous()
