"""Which bundle is running: handed over by whoever runs it, and kept with the results.

MONAI gives components the parts of a configuration, never the whole, and no expression of a bundle can name
the whole (a reference to everything refers to itself). The workflow that runs it knows: its ``run`` is
wrapped, once, so that it says what it runs for as long as it runs.
"""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from monai.bundle import ConfigWorkflow

__all__ = ["announce_bundles", "running_bundle", "while_running"]

_running: ContextVar[dict[str, Any] | None] = ContextVar("volseg_running_bundle", default=None)


def running_bundle() -> dict[str, Any] | None:
    """The configuration that was handed over, overlays and overrides applied; ``None`` outside a bundle."""
    return _running.get()


@contextmanager
def while_running(config: Mapping[str, Any]) -> Iterator[None]:
    """Within, trainings keep this as their ``config.json``; what MONAI calls ``_meta_`` aside."""
    token = _running.set({key: value for key, value in config.items() if key != "_meta_"})
    try:
        yield
    finally:
        _running.reset(token)


def announce_bundles() -> None:
    """From now on each bundle that MONAI's workflow runs is handed over while it runs."""
    plain = ConfigWorkflow.run
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def run(workflow: ConfigWorkflow) -> Any:
        with while_running(workflow.parser.get()):
            return plain(workflow)

    ConfigWorkflow.run = run
