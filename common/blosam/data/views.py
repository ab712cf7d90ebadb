"""Random views of a training image, on ``{"image": 3 x S x S in [0, 1], "label": 1 x S x S}``.

The padding that ``ResizeLongestPadd`` added stays where and what it is: at inference it is always at the bottom or
right and of the mean colour, so views only change the content. All randomness comes from MONAI's ``self.R``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, RandomizableTransform
from torch.nn import functional as F

from blosam.data.transforms import PIXEL_MEAN
from blosam.errors import BlosamError

KINDS = ("greyscale", "panoramic", "rgb")


def default_views(kind: str = "greyscale", flip: bool = True) -> Compose:
    """The views the bundles use.

    Args:
        kind: ``greyscale`` for radiographs: all three channels stay equal. ``panoramic`` for dental panoramas:
            as greyscale, but the head is held by the device, so that views turn and shift less. ``rgb`` for
            endoscopy, which has no upright direction: mirrored and turned any way, and colours vary.
        flip: whether views may be mirrored; turn off where left and right mean different classes.

    Returns:
        A transform on ``image`` and ``label``; every step of it can also be written in a config.

    Raises:
        BlosamError: for another kind.
    """
    both = ("image", "label")
    if kind == "greyscale":
        return Compose(
            [
                RandTurnd(both, horizontal=0.5 if flip else 0.0),
                RandGeometryd(both, degrees=12.0, scale=0.17, translate=0.07, shear=3.0),
                RandToned("image", gamma=0.6, contrast=0.2, brightness=0.08),
                RandBlurd("image", sigma=1.0, prob=0.25),
                RandNoised("image", sigma=0.03, prob=0.8),
            ]
        )
    if kind == "panoramic":
        return Compose(
            [
                RandTurnd(both, horizontal=0.5 if flip else 0.0),
                RandGeometryd(both, degrees=5.0, scale=0.12, translate=0.04, shear=2.0),
                RandToned("image", gamma=0.6, contrast=0.2, brightness=0.08),
                RandBlurd("image", sigma=0.7, prob=0.25),
                RandNoised("image", sigma=0.03, prob=0.8),
            ]
        )
    if kind == "rgb":
        mirror = 0.5 if flip else 0.0
        return Compose(
            [
                RandTurnd(both, horizontal=mirror, vertical=mirror, quarter=0.5),
                RandGeometryd(both, degrees=20.0, scale=0.25, translate=0.1, shear=5.0),
                RandToned("image", gamma=0.5, contrast=0.2, brightness=0.08),
                RandColourd("image", saturation=0.4, balance=0.12),
                RandBlurd("image", sigma=1.0, prob=0.25),
                RandNoised("image", sigma=0.02, prob=0.5),
            ]
        )
    raise BlosamError(f"There are no views of the kind {kind!r}. Use one of {', '.join(KINDS)}.")


class _View(RandomizableTransform, MapTransform):
    """One random change of the content of square, padded entries.

    Args:
        keys: which entries; the first one, an image, shows where the padding begins.
        prob: how often the change is made.
    """

    def __init__(self, keys: KeysCollection, prob: float = 1.0) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw the numbers once, then change every entry by them."""
        d = dict(data)
        rows, columns = content_size(torch.as_tensor(d[self.first_key(d)]))
        self.randomize(None)
        if self._do_transform:
            self.draw(rows, columns)
            for key in self.key_iterator(d):
                padded = torch.as_tensor(d[key])
                changed = self.change(padded[:, :rows, :columns], key)
                d[key] = _replace_content(padded, changed)
        return d

    def draw(self, rows: int, columns: int) -> None:
        """Draw the numbers of one view of a content of this size."""
        raise NotImplementedError

    def change(self, content: torch.Tensor, key: Hashable) -> torch.Tensor:
        """Change the content, C x rows x columns, of one entry."""
        raise NotImplementedError

    def uniform(self, reach: float) -> float:
        """A number between -reach and reach."""
        return float(self.R.uniform(-reach, reach))


class RandTurnd(_View):
    """Mirror and quarter turns, which move pixels but do not mix them.

    Args:
        keys: image first, then masks.
        horizontal: probability of exchanging left and right.
        vertical: probability of exchanging top and bottom.
        quarter: probability of a turn by 90 degrees.
    """

    def __init__(
        self, keys: KeysCollection, horizontal: float = 0.5, vertical: float = 0.0, quarter: float = 0.0
    ) -> None:
        super().__init__(keys)
        self.probabilities = (horizontal, vertical, quarter)

    def draw(self, rows: int, columns: int) -> None:
        """Decide the three independently."""
        self._chosen = [bool(self.R.random() < p) for p in self.probabilities]

    def change(self, content: torch.Tensor, key: Hashable) -> torch.Tensor:
        """Apply what was decided."""
        horizontal, vertical, quarter = self._chosen
        dims = [d for d, wanted in ((-1, horizontal), (-2, vertical)) if wanted]
        content = content.flip(dims) if dims else content
        return content.rot90(1, (-2, -1)) if quarter else content


class RandGeometryd(_View):
    """Rotation, scaling, shift and shear; integer entries are sampled nearest, all others bilinearly.

    What comes in from outside repeats the edge in images and is background in masks.

    Args:
        keys: image first, then masks.
        degrees: largest rotation, either way.
        scale: largest relative change of size, either way.
        translate: largest shift as a fraction of the longer content side.
        shear: largest shear in degrees.
        prob: how often.
    """

    def __init__(
        self,
        keys: KeysCollection,
        degrees: float = 10.0,
        scale: float = 0.15,
        translate: float = 0.05,
        shear: float = 3.0,
        prob: float = 1.0,
    ) -> None:
        super().__init__(keys, prob)
        self.degrees, self.scale, self.translate, self.shear = degrees, scale, translate, shear

    def draw(self, rows: int, columns: int) -> None:
        """Draw the sampling grid, 1 x rows x columns x 2."""
        angle, shear = (math.radians(self.uniform(reach)) for reach in (self.degrees, self.shear))
        size = 1.0 + self.uniform(self.scale)
        shift = [self.uniform(self.translate) * 2 * max(rows, columns) for _ in range(2)]
        cos, sin = math.cos(angle) / size, math.sin(angle) / size
        skew = math.tan(shear)
        # affine_grid counts each axis from -1 to 1, so a rotation needs the ratio of the sides.
        ratio = rows / columns
        theta = torch.tensor(
            [
                [cos, (cos * skew - sin) * ratio, shift[0] / columns],
                [sin / ratio, sin * skew + cos, shift[1] / rows],
            ]
        )
        self._grid = F.affine_grid(theta[None], [1, 1, rows, columns], align_corners=False)

    def change(self, content: torch.Tensor, key: Hashable) -> torch.Tensor:
        """Sample the content on the grid; equal channels are sampled once."""
        mode, outside = ("bilinear", "border") if content.is_floating_point() else ("nearest", "zeros")
        source = content[:1] if is_grey(content) else content
        moved = F.grid_sample(source[None].float(), self._grid, mode, outside, align_corners=False)[0]
        return moved.to(content.dtype).expand(content.shape[0], -1, -1)


class RandToned(_View):
    """Brightness curve, contrast and brightness, the same for all channels.

    Args:
        keys: images.
        gamma: the exponent is between 2^-gamma and 2^gamma.
        contrast: largest relative change of the distance from the mean.
        brightness: largest change added.
        prob: how often.
    """

    def __init__(
        self,
        keys: KeysCollection,
        gamma: float = 0.5,
        contrast: float = 0.2,
        brightness: float = 0.1,
        prob: float = 1.0,
    ) -> None:
        super().__init__(keys, prob)
        self.gamma, self.contrast, self.brightness = gamma, contrast, brightness

    def draw(self, rows: int, columns: int) -> None:
        """Draw exponent, factor and offset."""
        self._exponent = 2.0 ** self.uniform(self.gamma)
        self._factor = 1.0 + self.uniform(self.contrast)
        self._offset = self.uniform(self.brightness)

    def change(self, content: torch.Tensor, key: Hashable) -> torch.Tensor:
        """Apply the curve, then contrast about the mean, then the offset."""
        source = content[:1] if is_grey(content) else content
        curved = source.clamp(0, 1) ** self._exponent
        mean = curved.mean()
        toned = ((curved - mean) * self._factor + mean + self._offset).clamp(0, 1)
        return toned.expand(content.shape[0], -1, -1)


class RandColourd(_View):
    """Saturation and colour balance.

    Args:
        keys: images of three channels.
        saturation: largest relative change of the distance from grey.
        balance: largest relative change of each channel.
        prob: how often.
    """

    def __init__(self, keys: KeysCollection, saturation: float = 0.3, balance: float = 0.1, prob: float = 1.0) -> None:
        super().__init__(keys, prob)
        self.saturation, self.balance = saturation, balance

    def draw(self, rows: int, columns: int) -> None:
        """Draw the factors."""
        self._saturation = 1.0 + self.uniform(self.saturation)
        self._gains = torch.tensor([1.0 + self.uniform(self.balance) for _ in range(3)])

    def change(self, content: torch.Tensor, key: Hashable) -> torch.Tensor:
        """Apply both."""
        grey = content.mean(0, keepdim=True)
        return ((grey + (content - grey) * self._saturation) * self._gains[:, None, None]).clamp(0, 1)


class RandBlurd(_View):
    """Gaussian blur.

    Args:
        keys: images.
        sigma: largest width in pixels of a 256-pixel image; it grows with the size.
        prob: how often.
    """

    def __init__(self, keys: KeysCollection, sigma: float = 1.0, prob: float = 0.25) -> None:
        super().__init__(keys, prob)
        self.sigma = sigma

    def draw(self, rows: int, columns: int) -> None:
        """Draw the width and make the kernel."""
        sigma = float(self.R.uniform(0.3, 1.0)) * self.sigma * max(rows, columns) / 256
        reach = min(max(1, math.ceil(2.5 * sigma)), min(rows, columns) - 1)  # 0 for a strip one pixel wide
        position = torch.arange(-reach, reach + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (position / sigma) ** 2)
        self._kernel, self._reach = kernel / kernel.sum(), reach

    def change(self, content: torch.Tensor, key: Hashable) -> torch.Tensor:
        """Convolve rows and columns; equal channels are convolved once."""
        source = (content[:1] if is_grey(content) else content)[:, None]
        widened = F.pad(source, [self._reach] * 4, mode="reflect")
        blurred = F.conv2d(F.conv2d(widened, self._kernel[None, None, None]), self._kernel[None, None, :, None])
        return blurred[:, 0].expand(content.shape[0], -1, -1)


class RandNoised(_View):
    """Gaussian pixel noise; the same in all channels of a grey image, so that it stays grey.

    Args:
        keys: images.
        sigma: largest standard deviation.
        prob: how often.
    """

    def __init__(self, keys: KeysCollection, sigma: float = 0.03, prob: float = 1.0) -> None:
        super().__init__(keys, prob)
        self.sigma = sigma

    def draw(self, rows: int, columns: int) -> None:
        """Draw the strength and a seed for the pixels."""
        self._sigma = float(self.R.uniform(0, self.sigma))
        # PyTorch draws normal numbers several times faster than NumPy's RandomState.
        self._generator = torch.Generator().manual_seed(int(self.R.randint(2**31 - 1)))

    def change(self, content: torch.Tensor, key: Hashable) -> torch.Tensor:
        """Add the noise."""
        shape = (1, *content.shape[1:]) if is_grey(content) else content.shape
        noise = torch.randn(shape, generator=self._generator) * self._sigma
        return (content + noise).clamp(0, 1)


def content_size(image: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of the content: without what ``ResizeLongestPadd`` added at the bottom and right.

    Args:
        image: 3 x S x S; with another number of channels nothing counts as padding.
    """
    height, width = (int(n) for n in image.shape[-2:])
    if image.shape[0] != len(PIXEL_MEAN):
        return height, width
    differs = (image != torch.tensor(PIXEL_MEAN, dtype=image.dtype)[:, None, None]).any(0)
    rows, columns = differs.any(1).nonzero(), differs.any(0).nonzero()
    if len(rows) == 0:
        return height, width
    return int(rows[-1]) + 1, int(columns[-1]) + 1


def is_grey(content: torch.Tensor) -> bool:
    """Whether all channels are the same."""
    return content.shape[0] == 1 or bool((content[1:] == content[:1]).all())


def _replace_content(padded: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """A canvas like ``padded`` whose top left holds ``content``, which may have changed its shape."""
    out = torch.zeros_like(padded)
    if padded.shape[0] == len(PIXEL_MEAN):
        out += torch.tensor(PIXEL_MEAN, dtype=padded.dtype)[:, None, None]
    out[:, : content.shape[1], : content.shape[2]] = content
    return out
