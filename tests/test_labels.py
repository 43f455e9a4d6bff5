"""The numbers in label files become class indices and come back, and nothing is guessed on the way."""

import dataclasses
import pickle

import numpy as np
import pytest

from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX, LabelScheme

KIDNEY = LabelScheme(["inside", "tubule", "background"], [0, 1, 2], unlabelled=3)
SCHEMES = [
    KIDNEY,
    LabelScheme(["background", "cell"], [0, 255], unlabelled=128),
    LabelScheme(["background", "cell"], [0, 255]),
    LabelScheme(["a", "b", "c"], [-1, 300, 7], unlabelled=-1000),
    LabelScheme(["a", "b"], [5, 2**40], unlabelled=2**63 - 1),
    LabelScheme(["a", "b"], [0, 2**64 - 1], unlabelled=2**33),
    LabelScheme([f"class {i}" for i in range(254)], range(1, 255), unlabelled=0),
]


@pytest.fixture(params=[(7, 5), (4, 6, 5), (1, 4, 6, 5)], ids=["2d", "3d", "channel"])
def shape(request):
    return request.param


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{len(s)}-{s.dtype}")
def test_decoding_an_encoded_file_gives_the_file_back(scheme, shape):
    known = [*scheme.values, *([] if scheme.unlabelled is None else [scheme.unlabelled])]
    file = np.random.default_rng(0).choice(np.array(known, scheme.dtype), size=shape)
    indices = scheme.encode(file)
    assert indices.dtype == np.uint8
    assert indices.shape == shape
    for index, value in enumerate(scheme.values):
        np.testing.assert_array_equal(indices == index, file == value)
    np.testing.assert_array_equal(indices == IGNORE_INDEX, file == scheme.unlabelled)
    decoded = scheme.decode(indices)
    assert decoded.dtype == scheme.dtype
    np.testing.assert_array_equal(decoded, file)


@pytest.mark.parametrize("dtype", [">i2", "<u4", ">u8", "i8", "f4", "f8", "u1", "i1"])
def test_the_type_of_the_file_does_not_matter(dtype):
    file = np.array([[0, 1], [2, 3]], dtype)
    np.testing.assert_array_equal(KIDNEY.encode(file), [[0, 1], [2, IGNORE_INDEX]])
    np.testing.assert_array_equal(KIDNEY.encode(file[::-1, ::-1]), [[IGNORE_INDEX, 2], [1, 0]])


def test_a_boolean_mask_is_zero_and_one():
    scheme = LabelScheme(["off", "on"], [0, 1])
    np.testing.assert_array_equal(scheme.encode(np.array([True, False])), [1, 0])
    np.testing.assert_array_equal(scheme.decode(np.array([True, False])), [1, 0])


@pytest.mark.parametrize(
    "values",
    [(-128, 0, 127), (-32768, 5, 32767), (-(2**31), 0, 2**31 - 1), (5, 9, 255), (60000, 60001, 65535)],
)
def test_offsets_of_a_value_range_do_not_overflow(values):
    scheme = LabelScheme(["a", "b", "c"], values)
    np.testing.assert_array_equal(scheme.encode(np.array(values, scheme.dtype)), [0, 1, 2])


def test_an_empty_array_is_encoded_to_an_empty_array():
    assert KIDNEY.encode(np.zeros((0, 3), np.int16)).shape == (0, 3)
    assert KIDNEY.decode(np.zeros((0, 3), np.uint8)).shape == (0, 3)


def test_an_almost_integer_float_is_rounded_not_cut():
    np.testing.assert_array_equal(KIDNEY.encode(np.array([1.9999997, 0.0002, -0.0002])), [2, 0, 0])


@pytest.mark.parametrize("bad", [0.5, 1.002, np.nan, np.inf])
def test_a_fraction_or_nan_is_refused(bad):
    file = np.ones((2, 3))
    file[1, 2] = bad
    with pytest.raises(InputError, match=r"mask\.tif holds 1 \w+ label \(the first at voxel 1, 2\)"):
        KIDNEY.encode(file, "mask.tif")


def test_a_float_too_large_to_be_exact_is_refused():
    with pytest.raises(InputError, match=r"2\*\*53 or more"):
        KIDNEY.encode(np.array([0.0, 2.0**60]))


def test_text_and_complex_numbers_are_refused():
    for file in (np.array(["a"]), np.array([1j])):
        with pytest.raises(InputError, match=r"The label array has values of type .*; labels are integers"):
            KIDNEY.encode(file)


@pytest.mark.parametrize("bad", [4, 254, 255, 70000, 2**40], ids=str)
def test_an_unknown_value_names_file_value_count_and_place(bad):
    file = np.zeros((2, 3, 2), np.int64)
    file[1, 2, 0] = file[1, 2, 1] = bad
    with pytest.raises(InputError) as caught:
        KIDNEY.encode(file, "label.nii.gz")
    message = str(caught.value)
    assert message.startswith(f"label.nii.gz holds {bad} (2 voxels), the first at voxel (1, 2, 0)")
    assert "0 = inside, 1 = tubule, 2 = background, 3 = unlabelled" in message
    assert "Correct the file" in message


def test_an_unknown_value_suggests_unlabelled_where_the_scheme_has_none():
    scheme = LabelScheme(["a", "b"], [0, 1])
    with pytest.raises(InputError, match=r"The label array holds 9 \(1 voxel\).*unlabelled=9"):
        scheme.encode(np.array([0, 1, 9]))


def test_of_many_unknown_values_five_are_shown():
    with pytest.raises(InputError, match="and 15 more values"):
        KIDNEY.encode(np.arange(4, 24))
    with pytest.raises(InputError, match=r"and 1 more value[^s]"):
        KIDNEY.encode(np.arange(4, 10))


def test_decoding_unlabelled_needs_a_value_for_it():
    scheme = LabelScheme(["a", "b"], [0, 1])
    with pytest.raises(ValueError, match=r"indices hold 255 \(unlabelled\).*unlabelled=255"):
        scheme.decode(np.array([0, 255], np.uint8))


@pytest.mark.parametrize("bad", [-1, 3, 254, 256])
def test_an_index_that_is_no_class_is_refused(bad):
    with pytest.raises(ValueError, match=f"indices hold {bad}; class indices are 0 to 2"):
        KIDNEY.decode(np.array([0, 255, bad]))


def test_indices_are_integers():
    with pytest.raises(ValueError, match="indices are of type float64"):
        KIDNEY.decode(np.array([0.0, 1.0]))


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        ([0, 255], np.uint8),
        ([-1, 127], np.int8),
        ([-1, 128], np.int16),
        ([0, 256], np.uint16),
        ([0, 2**16], np.uint32),
        ([-1, 2**31], np.int64),
        ([0, 2**64 - 1], np.uint64),
    ],
)
def test_files_get_the_smallest_type(numbers, dtype):
    assert LabelScheme(["a", "b"], numbers).dtype == dtype
    assert LabelScheme(["a"], numbers[:1], unlabelled=numbers[1]).decode(np.array([255])).dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], [0]), "There are 2 names but 1 values"),
        (([], []), "There are 0 classes; between 1 and 254"),
        (([str(i) for i in range(255)], range(255)), "There are 255 classes; between 1 and 254"),
        ((["a", "a"], [0, 1]), "names holds 'a' more than once"),
        ((["a", "b"], [4, 4]), "values holds 4 more than once"),
        ((["a", " "], [0, 1]), "names holds ' ': every class needs a name"),
        ((["a", 5], [0, 1]), "names holds 5: every class needs a name"),
        (("ab", [0, 1]), "names = 'ab' is one string"),
        ((["a", "b"], [0, 1.5]), "values holds 1.5: what label files hold are integers"),
        ((["a", "b"], [0, True]), "values holds True: what label files hold are integers"),
        ((["a", "b"], [0, 1], "3"), "unlabelled holds '3': what label files hold are integers"),
        ((["a", "b"], [0, 1], 1), "unlabelled = 1 is also the value of the class 'b'"),
        ((["a", "b"], [-1, 2**64 - 1]), "fit no 64-bit integer type"),
    ],
)
def test_an_impossible_scheme_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelScheme(*arguments)


def test_a_scheme_is_a_value():
    assert len(KIDNEY) == 3
    assert LabelScheme(("inside", "tubule", "background"), (0, 1, 2), 3) == KIDNEY
    assert hash(KIDNEY) == hash(pickle.loads(pickle.dumps(KIDNEY)))
    assert LabelScheme(["a"], [np.int16(4)]).values == (4,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        KIDNEY.unlabelled = 9
