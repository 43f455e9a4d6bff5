"""Grey values of an image: normalised, and changed at random (brightness, contrast, gamma, noise).

The random changes are for images that were normalised to about zero mean and unit standard deviation, so the
figures are in standard deviations of the image.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform, Transform
from torch import Tensor

from volseg.bspline.field import numbers_per_axis
from volseg.greyvalues import normalised
from volseg.transforms.arrays import like, plain_tensor, probability

__all__ = ["NormalizeGreyValues", "NormalizeGreyValuesd", "RandGreyValues", "RandGreyValuesd"]


class NormalizeGreyValues(Transform):
    """Zero mean and unit spread for each channel of an image ``(C, *spatial)``, as its bulk has them.

    In place of MONAI's ``NormalizeIntensity(channel_wise=True)``, which gives the same but for images with
    hot voxels, fill values or numbers near the ends of their type: see `volseg.greyvalues`. The result is
    float32.
    """

    def __call__(self, image: Any) -> Any:
        return like(normalised(plain_tensor(image)), image)


class NormalizeGreyValuesd(MapTransform):
    """:class:`NormalizeGreyValues` of each key."""

    def __init__(self, keys: Sequence[str] | str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalise = NormalizeGreyValues()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self.normalise(data[key]) for key in self.key_iterator(data)}}


class GreyDraw(NamedTuple):
    """One drawn change of grey values."""

    brightness: float
    contrast: float
    gamma: float
    noise: float
    seed: int


class RandGreyValues(RandomizableTransform):
    """Grey values of an image as another microscope, another day or another stain would give them.

    In this order: gamma between the image's smallest and largest value, contrast about its mean,
    brightness, Gaussian noise. Gamma, mean and range are taken per channel; one draw serves all
    channels. Results are float32, also where nothing is changed.

    Args:
        brightness: largest shift up or down.
        contrast: smallest and largest factor, drawn log-uniformly.
        gamma: smallest and largest exponent, drawn log-uniformly.
        noise: largest standard deviation of the noise.
        prob: probability that an image is changed at all.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.2,
        contrast: Sequence[float] = (0.8, 1.25),
        gamma: Sequence[float] = (0.8, 1.25),
        noise: float = 0.1,
        prob: float = 1.0,
    ) -> None:
        super().__init__(probability(prob, "prob"))
        for name, value in (("brightness", brightness), ("noise", noise)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} = {value!r} must be zero or a positive number.")
        self.brightness = brightness
        self.noise = noise
        self.contrast = _factors(contrast, "contrast")
        self.gamma = _factors(gamma, "gamma")

    def __call__(self, image: Any) -> Any:
        return like(self.apply(plain_tensor(image), self.sample()), image)

    def sample(self) -> GreyDraw | None:
        """Draw a change of grey values; ``None`` with probability ``1 - prob``."""
        self.randomize(None)
        if not self._do_transform:
            return None
        return GreyDraw(
            brightness=self.R.uniform(-self.brightness, self.brightness),
            contrast=math.exp(self.R.uniform(*(math.log(factor) for factor in self.contrast))),
            gamma=math.exp(self.R.uniform(*(math.log(factor) for factor in self.gamma))),
            noise=self.R.uniform(0, self.noise),
            seed=int(self.R.randint(2**31 - 1)),
        )

    def apply(self, image: Tensor, draw: GreyDraw | None) -> Tensor:
        """Change the grey values of an image ``(C, *spatial)``; the argument itself stays as it is."""
        if draw is None:
            return image.to(torch.float32)
        out = image.to(torch.float32, copy=True)
        axes = tuple(range(1, out.ndim))
        if draw.gamma != 1:
            low, high = out.amin(axes, keepdim=True), out.amax(axes, keepdim=True)
            span = torch.where(high > low, high - low, torch.ones_like(low))
            out.sub_(low).div_(span).pow_(draw.gamma).mul_(span).add_(low)
        mean = out.mean(axes, keepdim=True)
        out.mul_(draw.contrast).add_(mean * (1 - draw.contrast) + draw.brightness)
        if draw.noise:
            generator = torch.Generator(out.device).manual_seed(draw.seed)
            noise = torch.randn(out.shape, generator=generator, device=out.device)
            out.add_(noise, alpha=draw.noise)
        return out


class RandGreyValuesd(RandomizableTransform, MapTransform):
    """:class:`RandGreyValues`, one draw for all keys; the arguments beside ``keys`` are those."""

    def __init__(
        self,
        keys: Sequence[str] | str = "image",
        *,
        brightness: float = 0.2,
        contrast: Sequence[float] = (0.8, 1.25),
        gamma: Sequence[float] = (0.8, 1.25),
        noise: float = 0.1,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.change = RandGreyValues(
            brightness=brightness, contrast=contrast, gamma=gamma, noise=noise, prob=prob
        )

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "RandGreyValuesd":
        """Where draws come from, as in MONAI."""
        super().set_random_state(seed, state)
        self.change.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        draw = self.change.sample()
        out = dict(data)
        for key in self.key_iterator(data):
            out[key] = like(self.change.apply(plain_tensor(data[key]), draw), data[key])
        return out


def _factors(value: Sequence[float], name: str) -> tuple[float, ...]:
    if not isinstance(value, Sequence):
        raise ValueError(
            f"{name} = {value!r} is one number, but the smallest and the largest factor are needed, "
            "such as [0.8, 1.25]; one number would change every image by the same factor."
        )
    factors = numbers_per_axis(value, 2, name)
    if not 0 < factors[0] <= factors[1]:
        raise ValueError(f"{name} = {value!r} must be two positive factors, the smaller one first.")
    return factors
