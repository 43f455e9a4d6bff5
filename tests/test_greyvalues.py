"""Grey values of any size: what an image is normalised to, and what is said of values that are none."""

import numpy as np
import pytest
import torch
from monai.transforms import NormalizeIntensityd

from volseg import NormalizeGreyValuesd, OverlapTileInferer, UNet, Volume, densify
from volseg.annotation import understand_paint
from volseg.data import find_cases
from volseg.data.auditing import audit_all
from volseg.data.loading import load_case
from volseg.data.verification import odd_values
from volseg.errors import InputError
from volseg.io import write_volume
from volseg.io.blocks import open_blocks
from volseg.labels import LabelScheme
from volseg.pixelwise import Task, bank_of
from volseg.report.embedding import contrast, grey
from volseg.streaming import source as streaming

ROBUST = NormalizeGreyValuesd(keys="image")
SIZES = {"2d": (40, 36), "3d": (24, 22, 16)}


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def image(request):
    """An object on a noisy background, ``(1, *spatial)`` float32."""
    size = request.param
    array = np.random.default_rng(0).normal(0, 0.5, size).astype(np.float32)
    array[tuple(slice(n // 4, n // 2) for n in size)] += 2
    return array[None]


def robust(image):
    return ROBUST({"image": image})["image"]


def spoilt(image, where, value):
    out = image.copy()
    out[(0, *where)] = value
    return out


def at(image, kind):
    """An index of one voxel, or of all along the last axis or the last two."""
    left = image.ndim - 1 - {"voxel": 0, "line": 1, "plane": 2}[kind]
    return (3,) * left


def test_an_ordinary_image_is_normalised_as_monai_does(image):
    expected = NormalizeIntensityd(keys="image", channel_wise=True)({"image": torch.from_numpy(image)})
    torch.testing.assert_close(robust(torch.from_numpy(image)), torch.as_tensor(expected["image"]))


@pytest.mark.parametrize(("factor", "offset"), [(1e-8, 0), (1e-200, 0), (1e12, 0), (1e250, 0), (1, 1e9)])
def test_neither_unit_nor_offset_matters(image, factor, offset):
    other = image.astype(np.float64) * factor + offset
    np.testing.assert_allclose(robust(other), robust(image), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64, np.float64])
def test_the_number_format_does_not_matter(image, dtype):
    counts = np.round(image * 20 + 100).clip(0, 255)
    np.testing.assert_allclose(robust(counts.astype(dtype)), robust(counts), atol=1e-6)


@pytest.mark.parametrize("value", [1e6, -1e6, 1e30])
@pytest.mark.parametrize(
    ("image", "kind"),
    [(size, kind) for size in SIZES.values() for kind in ("voxel", "line", "plane")[: len(size)]],
    indirect=["image"],
)
def test_what_is_hot_or_dead_changes_nothing_else(image, kind, value):
    where = at(image, kind)
    odd = robust(spoilt(image, where, value))
    others = np.ones(image.shape, bool)
    others[(0, *where)] = False
    np.testing.assert_allclose(odd[others], robust(image)[others], atol=0.1)
    assert abs(odd[~others]).max() < 60


@pytest.mark.parametrize("value", [-3.4028235e38, 3.4028235e38, -32768, 65535, -9999])
def test_a_fill_value_counts_for_nothing(image, value):
    where = (slice(0, image.shape[1] // 3),)
    odd, alone = robust(spoilt(image, where, value)), robust(image[:, image.shape[1] // 3 :])
    np.testing.assert_allclose(odd[:, image.shape[1] // 3 :], alone, atol=0.02)
    assert abs(odd).max() < 12


def test_two_fill_values_count_for_nothing(image):
    odd = spoilt(spoilt(image, (slice(0, 4),), -32768), (slice(-3, None),), 65535)
    np.testing.assert_allclose(robust(odd)[:, 4:-3], robust(image[:, 4:-3]), atol=0.02)


def test_values_stay_in_order():
    values = np.random.default_rng(0).standard_cauchy((1, 30, 40)).astype(np.float32)
    order = np.argsort(values.reshape(-1))
    found = robust(values).reshape(-1)[order]
    assert (np.diff(found) >= 0).all()
    assert len(np.unique(found)) > 0.99 * found.size


def test_rare_bright_spots_are_neither_cut_off_nor_flattened():
    image = np.random.default_rng(0).normal(100, 2, (1, 128, 128))
    shape = np.exp(-((np.indices((9, 9)) - 4) ** 2).sum(0) / 8)
    image[0, 50:59, 60:69] += 1000 * shape
    found = robust(image)[0, 50:59, 60:69]
    assert found[4, 4] > 10
    assert found[4, 4] - found[4, 6] > 1  # at which it is 0.6 times as bright


def test_an_image_without_contrast_is_zero():
    assert not robust(np.full((1, 9, 8), 7.0)).any()


def test_what_is_no_number_lies_at_the_lower_limit(image):
    odd = robust(spoilt(image, (slice(0, 4),), np.nan))
    assert np.isfinite(odd).all()
    assert (odd[:, :4] == odd.min()).all()


def test_values_near_the_largest_that_there_are_stay_numbers(image):
    found = robust(image.astype(np.float64) / np.abs(image).max() * np.finfo(np.float64).max)
    assert np.isfinite(found).all()
    assert found[0].flatten()[image.argmax()] > found[0].flatten()[image.argmin()]


def test_channels_do_not_matter_to_one_another(image):
    both = np.concatenate([image, image * 1e-8])
    np.testing.assert_allclose(robust(both)[0], robust(both)[1], atol=1e-5)


def test_block_by_block_is_as_in_memory(tmp_path, image, monkeypatch):
    monkeypatch.setattr("volseg.greyvalues._AT_ONCE", 200)
    monkeypatch.setattr("volseg.greyvalues._SAMPLED", 700)
    odd = spoilt(spoilt(image, at(image, "voxel"), 1e6), (slice(0, 2),), -32768)
    path = tmp_path / "image.tif"
    write_volume(path, odd, Volume(odd, np.eye(odd.ndim)))
    source = open_blocks(path)
    found = streaming.Blocks(source, streaming.normalisation(source, ROBUST))
    index = tuple(slice(0, n) for n in source.shape)
    np.testing.assert_allclose(found[index], robust(odd), atol=1e-6)


SAID = {
    "fill": (lambda a: spoilt(a, (slice(0, 3),), -3.4028235e38), r"voxels are -3.40282e\+38, far from"),
    "hot": (lambda a: spoilt(a, at(a, "voxel"), 1e6), r"1 voxel\(s\) stand out .* 1e\+06 at voxel 3, 3"),
    "dead": (lambda a: spoilt(a + 1000, at(a, "voxel"), 0), r"1 voxel\(s\) stand out .* 0 at voxel 3, 3"),
    "line": (lambda a: spoilt(a, at(a, "line"), 1e6), r"voxel\(s\) stand out|voxels are 1e\+06, far from"),
    "one": (lambda a: np.full_like(a, 7), "it is 7 everywhere.*nothing can be learnt"),
    "large": (lambda a: a * 1e250, "too large for 32-bit floating point"),
}


@pytest.mark.parametrize("kind", SAID)
def test_odd_values_are_named(image, kind):
    change, message = SAID[kind]
    found = list(odd_values(change(image.astype(np.float64)), "a.tif"))
    assert len(found) == 1
    with pytest.raises(InputError, match=message):
        raise InputError(found[0].message)


def test_nothing_is_said_of_ordinary_values(image):
    counts = np.round(image * 20 + 100).clip(0, 255).astype(np.uint8)
    saturated = np.minimum(counts, 130)
    spots = np.zeros_like(counts)
    spots[(0, *(slice(5, 7),) * (image.ndim - 1))] = 200
    for each in (image, image * 1e-8, counts, saturated, spots, counts > 110):
        assert list(odd_values(each, "a.tif")) == []


def test_the_learner_sees_the_same_of_an_image_in_small_units(image):
    banks = [bank_of(Task(each, (1.0,) * (image.ndim - 1), 2)) for each in (image, image * np.float32(1e-8))]
    for plain, small in zip(banks[0].maps, banks[1].maps, strict=True):
        torch.testing.assert_close(plain, small, atol=2e-3, rtol=2e-3)


def test_an_image_of_nan_given_to_densify_is_refused():
    image = np.full((1, 8, 8, 8), np.nan, np.float32)
    with pytest.raises(InputError, match="the image holds NaN or infinite voxels"):
        densify(image, np.zeros((8, 8, 8), np.uint8))


def case_of(folder, image):
    for part, array in (("images", image), ("labels", np.zeros((1, *image.shape[1:]), np.uint8))):
        (folder / part).mkdir()
        write_volume(folder / part / "a.nii", array, Volume(array, np.eye(array.ndim)))
    return find_cases(folder)[0]


def test_values_that_float32_cannot_hold_are_normalised_or_refused(tmp_path, image):
    case = case_of(tmp_path, image.astype(np.float64) * 1e300)
    scheme = LabelScheme(["rest"], [0], 255)
    found = load_case(case, labels=scheme, in_channels=1, preprocessing=ROBUST)["image"]
    np.testing.assert_allclose(found, robust(image), atol=1e-5)
    with pytest.raises(InputError, match=r"a.nii: its values, .*e\+300, are too large"):
        load_case(case, labels=scheme, in_channels=1)


def test_an_inferer_does_not_call_large_numbers_nan():
    network = UNet(2, 1, 2, channels=[[2, 2]], norm=None)
    with pytest.raises(InputError, match="holds 576 values there that are too large for float32"):
        OverlapTileInferer()(torch.full((1, 1, 20, 20), 1e300, dtype=torch.float64), network)


@pytest.mark.filterwarnings("error")
def test_audit_and_report_look_at_the_picture_not_at_the_fill_value(image):
    filled = spoilt(image, (slice(0, 4),), -3.4028235e38)
    assert contrast(filled[0])[0] > -5
    shown = grey(filled[0], *contrast(filled[0]))
    assert (shown[:4] == 0).all()
    assert shown[4:].std() > 20
    labels = (image[0] > 1).astype(np.uint8)
    volume = Volume(filled, np.eye(filled.ndim))
    found = audit_all(volume, understand_paint(labels, classes=[0, 1]), {})
    assert [finding.message for finding in found if finding.kind == "values"]


def test_of_an_image_of_one_value_nothing_is_learnt(image, tmp_path):
    labels = np.zeros(image.shape[1:], np.uint8)
    labels[(slice(3, 9),) * labels.ndim] = 1
    flat = (np.clip(image, -3, 3) + 1e9).astype(np.float32)  # which leaves one number
    with pytest.raises(InputError, match="it is 1e[+]09 everywhere"):
        densify(flat[0], labels, finished=True, folds=0)
