"""The network that is pretrained: the tiny encoder in SAM's own frame, and a head that is thrown away afterwards."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from blosam.compat import declare_torchvision_ops
from blosam.networks.sam import encoder_config
from blosam.networks.tiny import EMBED_DIM, TinyEncoder

declare_torchvision_ops()
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer  # noqa: E402

from .kinds import TOTAL_DENSE  # noqa: E402

_MLP = encoder_config("tiny").decoder_mlp
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class PromptableTiny(nn.Module):
    """Tiny encoder, SAM's prompt encoder and SAM's mask decoder under SAM's own key names, batched over images.

    SAM decodes one image at a time; here every image of the batch brings its own prompt and all are decoded at once.
    ``dense_head`` predicts fixed structures from the embedding; it speeds up learning and is not exported.

    Args:
        size: side of the square images in pixels, divisible by 16.
    """

    def __init__(self, size: int = 256) -> None:
        super().__init__()
        grid = size // TinyEncoder.stride
        self.image_encoder = TinyEncoder(size)
        self.prompt_encoder = PromptEncoder(
            embed_dim=EMBED_DIM, image_embedding_size=(grid, grid), input_image_size=(size, size), mask_in_chans=16
        )
        transformer = TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, mlp_dim=_MLP, num_heads=8)
        self.mask_decoder = MaskDecoder(transformer_dim=EMBED_DIM, transformer=transformer, num_multimask_outputs=3)
        self._tie_positions()
        self.dense_head = nn.Linear(EMBED_DIM, TOTAL_DENSE * 4)
        nn.init.constant_(self.dense_head.bias, -3.0)  # most structures cover little of an image
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    @torch.no_grad()
    def _tie_positions(self) -> None:
        """Start every attention between tokens and image with equal query and key matrices.

        Prompts and places carry the same kind of position code, so a point then attends to its own place, and its place
        to it, from the first step on; from independent random matrices this takes thousands of steps to emerge.
        """
        transformer = self.mask_decoder.transformer
        attentions = [transformer.final_attn_token_to_image]
        for layer in transformer.layers:
            attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
        for attention in attentions:
            attention.q_proj.weight.mul_(2)
            attention.k_proj.weight.copy_(attention.q_proj.weight)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Embed images B x 3 x S x S in 0..1 as B x 256 x S/8 x S/8."""
        return self.image_encoder((image - self.mean) / self.std)

    def dense(self, embedding: torch.Tensor) -> torch.Tensor:
        """Logits of the auxiliary structures, B x D x S/4 x S/4."""
        logits = self.dense_head(embedding.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return functional.pixel_shuffle(logits, 2)

    def sparse_prompts(self, prompt: torch.Tensor, is_box: torch.Tensor) -> torch.Tensor:
        """Embed one point or box per image, as SAM does, in the same number of tokens.

        Args:
            prompt: B x 4 pixels: x0 y0 x1 y1 of a box, or x y and two unused numbers.
            is_box: B bool.

        Returns:
            B x 2 x 256: both corners, or the point and SAM's "not a point".
        """
        encoder = self.prompt_encoder
        corners = encoder.pe_layer.forward_with_coords(prompt.reshape(-1, 2, 2) + 0.5, encoder.input_image_size)
        learned = torch.stack([encoder.point_embeddings[2].weight[0], encoder.point_embeddings[3].weight[0]])
        boxes = corners + learned
        nothing = encoder.not_a_point_embed.weight.expand(len(prompt), -1)
        points = torch.stack([corners[:, 0] + encoder.point_embeddings[1].weight, nothing], dim=1)
        return torch.where(is_box[:, None, None], boxes, points)

    def decode(self, embedding: torch.Tensor, sparse: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode every image with its own prompt.

        Args:
            embedding: B x 256 x g x g.
            sparse: B x T x 256 prompt tokens; None asks nothing.

        Returns:
            mask logits B x 4 x 4g x 4g (SAM's single mask, then its three alternatives) and estimated IoU B x 4.
        """
        decoder, batch = self.mask_decoder, len(embedding)
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None].expand(batch, -1, -1)
        if sparse is not None:
            tokens = torch.cat([tokens, sparse], dim=1)
        nothing = self.prompt_encoder.no_mask_embed.weight[..., None, None]
        position = self.prompt_encoder.get_dense_pe().expand(batch, -1, -1, -1)
        source = embedding + nothing
        answers, places = decoder.transformer(source, position, tokens)
        upscaled = decoder.output_upscaling(places.transpose(1, 2).reshape(source.shape))
        kernels = torch.stack(
            [mlp(answers[:, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
        )
        masks = (kernels @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        return masks, decoder.iou_prediction_head(answers[:, 0])
