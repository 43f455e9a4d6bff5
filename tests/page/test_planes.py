"""Grey values as the page gets them: whatever an image holds, they are finite numbers, and can be shown."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from volseg.page.planes import Pictures
from volseg.session import Session

SIZES = ((14, 11), (12, 10, 8))


@pytest.fixture(params=SIZES, ids=["2d", "3d"])
def grey(request):
    return np.random.default_rng(0).normal(0, 1, (1, *request.param))


def half(image, value):
    out = image.copy()
    out[:, : image.shape[1] // 2] = value
    return out


ODD = {
    "nan": lambda g: half(g, np.nan),
    "infinite": lambda g: half(g, np.inf),
    "minus infinite": lambda g: half(g, -np.inf),
    "both": lambda g: half(g, np.inf) - np.where(g < 0, np.inf, 0).astype(g.dtype) * 0.5,
    "nothing else": lambda g: np.full_like(g, np.nan),
    "largest": lambda g: np.where(g > 0, 1e308, -1e308),
    "constant": lambda g: np.full_like(g, 1e20),
    "zero": np.zeros_like,
    "smallest": lambda g: g * 1e-310,
    "close": lambda g: 1e20 + np.round(g) * 16384,
    "truth": lambda g: g > 0,
    "float16": lambda g: g.astype(np.float16),
    "long": lambda g: (g * 1e18).astype(np.int64),
}


@pytest.mark.parametrize("odd", ODD)
def test_every_image_can_be_shown(grey, odd):
    with np.errstate(all="ignore"):
        image = ODD[odd](grey)
    session = Session(image)
    pictures = Pictures(session)
    channel = pictures.channels[0]
    json.dumps(asdict(channel), allow_nan=False)
    assert channel.low < channel.high
    assert channel.window[0] < channel.window[1]
    size = 1 if odd == "truth" else 2
    assert len(pictures.image(2, 0, 0)) == size * np.prod(session.size[:2])


def test_finite_values_are_shown_as_they_are_beside_others(grey):
    image = half(grey, np.nan)
    pictures = Pictures(Session(image))
    known = pictures.channels[0]
    found = np.frombuffer(pictures.image(2, 0, 0), "<u2").reshape(grey.shape[2:0:-1]).T
    shown = known.low + found / 65535 * (known.high - known.low)
    plane = image[0, ..., 0] if grey.ndim == 4 else image[0]
    finite = np.isfinite(plane)
    np.testing.assert_allclose(shown[finite], plane[finite], atol=(known.high - known.low) / 60000)
    assert (found[~finite] == 0).all()


def test_of_true_and_false_there_is_black_and_white(grey):
    pictures = Pictures(Session(grey > 0))
    assert asdict(pictures.channels[0])["range"] == (0, 1)
    assert set(pictures.image(2, 0, 0)) == {0, 1}


@pytest.mark.parametrize("dtype", ["uint16", "int16", ">u2", ">i2", "int8"])
def test_whole_numbers_are_shown_as_they_are(grey, dtype):
    info = np.iinfo(dtype)
    image = np.random.default_rng(0).integers(info.min, info.max, grey.shape, endpoint=True).astype(dtype)
    pictures = Pictures(Session(image))
    known = pictures.channels[0]
    found = np.frombuffer(pictures.image(2, 0, 0), "<u2").reshape(grey.shape[2:0:-1]).T
    shown = np.rint(known.low + found / 65535 * (known.high - known.low))
    np.testing.assert_array_equal(shown, image[0, ..., 0] if grey.ndim == 4 else image[0])
