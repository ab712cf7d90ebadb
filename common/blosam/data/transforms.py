"""The invertible preprocessing: upright channel-first pictures, the longest side resized to S, padded to S x S.

``Invertd`` undoes both on the logits, before softmax and argmax, so that masks come back on the source grid.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, convert_to_tensor, ensure_tuple_rep
from torch.nn import functional as F

from blosam.errors import BlosamError

PIXEL_MEAN = (0.485, 0.456, 0.406)  # SAM's mean colour, 0 after its normalisation
LABEL_KEY = "label"
RESIZE_MODES = {"image": "bilinear", "label": "nearest-exact"}  # and the names of the modes themselves


class Canonical2Dd(MapTransform, InvertibleTransform):
    """Bring what ``ClinicalReader`` returns into the form networks see: upright, channel first.

    W x H, W x H x 1 and W x H x C become C x H x W with 3 channels (an alpha channel is dropped, grey is
    repeated); the key ``label`` becomes 1 x H x W. The inverse turns any number of channels back: C x H x W
    to C x W x H, or to C x W x H x 1 when the source had a third axis. The affine stays that of the source
    grid (W x H) throughout.

    Args:
        keys: which entries.
        allow_missing_keys: whether absent entries are fine.
        label_keys: entries that are masks and keep one channel.

    Raises:
        BlosamError: when an array is not 2-D, or has other than 1 to 4 channels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        allow_missing_keys: bool = False,
        label_keys: KeysCollection = (LABEL_KEY,),
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_keys = ensure_tuple_rep(label_keys, 1) if isinstance(label_keys, str) else tuple(label_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform the entries ``keys`` of one item."""
        d = dict(data)
        for key in self.key_iterator(d):
            source = _tracked(d[key])
            shape = _source_shape(source)
            upright = _channel_first(source, shape).transpose(-1, -2)
            upright = upright[:1].to(torch.uint8) if key in self.label_keys else _three_channels(upright)
            self.push_transform(upright, orig_size=shape, extra_info={"third_axis": len(shape) == 3})
            d[key] = upright
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """C x H x W back to C x W x H (x 1)."""
        d = dict(data)
        for key in self.key_iterator(d):
            record = self.pop_transform(d[key])
            turned = d[key].transpose(-1, -2).contiguous()
            d[key] = turned.unsqueeze(-1) if record[TraceKeys.EXTRA_INFO]["third_axis"] else turned
        return d


class ResizeLongestPadd(MapTransform, InvertibleTransform):
    """Resize the longest side to ``size`` and pad bottom and right to a square, as SAM does.

    Images are resized with antialiasing (bilinear) and padded with SAM's mean colour, masks by nearest-exact,
    which samples pixel centres as the network's own resizing does, and padded with 0. The inverse cuts the
    padding off and resizes to the source size, bilinear for logits.

    Args:
        keys: which entries, each C x H x W.
        size: S, side of the result in pixels.
        mode: ``image`` (or ``bilinear``) or ``label`` (or ``nearest-exact``), one for all or one per key;
            None takes ``label`` for the key ``label`` and ``image`` for all others.
        allow_missing_keys: whether absent entries are fine.

    Raises:
        BlosamError: for another ``mode`` or a ``size`` below 16.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int,
        mode: Sequence[str] | str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if size < 16:
            raise BlosamError(f"The image size is {size}, but at least 16 pixels are needed. Set a larger size.")
        if mode is None:
            mode = ["label" if key == LABEL_KEY else "image" for key in self.keys]
        self.size = int(size)
        self.modes = tuple(RESIZE_MODES.get(m, m) for m in ensure_tuple_rep(mode, len(self.keys)))
        for chosen in self.modes:
            if chosen not in RESIZE_MODES.values():
                raise BlosamError(f"There is no resize mode {chosen!r}. Use one of {', '.join(RESIZE_MODES)}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform the entries ``keys`` of one item."""
        d = dict(data)
        for key, mode in self.key_iterator(d, self.modes):
            source = _tracked(d[key])
            height, width = source.shape[-2:]
            rows, columns = resized_shape(height, width, self.size)
            resized = _pad(_resize(source.as_tensor(), (rows, columns), mode), self.size)
            out = MetaTensor(resized).copy_meta_from(source)
            extra = {"source": [height, width], "resized": [rows, columns], "mode": mode}
            self.push_transform(out, orig_size=(height, width), extra_info=extra)
            d[key] = out
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """C x S x S back to C x H x W; ``C`` need not be that of the forward pass."""
        d = dict(data)
        for key in self.key_iterator(d):
            extra = self.pop_transform(d[key])[TraceKeys.EXTRA_INFO]
            rows, columns = (int(n) for n in extra["resized"])
            cut = d[key].as_tensor()[..., :rows, :columns]
            restored = _resize(cut, tuple(int(n) for n in extra["source"]), extra["mode"])
            d[key] = MetaTensor(restored).copy_meta_from(d[key])
        return d


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Rows and columns after the longest side has become ``size``: SAM's rounding, but never 0."""
    scale = size * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _resize(image: torch.Tensor, shape: tuple[int, int], mode: str) -> torch.Tensor:
    """Resize C x H x W; bilinear smooths first when it shrinks, so that thin structures do not vanish."""
    if tuple(image.shape[-2:]) == tuple(shape):
        return image
    if mode == "bilinear":
        resized = F.interpolate(image[None].float(), shape, mode=mode, align_corners=False, antialias=True)
        return resized[0]
    # Not every integer type can be interpolated; float32 holds all class numbers exactly.
    return F.interpolate(image[None].float(), shape, mode=mode)[0].to(image.dtype)


def _pad(image: torch.Tensor, size: int) -> torch.Tensor:
    """Pad C x h x w at the bottom and right to C x size x size: mean colour for 3 channels, else 0."""
    channels, rows, columns = image.shape
    padded = image.new_zeros((channels, size, size))
    if channels == len(PIXEL_MEAN):
        padded += torch.tensor(PIXEL_MEAN, dtype=image.dtype, device=image.device)[:, None, None]
    padded[:, :rows, :columns] = image
    return padded


def _tracked(value: Any) -> MetaTensor:
    """The value as a MetaTensor, which carries the record of what has to be undone."""
    return value if isinstance(value, MetaTensor) else MetaTensor(convert_to_tensor(value))


def _source_shape(image: MetaTensor) -> tuple[int, ...]:
    """(W, H), or (W, H, 1) when the source grid has a third axis of length 1."""
    shape = tuple(int(n) for n in image.shape)
    recorded = image.meta.get("spatial_shape")
    third_axis = len(shape) == 3 and shape[-1] == 1 if recorded is None else len(recorded) == 3
    return (*shape[:2], 1) if third_axis else shape[:2]


def _channel_first(image: MetaTensor, shape: tuple[int, ...]) -> MetaTensor:
    """W x H (x C) to C x W x H."""
    if image.ndim == 2:
        return image[None]
    if image.ndim == 3 and 1 <= image.shape[-1] <= 4:
        return image.movedim(-1, 0)
    name = image.meta.get("filename_or_obj", "the image")
    raise BlosamError(
        f"{name}: the array is {' x '.join(map(str, image.shape))}, but W x H, W x H x 1 or W x H x 3 "
        "is needed. Read it with blosam.dicom.ClinicalReader."
    )


def _three_channels(image: MetaTensor) -> MetaTensor:
    """Repeat grey (also grey with alpha) three times; drop the alpha channel of RGBA."""
    if image.shape[0] <= 2:
        return image[:1].repeat(3, 1, 1)
    return image[:3].contiguous()
