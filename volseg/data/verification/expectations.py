"""What a bundle expects of the cases that it is to learn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volseg.errors import InputError
from volseg.instances import InstanceScheme
from volseg.labels import LabelScheme

__all__ = ["Expectations", "expectations"]


@dataclass(frozen=True)
class Expectations:
    """``None`` where nothing in particular is expected."""

    labels: LabelScheme | None = None
    in_channels: int | None = None
    spatial_dims: int | None = None


def expectations(config: Mapping[str, Any]) -> Expectations:
    """What the entries ``labels``, ``in_channels`` and ``network_def`` of a merged bundle say.

    Raises:
        InputError: if ``labels`` cannot be read without evaluating something.
    """
    scheme = _plain(config, config.get("labels"))
    labels: LabelScheme | None = None
    if isinstance(scheme, Mapping):
        arguments = {k: _plain(config, v) for k, v in scheme.items() if not k.startswith("_")}
        kind = InstanceScheme if scheme.get("_target_") == "volseg.InstanceScheme" else LabelScheme
        try:
            labels = kind(**arguments)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"The bundle's entry 'labels' cannot be read ({error}). Give names, values and unlabelled as "
                "plain text and numbers."
            ) from error
    network = config.get("network_def")
    dims = _plain(config, network.get("spatial_dims")) if isinstance(network, Mapping) else None
    channels = _plain(config, config.get("in_channels"))
    return Expectations(
        labels,
        channels if isinstance(channels, int) else None,
        dims if isinstance(dims, int) else None,
    )


def _plain(config: Mapping[str, Any], value: Any) -> Any:
    """The value that a chain of references leads to."""
    for _ in config:
        if not (isinstance(value, str) and value.startswith("@")):
            break
        found: Any = config
        for part in value[1:].replace("#", "::").split("::"):
            found = found.get(part) if isinstance(found, Mapping) else None
        value = found
    return value
