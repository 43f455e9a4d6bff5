"""What is unlabelled is understood or asked about: no guess turns unlabelled into a class without a word."""

import re

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from volseg.annotation import keep_slices, understand_paint
from volseg.annotation.audit import audit
from volseg.cli import main
from volseg.densification import densify
from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX
from volseg.phantom import brain_phantom, cells_phantom, membranes_phantom, xenopus_phantom

SHAPES = {"2d": (72, 64), "3d": (44, 40, 36)}
MARKS = (255, 254, -1, 65535, -9, 2**32 - 1)


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


def scene(shape, seed=0, noise=6, share=0.35):
    """An image, and its dense label: 0 background, 1 and 2 in touching blobs that fill a share of it."""
    random = np.random.default_rng(seed)
    what, which = (ndimage.gaussian_filter(random.normal(size=shape), 4) for _ in range(2))
    label = np.where(what > np.quantile(what, 1 - share), np.where(which > 0, 1, 2), 0).astype(np.uint8)
    image = ndimage.gaussian_filter(60.0 * label + 40, 0.7) + random.normal(0, noise, shape)
    return image[None].astype(np.float32), label


def sparse_label(dense, mark, counts=(1, 2, 2)):
    """A few slices of it, and ``mark`` everywhere else; of an image the middle."""
    if dense.ndim == 3:
        kept = keep_slices(dense, counts)
        return np.where(kept == IGNORE_INDEX, mark, dense.astype(np.int64))
    out = np.full(dense.shape, mark, np.int64)
    out[20:40, 15:45] = dense[20:40, 15:45]
    return out


def strokes(dense, slices=(6, 14, 22, 30), *, background=False, seed=0):
    """Lines of a brush within each class, as ilastik has people draw them: thin, and nowhere near borders."""
    out = np.zeros_like(dense)
    random = np.random.default_rng(seed)
    planes = [(dense, out)] if dense.ndim == 2 else [(dense[..., z], out[..., z]) for z in slices]
    for labels, drawn in planes:
        for value, paint in ((1, 1), (2, 2), *(((0, 3),) if background else ())):
            inside = ndimage.binary_erosion(labels == value, iterations=2)
            places = np.argwhere(inside)
            for _ in range(3 if len(places) else 0):
                x, y = places[random.integers(len(places))]
                line = np.zeros_like(inside)
                line[x, max(0, y - 12) : y + 13] = True
                regions, _ = ndimage.label(line & inside)
                drawn[regions == regions[x, y]] = paint
    return out


def found(raw, image=None, names=None, **options):
    paint = understand_paint(raw, names=names, classes=list(names) if names else None, **options)
    return paint, audit(raw.shape, (1.0,) * raw.ndim, paint, image, names)


def of_kind(findings, kind):
    return [finding for finding in findings if finding.kind == kind]


# --- a class that is called background


@pytest.mark.parametrize("name", ["background", "Background", " BG"])
def test_zero_beside_a_class_named_background_is_unlabelled(shape, name):
    image, dense = scene(shape)
    raw = np.where(strokes(dense, background=True) == 3, 5, strokes(dense))
    names = {5: name, 1: "cell", 2: "wall"}
    paint, findings = found(raw, image, names)
    assert (paint.rule, paint.values) == ("painted", (5, 1, 2))
    np.testing.assert_array_equal(paint.labels == IGNORE_INDEX, raw == 0)
    (said,) = of_kind(findings, "unlabelled_zero")
    assert "painted_only=True" in said.message
    assert f"names={{0: 'NAME', 5: {name!r}}}" in said.message


def test_a_named_zero_is_a_class_whatever_the_others_are_called(shape):
    _, dense = scene(shape)
    names = {0: "outside", 1: "background", 2: "cell"}
    paint, findings = found(dense, names=names)
    assert paint.values == (0, 1, 2)
    assert not of_kind(findings, "unlabelled_zero")


@pytest.mark.parametrize("options", [{"unlabelled": 2}, {"finished": True}])
def test_what_somebody_said_is_not_guessed_over(shape, options):
    _, dense = scene(shape)
    names = {1: "background"} if "unlabelled" in options else {1: "background", 2: "cell"}
    assert understand_paint(dense, names=names, **options).doubts == ()


# --- a value that fills what is unlabelled


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("counts", [(0, 0, 4), (1, 2, 2), (0, 3, 0)], ids=str)
def test_a_value_that_fills_all_but_full_slices_is_unlabelled_and_that_is_said(mark, counts):
    _, dense = scene(SHAPES["3d"])
    paint, findings = found(sparse_label(dense, mark, counts))
    assert (paint.rule, paint.unlabelled, paint.values) == ("unlabelled", mark, (0, 1, 2))
    kept = keep_slices(dense, counts)
    np.testing.assert_array_equal(paint.labels, kept)
    (said,) = of_kind(findings, "unlabelled_value")
    assert said.severity == "warning"
    assert f"unlabelled={mark}" in said.message
    assert f"({mark})" in paint.explain()


@pytest.mark.parametrize("mark", [255, 65535, -1])
def test_what_could_be_a_class_is_asked_about_or_said(mark):
    """A positive value of an image may be a class; no one chooses a negative one for a class."""
    _, dense = scene(SHAPES["2d"])
    raw = sparse_label(dense, mark)
    _, findings = found(raw)
    (said,) = of_kind(findings, "unlabelled_value")
    assert said.severity == ("error" if mark > 0 else "warning")
    assert f"unlabelled={mark}" in said.message
    assert f"names={{{mark}: 'NAME'}}" in said.message
    names = {0: "nothing", 1: "cell", 2: "wall", mark: "outside"}
    assert not of_kind(found(raw, names=names)[1], "unlabelled_value")
    assert not of_kind(found(raw, unlabelled=mark)[1], "unlabelled_value")
    known = {value: name for value, name in names.items() if value != mark}
    paint, findings = found(raw, names=known)  # named is everything else
    assert paint.unlabelled == mark
    assert not of_kind(findings, "unknown_value")


def test_a_few_negative_values_are_asked_about(shape):
    _, dense = scene(shape)
    raw = dense.astype(int)
    raw[:5] = -1
    assert [finding.severity for finding in of_kind(found(raw)[1], "unlabelled_value")] == ["error"]


@pytest.mark.parametrize("high", [255, 65535])
def test_a_mask_of_zero_and_the_largest_value_is_a_mask(shape, high):
    _, dense = scene(shape)
    for raw in (np.where(dense > 0, high, 0), np.where(dense > 0, 0, high)):
        paint, findings = found(raw)
        assert paint.values == (0, high)
        assert not of_kind(findings, "unlabelled_value")


@pytest.mark.parametrize("options", [{}, {"painted_only": True}, {"unlabelled": 7}])
def test_nan_is_unlabelled(shape, options):
    _, dense = scene(shape)
    raw = sparse_label(dense, np.nan, (0, 0, 4)) if dense.ndim == 3 else dense.astype(float)
    raw = raw.astype(float)
    if dense.ndim == 3:
        raw = np.where(keep_slices(dense, (0, 0, 4)) == IGNORE_INDEX, np.nan, dense)
    else:
        raw[:40] = np.nan
    paint = understand_paint(raw, **options)
    blank = np.isnan(raw) | ((raw == 0) if "painted_only" in options else False)
    np.testing.assert_array_equal(paint.labels == IGNORE_INDEX, blank)
    assert paint.values == ((1, 2) if "painted_only" in options else (0, 1, 2))


# --- strokes


@pytest.mark.parametrize("background", [True, False])
def test_strokes_of_several_classes_are_asked_about_with_both_options(shape, background):
    image, dense = scene(shape)
    _, findings = found(strokes(dense, background=background), image)
    (asked,) = of_kind(findings, "scribbles")
    assert asked.severity == "error"
    assert "painted_only=True" in asked.message
    assert "finished=True" in asked.message
    for options in ({"painted_only": True}, {"finished": True}):
        assert not of_kind(found(strokes(dense, background=background), image, **options)[1], "scribbles")


def bars(shape, share, wiggle, classes=2, slices=(6, 14, 22, 30)):
    """Five strokes from one side to the other, of classes in turn; together they cover that share."""
    rows, columns = shape[:2]
    middle = (np.arange(5) + 0.5)[:, None] / 5 * rows + wiggle * rows * np.sin(np.arange(columns) / 9)
    plane = np.zeros((rows, columns), np.uint8)
    for number, line in enumerate(middle):
        plane[abs(np.arange(rows)[:, None] + 0.5 - line) <= share * rows / 10] = 1 + number % classes
    if len(shape) == 2:
        return plane
    drawn = np.zeros(shape, np.uint8)
    drawn[..., slices] = plane[..., None]
    return drawn


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("wiggle", [0, 0.03], ids=["straight", "wiggly"])
@pytest.mark.parametrize("share", [0.1, 0.35, 0.6])
def test_bars_across_the_whole_picture_are_asked_about(shape, share, wiggle, classes):
    """However wide the brush: what lies between them is no background."""
    image, _ = scene(shape)
    raw = bars(shape, share, wiggle, classes)
    (asked,) = of_kind(found(raw, image)[1], "scribbles")
    assert asked.severity == "error"
    assert "painted_only=True" in asked.message
    assert "finished=True" in asked.message
    for options in ({"painted_only": True}, {"finished": True}):
        assert not of_kind(found(raw, image, **options)[1], "scribbles")


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.7])
@pytest.mark.parametrize("noise", [2, 6, 20])
def test_finished_slices_of_two_classes_are_not_asked_about_however_full(shape, share, noise):
    image, dense = scene(shape, noise=noise, share=share)
    raw = dense if dense.ndim == 2 else sparse_label(dense, 0, (0, 0, 4))
    assert not of_kind(found(raw, image)[1], "scribbles")


def inside(dense, how, slices=(6, 14, 22, 30), seed=0):
    """Paint in the middle of some objects only, as people draw it who think that the rest is left open."""
    out = np.zeros_like(dense)
    random = np.random.default_rng(seed)
    for labels, drawn in (
        [(dense, out)] if dense.ndim == 2 else [(dense[..., z], out[..., z]) for z in slices]
    ):
        deep = ndimage.binary_erosion(labels > 0, iterations=4)
        if how == "polygons":
            drawn[deep] = 1
        places = np.argwhere(deep)
        for _ in range(3 if len(places) and how != "polygons" else 0):
            x, y = places[random.integers(len(places))]
            if how == "dots":
                far = sum((i - j) ** 2 for i, j in zip(np.indices(deep.shape), (x, y), strict=True))
                drawn[far <= 5] = 1
            else:
                drawn[x : x + 2, max(0, y - 4) : y + 5] = 1
    return out


@pytest.mark.parametrize("how", ["lines", "dots", "polygons"])
@pytest.mark.parametrize("seed", range(3))
def test_paint_in_the_middle_of_objects_only_is_asked_about(shape, how, seed):
    """One class, no background stroke, no names: 0 would become background on all of these slices."""
    image, dense = scene(shape, seed)
    (asked,) = of_kind(found(inside(dense, how, seed=seed), image)[1], "scribbles")
    assert asked.severity == "error"
    assert "painted_only=True" in asked.message
    assert "finished=True" in asked.message


def small_objects(shape):
    """Spots of few voxels, far apart: finished slices are nearly empty."""
    label = np.zeros(shape, np.uint8)
    for place in np.argwhere(np.ones([n // 12 for n in shape])) * 12 + 6:
        label[tuple(slice(i - 1, i + 2) for i in place)] = 1
    random = np.random.default_rng(0)
    return (ndimage.gaussian_filter(70.0 * label, 0.6) + random.normal(0, 6, shape))[None], label


@pytest.mark.parametrize("objects", ["many", "small", "one"])
def test_finished_slices_of_one_class_are_not_asked_about(shape, objects):
    if objects == "small":
        image, dense = small_objects(shape)
    else:
        image, dense = scene(shape)
        regions, _ = ndimage.label(dense > 0)
        largest = 1 + np.argmax(np.bincount(regions.ravel())[1:])
        dense = (dense > 0 if objects == "many" else regions == largest).astype(np.uint8)
        image = ndimage.gaussian_filter(60.0 * dense + 40, 0.7)[None] + (image - image.mean()) * 0.1
    for counts in ((0, 0, 1), (0, 0, 4), (2, 2, 2)) if dense.ndim == 3 else ((),):
        raw = dense if dense.ndim == 2 else sparse_label(dense, 0, counts)
        assert not of_kind(found(raw, image)[1], "scribbles")


def thin_structures(shape, seed):
    """Vessels of two kinds, finished: as thin as strokes, but where the image has edges."""
    random = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for value in (1, 2):
        for _ in range(2):
            x, y = random.integers(6, 30, 2)
            label[x : x + 2, y : y + 28, ...] = value
    image = ndimage.gaussian_filter(80.0 * (label > 0), 0.6) + random.normal(0, 6, shape)
    return image[None].astype(np.float32), label


@pytest.mark.parametrize("seed", range(4))
def test_finished_slices_of_thin_structures_are_none(shape, seed):
    image, dense = thin_structures(shape, seed)
    raw = dense if dense.ndim == 2 else sparse_label(dense, 0, (0, 0, 4))
    assert not of_kind(found(raw, image)[1], "scribbles")


@pytest.mark.parametrize("kind", ["brain", "cells", "membranes", "kidney"])
@pytest.mark.parametrize("seed", range(3))
def test_finished_slices_of_the_phantoms_are_none(kind, seed):
    if kind == "kidney":
        image, truth = xenopus_phantom(seed, size=(48, 46, 36))
        raw = sparse_label(np.array([1, 2, 0], np.uint8)[truth], 0, (0, 0, 4))
    else:
        make = {"brain": brain_phantom, "cells": cells_phantom, "membranes": membranes_phantom}[kind]
        image, label = make(seed, size=(96, 96))[:2]
        raw = np.minimum(label, 1).astype(np.uint8)
    assert not of_kind(found(raw, image)[1], "scribbles")


# --- an image for a label


def test_an_image_is_no_label(shape):
    image, dense = scene(shape)
    grey = image[0].clip(1, 250).astype(np.uint8)
    _, findings = found(grey, dense[None])
    assert [finding.kind for finding in findings] == ["grey_values"]
    assert "give the image first and the painted file second" in findings[0].message
    assert {finding.kind for finding in found(grey, grey[None])[1]} == {"grey_values", "same_as_image"}


def test_more_grey_values_than_there_can_be_classes(shape):
    image, _ = scene(shape)
    grey = (image[0] * 40).clip(0).astype(np.int16)
    with pytest.raises(InputError, match="If image and label were exchanged: the image comes first"):
        understand_paint(grey)


def test_the_image_given_twice_is_told_even_with_few_values(shape):
    _, dense = scene(shape)
    assert of_kind(found(dense, dense[None])[1], "same_as_image")


def test_numbers_of_objects_are_no_grey_values(shape):
    """Hundreds of objects, some of them touching, some of one voxel."""
    _, dense = scene(shape)
    seeds = np.random.default_rng(0).permutation(dense.size)[:150].reshape(-1)
    where = np.zeros(dense.shape, int)
    where.flat[seeds] = np.arange(1, 151)
    nearest = ndimage.distance_transform_edt(where == 0, return_distances=False, return_indices=True)
    objects = where[tuple(nearest)]
    for raw in (objects, np.where(dense > 0, objects, 0), where):
        assert not [doubt for doubt in understand_paint(raw).doubts if doubt.kind == "grey_values"]


# --- too little


@pytest.mark.parametrize("slices", [(9,), (9, 27)])
def test_too_few_slices_for_a_score_are_told(slices):
    image, dense = scene(SHAPES["3d"])
    raw = np.zeros_like(dense)
    raw[..., list(slices)] = dense[..., list(slices)]
    (warned,) = of_kind(found(raw, image)[1], "few_slices")
    assert "there will be no score" in warned.message
    assert warned.slices == tuple(("z", z) for z in slices)
    raw[..., 34] = dense[..., 34]
    assert bool(of_kind(found(raw, image)[1], "few_slices")) == (len(slices) == 1)


# --- through the doors


@pytest.mark.usefixtures("clean_process")
def test_the_command_line_asks_and_takes_either_answer(tmp_path, capsys):
    image, dense = scene(SHAPES["3d"])
    paths = [str(tmp_path / name) for name in ("image.nii.gz", "paint.nii.gz")]
    nib.save(nib.Nifti1Image(image[0], np.eye(4)), paths[0])
    nib.save(nib.Nifti1Image(strokes(dense, background=True), np.eye(4)), paths[1])
    assert main(["audit", *paths]) == 3
    assert "error (scribbles)" in capsys.readouterr().out
    assert main(["audit", *paths, "--painted-only"]) == 0
    assert "xy: 6, 14, 22, 30 · xz: none" in capsys.readouterr().out
    main(["audit", *paths, "--finished"])
    assert "scribbles" not in capsys.readouterr().out
    assert main(["densify", *paths, "-o", str(tmp_path / "out"), "--method", "random-walker"]) == 3
    said = capsys.readouterr().err
    assert "--painted-only" in said
    assert said.count("looks like strokes") == 1


@pytest.mark.slow
def test_densify_in_python_understands_the_same(shape):
    image, dense = scene(shape)
    raw = np.where(strokes(dense, background=True) == 3, 5, strokes(dense))
    settings = {"method": "random-walker", "folds": 0, "compare": False, "suggest_next": False}
    done = densify(image, raw, names={5: "background", 1: "cell", 2: "wall"}, **settings)
    assert set(np.unique(done.labels)) <= {1, 2, 5}
    with pytest.raises(InputError, match="finished=True"):
        densify(image, strokes(dense, background=True), **settings)


def test_finished_contradicts_another_meaning_of_zero(shape):
    _, dense = scene(shape)
    for options in ({"painted_only": True}, {"unlabelled": 3}):
        with pytest.raises(ValueError, match=r"finished=True and .* say two different things"):
            understand_paint(dense, finished=True, **options)


@pytest.mark.usefixtures("clean_process")
@pytest.mark.parametrize("options", [[], ["--painted-only"], ["--unlabelled", "7"]], ids=str)
def test_nan_in_a_file_is_unlabelled_even_if_it_is_little(options, tmp_path, capsys):
    image, dense = scene(SHAPES["3d"])
    raw = dense.astype(np.float32)
    raw[..., :6] = np.nan
    paths = [str(tmp_path / name) for name in ("image.nii.gz", "paint.nii.gz")]
    nib.save(nib.Nifti1Image(image[0], np.eye(4)), paths[0])
    nib.save(nib.Nifti1Image(raw, np.eye(4)), paths[1])
    main(["audit", *paths, *options])
    said = capsys.readouterr().out
    assert "255" not in said.splitlines()[0]
    assert re.search(r"[1-9][0-9]\.[0-9]% of the voxels", said)
