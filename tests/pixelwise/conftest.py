"""What the tests of the per-voxel learner share."""

import itertools
from types import SimpleNamespace

import pytest

from volseg.pixelwise import features, members, model


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock takes a hundredth of a second, so that a second is a hundred steps."""
    monkeypatch.setattr(members, "_BATCH", 512)
    ticks = itertools.count()
    for module in (model, features, members):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 100))
