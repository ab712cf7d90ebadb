"""Putting adapters into an image encoder, from a chosen block on, and running the frozen blocks before it once.

Only the blocks from the first adapted one on need a gradient, so everything before them is a fixed function of the
image that a feature bank can keep: for most methods the depth of the first trained block decides memory and time, not
the kind of adapter (PEFT-SAM).
"""

from __future__ import annotations

from collections.abc import Callable

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from ...errors import BlosamError
from ..tiny import AttentionBlock, ConvBlock, TinyEncoder
from .bottleneck import AdaptedAttention, AdaptedConvBlock, AdaptedMLP, Bottleneck
from .factor import FacTQKV
from .lora import LoRALinear, LoRAQKV, is_adapter
from .quantised import quantise_encoder
from .scaling import SSFLinear, SSFNorm
from .singular import SVDConv2d, SVDLinear
from .spec import AdapterSpec

_MEDSA_MLP_SCALE = 0.5


def block_names(encoder: nn.Module) -> list[str]:
    """Names of the encoder's blocks in the order in which an image passes them."""
    if isinstance(encoder, ImageEncoderViT):
        return [f"blocks.{number}" for number in range(len(encoder.blocks))]
    if isinstance(encoder, TinyEncoder):
        return [name for name, module in encoder.named_modules() if isinstance(module, (ConvBlock, AttentionBlock))]
    raise BlosamError(f"{type(encoder).__name__} has no blocks that could be adapted. Use a ViT or the tiny encoder.")


def first_block(encoder: nn.Module, spec: AdapterSpec) -> int:
    """Index of the first adapted block; the number of blocks when nothing is adapted.

    Raises:
        BlosamError: when there is no such block.
    """
    count = len(block_names(encoder))
    if spec.kind == "none":
        return count
    start = spec.first(count)
    if not 0 <= start < count:
        raise BlosamError(f"encoder adapter '{spec}': this encoder has the blocks 0 to {count - 1}.")
    return start


def adapt_encoder(encoder: nn.Module, spec: AdapterSpec) -> None:
    """Add the adapters of ``spec`` to an encoder, in place; its outputs do not change (but for the 4 bits of qlora).

    Raises:
        BlosamError: when the start block does not exist, or no block has what the kind adapts.
    """
    start = first_block(encoder, spec)
    names = block_names(encoder)[start:]
    if spec.kind in _LINEAR:
        roles = _LINEAR[spec.kind]
        for name in names:
            block = encoder.get_submodule(name)
            for role, (parent, attribute) in _linears(block).items():
                if role in roles:
                    setattr(parent, attribute, _linear_adapter(spec, role, getattr(parent, attribute)))
            if spec.kind == "ssf":
                for parent, attribute in _norms(block):
                    setattr(parent, attribute, SSFNorm(getattr(parent, attribute)))
    elif spec.kind in ("adaptformer", "med-sa"):
        for name in names:
            _add_bottlenecks(encoder, name, spec)
    elif spec.kind == "qlora":
        every = [encoder.get_submodule(name) for name in block_names(encoder)]
        quantise_encoder(every, _linears, start, spec.size)
    if spec.kind == "svd":
        _adapt_neck(encoder)
    trained = trained_names(encoder, spec)
    if spec.kind != "none" and not trained:
        raise BlosamError(f"encoder adapter '{spec}': none of the blocks from {start} on has such a layer.")


def trained_names(encoder: nn.Module, spec: AdapterSpec) -> list[str]:
    """Names of the encoder's parameters that ``spec`` trains, after :func:`adapt_encoder`."""
    if spec.kind == "none":
        return []
    start = first_block(encoder, spec)
    blocks = tuple(f"{name}." for name in block_names(encoder)[start:])
    chosen = _TRAINED.get(spec.kind, is_adapter)
    names = []
    for name, _ in encoder.named_parameters():
        inside = name.startswith(blocks)
        outside = start == 0 and _beside_the_blocks(spec.kind, name)
        if outside or (spec.kind == "svd" and is_adapter(name)) or (inside and chosen(name)):
            names.append(name)
    return names


def _beside_the_blocks(kind: str, name: str) -> bool:
    """What a kind trains outside of the blocks when it starts with the first: position table, patches and neck."""
    if kind == "full":
        return True
    if kind == "adaptive":
        return name == "pos_embed" or name.endswith(".bias")
    return kind == "svd" and name == "pos_embed"


_LINEAR = {
    "lora": ("qkv",),
    "lora-all": ("qkv", "lin1", "lin2"),
    "fact": ("qkv",),
    "ssf": ("qkv", "proj", "lin1", "lin2"),
    "svd": ("qkv", "proj", "lin1", "lin2"),
}


def _is_norm(name: str) -> bool:
    return ".norm" in name


_TRAINED: dict[str, Callable[[str], bool]] = {
    "bias": lambda name: name.endswith(".bias"),
    "norm": _is_norm,
    "adaptive": lambda name: name.endswith(".bias") or _is_norm(name),
    "attention": lambda name: ".attn." in name or ".qkv." in name or ".out." in name,
    "full": lambda name: True,
    "svd": lambda name: is_adapter(name) or _is_norm(name),
}


def _linears(block: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Role -> (module, attribute) of a block's linear layers."""
    if isinstance(block, ConvBlock):
        return {"lin1": (block, "expand"), "lin2": (block, "project")}
    if isinstance(block, AttentionBlock):
        return {"qkv": (block, "qkv"), "proj": (block, "out")}
    return {
        "qkv": (block.attn, "qkv"),
        "proj": (block.attn, "proj"),
        "lin1": (block.mlp, "lin1"),
        "lin2": (block.mlp, "lin2"),
    }


def _norms(block: nn.Module) -> list[tuple[nn.Module, str]]:
    if isinstance(block, (ConvBlock, AttentionBlock)):
        return [(block, "norm")]
    return [(block, "norm1"), (block, "norm2")]


def _linear_adapter(spec: AdapterSpec, role: str, linear: nn.Linear) -> nn.Linear:
    if spec.kind == "ssf":
        return SSFLinear(linear)
    if spec.kind == "svd":
        return SVDLinear(linear)
    if spec.kind == "fact":
        return FacTQKV(linear, spec.size)
    if role == "qkv":
        return LoRAQKV(linear, spec.size, "qkv" if spec.kind == "lora-all" else "qv")
    return LoRALinear.from_linear(linear, spec.size)


def _add_bottlenecks(encoder: nn.Module, name: str, spec: AdapterSpec) -> None:
    """Replace a block of the tiny encoder, or the parts of a ViT block, by those with bottlenecks."""
    block = encoder.get_submodule(name)
    act, scale = ("relu", None) if spec.kind == "adaptformer" else ("gelu", _MEDSA_MLP_SCALE)
    if isinstance(block, ConvBlock):
        bottleneck = Bottleneck(block.norm.normalized_shape[0], spec.size, act, scale)
        parent, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(parent), last, AdaptedConvBlock(block, bottleneck))
    elif not isinstance(block, AttentionBlock):
        width = block.norm1.normalized_shape[0]
        block.mlp = AdaptedMLP(block.mlp, Bottleneck(width, spec.size, act, scale))
        if spec.kind == "med-sa":
            block.attn = AdaptedAttention(block.attn, Bottleneck(width, spec.size, act, 1.0))


def _adapt_neck(encoder: nn.Module) -> None:
    if isinstance(encoder, TinyEncoder):
        encoder.neck[0].linear = SVDLinear(encoder.neck[0].linear)
        return
    for number, layer in enumerate(encoder.neck):
        if isinstance(layer, nn.Conv2d):
            encoder.neck[number] = SVDConv2d(layer)


def fold(network: nn.Module) -> nn.Module:
    """Replace every adapter that is a change of weights by the plain layer that computes the same, in place.

    Bottlenecks stay: they are plain layers already.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "folded"):
                setattr(parent, name, child.folded())
    return network


def decompose_all(network: nn.Module) -> None:
    """Bring every singular value decomposition up to date with its weight."""
    for module in network.modules():
        if isinstance(module, (SVDLinear, SVDConv2d)):
            module.decompose()


# --- the frozen part before the first adapted block -------------------------------------------------------------------


def run_prefix(encoder: nn.Module, image: Tensor, start: int) -> Tensor:
    """The frozen blocks before ``start`` of a ViT, patch embedding and position table included.

    Args:
        encoder: segment_anything's ``ImageEncoderViT``.
        image: B x 3 x S x S, normalised.
        start: index of the first block that is left to :func:`run_suffix`.

    Returns:
        B x g x g x dim.
    """
    x = encoder.patch_embed(image) + encoder.pos_embed
    for block in encoder.blocks[:start]:
        x = block(x)
    return x


def run_suffix(encoder: nn.Module, tokens: Tensor, start: int) -> Tensor:
    """The blocks from ``start`` on and the neck: B x g x g x dim to the embedding B x 256 x g x g."""
    for block in encoder.blocks[start:]:
        tokens = block(tokens)
    return encoder.neck(tokens.permute(0, 3, 1, 2))


def prefix_is_cheap(encoder: nn.Module, start: int) -> bool:
    """Whether features before ``start`` are worth keeping: only for a ViT with frozen blocks."""
    return not isinstance(encoder, ImageEncoderViT) or start == 0


def adapter_report(network: nn.Module) -> dict[str, int]:
    """Number of trained parameters, of their bytes, and of all parameters."""
    trained = [p for p in network.parameters() if p.requires_grad]
    return {
        "trained": sum(p.numel() for p in trained),
        "trained_bytes": sum(p.numel() * p.element_size() for p in trained),
        "total": sum(p.numel() for p in network.parameters()),
    }
