"""BLO-SAM's network: SAM without prompts from the user, adapted to K classes with few trained weights.

Zhang, Liang, Xie: "BLO-SAM: Bi-level Optimization Based Finetuning of the Segment Anything Model for
Overfitting-Preventing Semantic Segmentation" (2024), section 3. The weights theta (decoder adapters,
upscaling, hypernetworks, output tokens) and the prompt p are trained on two halves of the data; the encoder
stays frozen.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import BlosamError
from .adapters import (
    adapt_encoder,
    add_lora,
    decompose_all,
    first_block,
    fold,
    is_adapter,
    parse_adapter,
    prefix_is_cheap,
    run_prefix,
    run_suffix,
    trained_names,
)
from .prompts import LabelPrompt, SparsePrompt, TextPrompt
from .sam import EMBED_DIM, PIXEL_MEAN, PIXEL_STD, build_sam, encoder_config

PROMPTS = ("dense", "sparse", "labels", "text", "none")
HEADS = ("random", "pretrained")
TRAINABLE = ("decoder", "decoder-norms", "whole-decoder", "all", "lora", "none")

_DENSE_PROMPT = "prompt_encoder.no_mask_embed.weight"
_PROMPT_NAMES: dict[str, str | tuple[str, ...]] = {
    "dense": _DENSE_PROMPT,
    "sparse": "sparse_prompt.",
    "labels": "label_prompt.",
    "text": "label_prompt.",
    "none": (),
}
_LABEL_PROMPTS = {"labels": LabelPrompt, "text": TextPrompt}
_IOU_HEAD = "mask_decoder.iou_prediction_head."
_TRAINED_IN_DECODER = (
    "mask_decoder.output_upscaling.",
    "mask_decoder.output_hypernetworks_mlps.",
    "mask_decoder.iou_token.",
    "mask_decoder.mask_tokens.",
    _IOU_HEAD,
)


class BloSam(nn.Module):
    """SAM that segments K classes without user prompts: softmax over K + 1 channels, channel 0 = background.

    Weights are random after construction (from a generator of its own, so the global one is neither read nor
    moved); :func:`blosam.networks.load_base` fills in a SAM checkpoint.

    Args:
        encoder: image encoder, one of ``ENCODERS``.
        image_size: side S of the square input in pixels, divisible by 16.
        out_channels: K + 1, at least 2.
        rank: rank of the decoder's LoRA updates; 0 for none.
        prompt: what p is. ``"dense"``: SAM's ``no_mask_embed``, 256 numbers added at every grid cell (the
            authors' code); ``"sparse"``: learned tokens beside the output tokens (closer to the paper's
            text); ``"labels"`` and ``"text"``: S-SAM's one token per class, learned or made from a text vector, with
            one decoder pass per class and the background's logit 0; ``"none"``: nothing is learned, SAM's
            ``no_mask_embed`` stays (joint training only).
        num_prompt_tokens: number of tokens of a sparse prompt.
        head: what :func:`load_base` does with the parts that depend on K: ``"random"`` leaves them (the
            authors' code), ``"pretrained"`` copies SAM's.
        trainable: ``"decoder"``: theta as published; ``"decoder-norms"``: the normalisations of the decoder's
            transformer (S-SAM); ``"whole-decoder"``: every weight of the mask decoder; ``"all"``: also every weight
            of the encoder; ``"lora"``: the low-rank updates alone; ``"none"``: none of the decoder (ablations).
        encoder_adapter: what is adapted in the encoder, KIND[:SIZE][@FIRST_BLOCK] of ``adapters.KINDS``.
        init_seed: seed of the random weights.
        dropout: probability of dropping an element of the embedding before it is decoded, in training mode.

    Raises:
        BlosamError: for a value outside of what is listed here.
    """

    def __init__(
        self,
        encoder: str = "tiny",
        image_size: int = 256,
        out_channels: int = 2,
        rank: int = 4,
        prompt: str = "dense",
        num_prompt_tokens: int = 4,
        head: str = "random",
        trainable: str = "decoder",
        init_seed: int = 0,
        dropout: float = 0.0,
        encoder_adapter: str = "none",
    ) -> None:
        super().__init__()
        config = encoder_config(encoder)
        _check_choice("prompt", prompt, PROMPTS)
        _check_choice("head", head, HEADS)
        _check_choice("trainable", trainable, TRAINABLE)
        if isinstance(out_channels, bool) or not isinstance(out_channels, int) or out_channels < 2:
            raise BlosamError(f"out_channels is {out_channels!r}. Use the number of classes plus 1, so at least 2.")
        if not 0.0 <= dropout < 1.0:
            raise BlosamError(f"dropout is {dropout}. Use a probability from 0 to below 1.")
        self.encoder_name, self.image_size, self.out_channels = encoder, image_size, out_channels
        self.rank, self.prompt, self.head, self.trainable = rank, prompt, head, trainable
        self.num_prompt_tokens, self.init_seed, self.embed_dim = num_prompt_tokens, init_seed, EMBED_DIM

        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would reseed every accelerator as well.
            torch.default_generator.manual_seed(init_seed)
            sam = build_sam(encoder, image_size, num_multimask_outputs=out_channels - 1)
            if rank:
                add_lora(sam.mask_decoder.transformer, rank)
            self.encoder_adapter = parse_adapter(encoder_adapter)
            adapt_encoder(sam.image_encoder, self.encoder_adapter)
            sparse = SparsePrompt(num_prompt_tokens, EMBED_DIM) if prompt == "sparse" else None
            label_prompt = _LABEL_PROMPTS[prompt](out_channels - 1, EMBED_DIM) if prompt in _LABEL_PROMPTS else None
        self.grid = image_size // config.stride
        self.logits_size = 4 * self.grid
        self.image_encoder = sam.image_encoder
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.sparse_prompt = sparse
        self.label_prompt = label_prompt
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1) / 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1) / 255, persistent=False)
        self._start = first_block(self.image_encoder, self.encoder_adapter)
        self._trained_in_encoder = {
            f"image_encoder.{name}" for name in trained_names(self.image_encoder, self.encoder_adapter)
        }
        self.keeps = self._what_is_kept()
        self.requires_grad_(False)
        for parameter in self.weight_parameters(iou_head=True) + self.prompt_parameters():
            parameter.requires_grad_(True)

    @property
    def structure(self) -> dict[str, Any]:
        """The arguments on which the names and shapes of the tensors depend, beside encoder, size and classes."""
        return {
            "rank": self.rank,
            "prompt": self.prompt,
            "num_prompt_tokens": self.num_prompt_tokens,
            "trainable": self.trainable,
            "encoder_adapter": str(self.encoder_adapter),
        }

    # --- what is trained ------------------------------------------------------------------------------------

    def weight_parameters(self, iou_head: bool = False) -> list[nn.Parameter]:
        """The weights theta, in the order of ``named_parameters``.

        Args:
            iou_head: whether the mask quality head is included; it does not reach the logits, so it belongs
                to an optimizer only when its own loss is used.
        """
        return list(self.named_weight_parameters(iou_head).values())

    def named_weight_parameters(self, iou_head: bool = False) -> dict[str, nn.Parameter]:
        """Name -> parameter of theta; see :meth:`weight_parameters`."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if self._is_weight(name) and (iou_head or not name.startswith(_IOU_HEAD))
        }

    def prompt_parameters(self) -> list[nn.Parameter]:
        """The prompt p: 1 x 256 (dense), n x 256 (sparse), K x 256 (labels), the text affine layer, or nothing."""
        return list(self.named_prompt_parameters().values())

    def named_prompt_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of p; see :meth:`prompt_parameters`."""
        start = _PROMPT_NAMES[self.prompt]
        return {name: parameter for name, parameter in self.named_parameters() if name.startswith(start)}

    def _is_weight(self, name: str) -> bool:
        if name.startswith("image_encoder."):
            return self.trainable == "all" or name in self._trained_in_encoder
        if self.trainable == "decoder":
            return name.startswith(_TRAINED_IN_DECODER) or is_adapter(name)
        if self.trainable == "decoder-norms":
            return name.startswith("mask_decoder.transformer.") and ".norm" in name
        if self.trainable in ("lora", "none"):
            return self.trainable == "lora" and is_adapter(name)
        return name.startswith("mask_decoder.")

    def _what_is_kept(self) -> str:
        """What :meth:`frozen_features` returns: ``image``, ``tokens`` before the first adapted block, ``embedding``."""
        if self.trainable == "all":
            return "image"
        if not self._trained_in_encoder:
            return "embedding"
        # S-SAM trains the position table too, which comes before every block.
        if prefix_is_cheap(self.image_encoder, self._start) or "image_encoder.pos_embed" in self._trained_in_encoder:
            return "image"
        return "tokens"

    def train(self, mode: bool = True) -> BloSam:
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.keeps == "embedding":
            self.image_encoder.eval()
        return self

    # --- passes ---------------------------------------------------------------------------------------------

    def forward(self, image: Tensor) -> Tensor:
        """Segment images.

        Args:
            image: B x 3 x S x S, values in [0, 1], padded with SAM's mean colour (0.485, 0.456, 0.406).

        Returns:
            logits B x (K + 1) x S x S.

        Raises:
            BlosamError: when the image is not B x 3 x S x S.
        """
        logits = self.decode(self.encode(image))
        return functional.interpolate(
            logits, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False
        )

    def encode(self, image: Tensor) -> Tensor:
        """Image embedding B x 256 x g x g of images B x 3 x S x S in [0, 1]; BlosamError for other shapes."""
        if not torch.jit.is_tracing() and tuple(image.shape[1:]) != (3, self.image_size, self.image_size):
            raise BlosamError(
                f"image batch of shape {tuple(image.shape)}; this network takes B x 3 x {self.image_size} x "
                f"{self.image_size}. Resize and pad the images first (blosam.data.ResizeLongestPadd)."
            )
        return self.image_encoder(self._normalised(image))

    def _normalised(self, image: Tensor) -> Tensor:
        """SAM's mean and standard deviation applied; brings the adapters' decompositions up to date first."""
        decompose_all(self.image_encoder)
        return (image.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def decode(self, embedding: Tensor) -> Tensor:
        """Low-resolution logits B x (K + 1) x 4g x 4g of embeddings B x 256 x g x g."""
        return self.decode_with_iou(embedding)[0]

    def decode_with_iou(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Low-resolution logits, and the predicted IoU of each channel, B x (K + 1)."""
        positions = self.prompt_encoder.pe_layer.dense
        embedding = self.dropout(embedding.to(positions.dtype))
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if self.label_prompt is None:
            sparse = None if self.sparse_prompt is None else self.sparse_prompt()
            logits, iou = self.mask_decoder.decode(embedding, positions, dense, sparse)
        else:
            logits, iou = self.mask_decoder.decode_labels(embedding, positions, dense, self.label_prompt())
            # Against a background of 0, softmax chooses the likeliest class above 0 or none: S-SAM's rule.
            logits = torch.cat((torch.zeros_like(logits[:, :1]), logits), dim=1)
            iou = torch.cat((torch.zeros_like(iou[:, :1]), iou), dim=1)
        # Under autocast the logits come in half precision, in which sums over pixels in a loss would
        # overflow.
        return logits.to(positions.dtype), iou.to(positions.dtype)

    def frozen_features(self, image: Tensor) -> Tensor:
        """Everything before the first trained layer, without gradient: what a feature bank keeps.

        Args:
            image: B x 3 x S x S, values in [0, 1].

        Returns:
            the embedding B x 256 x g x g; with adapters in late blocks of a ViT the tokens B x g x g x dim before
            the first of them; with a trained encoder the image itself.
        """
        if self.keeps == "image":
            return image
        with torch.no_grad():
            if self.keeps == "tokens":
                return run_prefix(self.image_encoder, self._normalised(image), self._start)
            return self.encode(image)

    def logits_from(self, features: Tensor) -> Tensor:
        """Low-resolution logits B x (K + 1) x 4g x 4g from :meth:`frozen_features`, differentiable."""
        return self.logits_and_iou_from(features)[0]

    def logits_and_iou_from(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Low-resolution logits and predicted IoU, B x (K + 1), from :meth:`frozen_features`."""
        if self.keeps == "embedding":
            return self.decode_with_iou(features)
        if self.keeps == "tokens":
            decompose_all(self.image_encoder)
            return self.decode_with_iou(run_suffix(self.image_encoder, features, self._start))
        # Fused attention kernels have no second derivative, which an exact hypergradient needs.
        with sdpa_kernel(SDPBackend.MATH):
            return self.decode_with_iou(self.encode(features))

    # --- export ---------------------------------------------------------------------------------------------

    def folded(self) -> BloSam:
        """A copy for inference in which adapters have become plain layers where that is possible.

        It shares all other tensors with this network, and is in evaluation mode.
        """
        shared = {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())}
        return fold(copy.deepcopy(self, shared)).eval()

    def __prepare_scriptable__(self) -> nn.Module:
        """Called by ``torch.jit.script``: a traced copy of the forward pass, because SAM's own code cannot be
        scripted.

        The copy is folded, in evaluation mode, and takes any batch size.
        """
        example = torch.zeros(1, 3, self.image_size, self.image_size).to(self.pixel_mean)
        with torch.no_grad(), warnings.catch_warnings():
            # Sizes that tracing warns about are constants of the network; the batch size is not among them.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            return _Traced(torch.jit.trace(self.folded(), example, check_trace=False))


class _Traced(nn.Module):
    """A plain module around a traced one, which ``torch.jit.script`` accepts."""

    def __init__(self, traced: nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, image: Tensor) -> Tensor:
        return self.traced(image)


class FromFeatures(nn.Module):
    """``logits_from`` as a forward pass, for ``torch.func.functional_call`` and wrappers that call
    ``forward``.

    Names of the parameters are those of the network behind ``network.``.

    Args:
        network: shared, not copied.
        with_iou: whether to return ``(logits, iou)`` instead of the logits.
    """

    def __init__(self, network: BloSam, with_iou: bool = False) -> None:
        super().__init__()
        self.network = network
        self.with_iou = with_iou

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits, iou = self.network.logits_and_iou_from(features)
        return (logits, iou) if self.with_iou else logits


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BlosamError(f"unknown {name} {value!r}. Use one of {', '.join(choices)}.")
