"""Through which rooms paint goes before anything is learnt from it."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

import volseg
from volseg.annotation import Paint
from volseg.cli import main
from volseg.io import Volume, write_volume
from volseg.pixelwise import PixelwiseLearner

ROOT = str(Path(volseg.__file__).parent)
SIZE = (20, 18, 12)


class _LearningError(Exception):
    """Stands where learning would begin."""


def carries_paint(value: object, path: Path) -> bool:
    """Whether an argument is the label file, its name, or its voxels."""
    if isinstance(value, str | Path):
        return str(value) == str(path)
    array = value.array if isinstance(value, Volume) else value
    if isinstance(array, np.ndarray):
        return array.dtype == np.uint8 and array.shape in (SIZE, (1, *SIZE))
    return isinstance(value, Paint)


@pytest.mark.slow
@pytest.mark.usefixtures("clean_process")
def test_paint_passes_seven_rooms_before_learning_begins(tmp_path, monkeypatch):
    truth = (np.indices(SIZE).sum(0) > 24).astype(np.uint8)
    image = (100 * truth + np.random.default_rng(0).normal(0, 10, SIZE)).astype(np.float32)
    like = Volume(image[None], np.eye(4), "um")
    painted = np.zeros(SIZE, np.uint8)
    painted[..., [2, 6, 10]] = truth[..., [2, 6, 10]] + 1
    paint = tmp_path / "paint.nii"
    write_volume(tmp_path / "image.nii", image, like)
    write_volume(paint, painted, like)
    rooms = []

    def follow(frame, event, _):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ROOT):
            return
        room = Path(code.co_filename[len(ROOT) + 1 :]).with_suffix("").parts[0]
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        arguments = [frame.f_locals.get(name) for name in names]
        arguments += [each for one in arguments if isinstance(one, Namespace) for each in vars(one).values()]
        if room not in rooms and any(carries_paint(each, paint) for each in arguments):
            rooms.append(room)

    def learn(*_, **__):
        sys.setprofile(None)
        raise _LearningError

    monkeypatch.setattr(PixelwiseLearner, "learn", learn)
    words = ["--debug", "densify", str(tmp_path / "image.nii"), str(paint), "-o", str(tmp_path / "out")]
    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        with pytest.raises(_LearningError):
            main(words)
    finally:
        sys.setprofile(before)
    assert rooms == ["cli", "densification", "io", "labels", "data", "annotation", "learners"]
