"""What a person asks `volseg densify` for, checked before any file is opened."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch

from volseg.data.auditing import names_from
from volseg.errors import ResourceError
from volseg.io import as_colours, as_spacing

__all__ = ["METHODS", "Choices", "Method", "names_of"]

Method = Literal["network", "interpolate", "random-walker"]
METHODS: tuple[str, ...] = get_args(Method)

_MINUTES = {"cpu": 15.0, "gpu": 10.0}
_CONTINUED = 1 / 3  # of these, where there are weights to go on from


@dataclass(frozen=True)
class Choices:
    """Everything but the files; see :func:`volseg.densify` for what each means."""

    minutes: float | None = None
    unlabelled: int | None = None
    painted_only: bool = False
    finished: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    method: Method = "network"
    folds: int | None = None
    keep_painted: bool = True
    compare: bool = True
    suggest: bool | None = None
    device: str | None = None
    seed: int = 0
    force: bool = False
    spacing: str | Sequence[float] | None = None
    colours: str | Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.spacing is not None:
            as_spacing(self.spacing)
        if self.colours is not None:
            as_colours(self.colours)
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise ValueError(f"minutes = {self.minutes} is no time to learn: give a number above 0.")
        if self.method not in METHODS:
            raise ValueError(f"method = {self.method!r} is unknown. There are: {', '.join(METHODS)}.")
        if self.folds is not None and (self.folds < 0 or self.folds == 1):
            raise ValueError(
                f"folds = {self.folds}: slices are held out in two or more turns, or not at all (0), which "
                "leaves the result without a score."
            )
        if self.unlabelled is not None and self.painted_only:
            raise ValueError(
                f"unlabelled = {self.unlabelled} and painted_only say two different things about 0: choose "
                "one of them."
            )
        self.torch_device  # noqa: B018 - refuses what this machine does not have

    @property
    def torch_device(self) -> torch.device:
        """Where to compute."""
        if self.device is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise ValueError(f"device = {self.device!r} is none: use cpu, cuda or cuda:1.") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ResourceError(
                f"there is no device {self.device}: torch sees {torch.cuda.device_count()} GPU(s) here. "
                "Leave --device out, or install the torch build that fits the GPU."
            )
        return device

    def seconds(self, *, continued: bool) -> float:
        """The time to spend, all in all."""
        if self.minutes is not None:
            return 60 * self.minutes
        minutes = _MINUTES["gpu" if self.torch_device.type == "cuda" else "cpu"]
        return 60 * minutes * (_CONTINUED if continued else 1)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"names": {str(value): name for value, name in self.names.items()}}


def names_of(given: Mapping[Any, str] | Sequence[str] | None) -> dict[int, str]:
    """Class names by value, from ``{1: "tubule"}`` or ``["1=tubule"]``."""
    if isinstance(given, Mapping):
        given = [f"{value}={name}" for value, name in given.items()]
    names = names_from(given or ())
    repeated = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if repeated:
        raise ValueError(f"--names {repeated[0]}: two classes have this name. Give each its own.")
    return names
