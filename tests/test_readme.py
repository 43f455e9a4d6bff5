"""What the README shows to type runs as it stands."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

import volseg

README = Path(__file__).resolve().parent.parent / "README.md"


def snippet(after: str) -> str:
    """The first block of Python behind a sentence."""
    text = README.read_text(encoding="utf-8").partition(after)[2]
    return text.partition("```python\n")[2].partition("```")[0]


@pytest.fixture
def image(tmp_path, monkeypatch):
    """``image.tif`` in the current folder: a bright bar on dark ground, 72 x 80 x 30 voxels."""
    monkeypatch.chdir(tmp_path)
    grey = np.random.default_rng(0).integers(0, 30, (30, 80, 72), dtype=np.uint8)
    grey[:, 30:70, 30:64] += 120
    tifffile.imwrite("image.tif", grey, imagej=True, metadata={"axes": "ZYX"})


@pytest.mark.slow
@pytest.mark.usefixtures("image")
def test_the_painting_loop_of_the_readme_runs_and_its_stroke_is_where_the_comment_says():
    code = snippet("The loop without a page:").replace("minutes=5", "minutes=0.02")
    place: dict = {}
    exec(code, place)
    session = place["session"]
    plane = session.paint_slice(axis=2, index=24)
    assert plane.shape == (72, 80)
    assert plane[40, 60] == plane[55, 62] == 1  # (x, y), in voxels
    assert plane[5, 5] == 0
    assert place["values"].shape == (72, 80)
    assert volseg.read_volume("segmentation.seg.nrrd").spatial_shape == (72, 80, 30)
