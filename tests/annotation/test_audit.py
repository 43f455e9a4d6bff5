"""Every planted defect is found, at its slice and voxel, and nothing is found in clean annotation."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from volseg.annotation import even_positions, keep_slices, understand_paint
from volseg.annotation.audit import audit
from volseg.cli import main
from volseg.data.auditing import lines, look_at, names_from
from volseg.io import Volume, read_volume, write_volume
from volseg.labels import IGNORE_INDEX
from volseg.phantom import brain_phantom, cells_phantom, membranes_phantom, xenopus_phantom

SHAPES = {"2d": (80, 72), "3d": (54, 48, 40)}
SLICES = {"2d": (), "3d": ((9, 27, 45), (8, 24, 40), (5, 15, 25, 35))}
AXES = [("2d", 0), ("2d", 1), ("3d", 0), ("3d", 1), ("3d", 2)]
ISOTROPIC = {2: (1.0, 1.0), 3: (1.0, 1.0, 1.0)}


def blobs(seed, shape):
    """An image and its dense label: 0 background, 1 and 2 in solid touching blobs."""
    random = np.random.default_rng(seed)
    what, which = (ndimage.gaussian_filter(random.normal(size=shape), 4) for _ in range(2))
    label = np.where(what > np.quantile(what, 0.65), np.where(which > 0, 1, 2), 0).astype(np.uint8)
    image = ndimage.gaussian_filter(60.0 * label, 0.7) + random.normal(0, 6, shape)
    return image[None].astype(np.float32), label


def on_any(shape, slices):
    """Which voxels lie on a slice; all of an image."""
    on = np.full(shape, not slices)
    for place, indices in zip(np.ogrid[tuple(map(slice, shape))], slices, strict=False):
        on |= np.isin(place, list(indices))
    return on


def found_in(scene, raw=None, *, image=None, names=None, spacing=None, **options):
    raw = scene.raw if raw is None else raw
    image = scene.image if image is None else image
    paint = understand_paint(raw, **options)
    return audit(raw.shape, spacing or ISOTROPIC[raw.ndim], paint, image, names)


def kinds(findings):
    return [finding.kind for finding in findings]


@pytest.fixture(params=SHAPES, ids=str)
def scene(request):
    """Clean paint, and a plane of it to plant defects on: xy slice 15, or all of the image."""
    return make_scene(request.param)


@pytest.fixture
def volume():
    return make_scene("3d")


def make_scene(kind, seed=19):
    image, dense = blobs(seed, SHAPES[kind])
    slices = SLICES[kind]
    on = on_any(dense.shape, slices)
    raw = np.where(on, dense, 0).astype(np.uint8)
    three = dense.ndim == 3
    return SimpleNamespace(
        image=image, dense=dense, slices=slices, on=on, raw=raw,
        plane=raw[..., 15] if three else raw,  # a view
        crossed=on_any(dense.shape[:2], slices[:2]) if three else np.zeros(dense.shape, bool),
        voxel=(lambda place: (*map(int, place), 15)) if three else (lambda place: tuple(map(int, place))),
        here=(("z", 15),) if three else (),
    )  # fmt: skip


def inside(mask, depth):
    """Voxels of a plane at least that deep in a mask."""
    return np.argwhere(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] >= depth)


def apart(places, distance, n):
    """``n`` of the places that keep a distance from each other."""
    kept = []
    for place in places:
        if all(np.abs(place - other).max() >= distance for other in kept):
            kept.append(place)
    assert len(kept) >= n
    return kept[:n]


# --- clean annotation


def clean_cases():
    for seed in range(4):
        for counts in ((1, 1, 1), (2, 2, 3), (5, 5, 3)):
            yield pytest.param("blobs", seed, counts, id=f"blobs-{seed}-{counts}")
    for seed in range(3):
        for counts in ((1, 1, 1), (4, 4, 3)):
            yield pytest.param("xenopus", seed, counts, id=f"xenopus-{seed}-{counts}")
    for kind in ("blobs2d", "membranes", "brain", "cells"):
        for seed in range(3):
            yield pytest.param(kind, seed, None, id=f"{kind}-{seed}")


def clean(kind, seed):
    if kind == "xenopus":
        image, truth = xenopus_phantom(seed, size=(48, 46, 36))
        return image, np.array([1, 2, 0], np.uint8)[truth]
    if kind.startswith("blobs"):
        return blobs(seed + 10, (80, 72) if kind == "blobs2d" else (48, 44, 40))
    image, label = {"membranes": membranes_phantom, "brain": brain_phantom, "cells": cells_phantom}[kind](
        seed, size=(96, 96)
    )[:2]
    return image, np.minimum(label, 1).astype(np.uint8)


@pytest.mark.parametrize(("kind", "seed", "counts"), list(clean_cases()))
def test_nothing_is_found_in_clean_annotation(kind, seed, counts):
    image, dense = clean(kind, seed)
    if counts is None:
        raws = [(dense, {}), (dense, {"unlabelled": IGNORE_INDEX})]
    else:
        sparse = keep_slices(dense, counts)
        raws = [(np.where(sparse == IGNORE_INDEX, 0, sparse), {}), (sparse, {"unlabelled": IGNORE_INDEX})]
    for raw, options in raws:
        paint = understand_paint(raw, **options)
        assert audit(raw.shape, ISOTROPIC[raw.ndim], paint, image) == []


# --- defects of the values


def test_no_paint_is_told(scene):
    assert kinds(found_in(scene, 0 * scene.raw)) == ["empty"]


def test_one_class_is_told(scene):
    assert kinds(found_in(scene, painted_only=True, raw=np.minimum(scene.raw, 1))) == ["one_class"]


def test_a_value_that_is_no_class_is_told(scene):
    place = inside(scene.plane == 0, 1)[0]
    scene.plane[tuple(place)] = 9
    (finding,) = found_in(scene, classes=[1, 2])
    assert (finding.kind, finding.severity) == ("unknown_value", "error")
    assert "1 voxels hold the value 9" in finding.message


def test_a_class_that_is_painted_nowhere_is_told(scene):
    (finding,) = found_in(scene, names={1: "wall", 2: "lumen", 3: "nerve"})
    assert (finding.kind, finding.severity) == ("missing_class", "warning")
    assert "The class 3 'nerve' is painted nowhere" in finding.message


def test_a_class_with_a_few_voxels_is_told(scene):
    place = inside((scene.plane == 0) & ~scene.crossed, 3)[0]
    around = tuple(slice(i - 1, i + 2) for i in place)
    scene.plane[around] = 3
    (finding,) = found_in(scene, names={3: "nerve"}, classes=[1, 2, 3])[-1:]
    assert (finding.kind, finding.slices) == ("rare_class", scene.here)
    assert finding.voxel == scene.voxel(place - 1)
    assert "The class 3 'nerve' has 9 of " in finding.message


def test_a_class_on_one_slice_is_told(volume):
    place = inside((volume.plane == 0) & ~volume.crossed, 4)[0]
    volume.plane[tuple(slice(i - 2, i + 3) for i in place)] = 3
    (finding,) = found_in(volume)
    assert (finding.kind, finding.slices) == ("one_slice_class", volume.here)
    assert finding.voxel == volume.voxel(place - 2)


@pytest.mark.parametrize(("large", "kind"), [(True, "interpolated"), (False, "grey_values")])
def test_interpolated_values_are_told(scene, large, kind):
    """Of small objects it cannot be said whether these are grey values; the way out is the same."""
    dense = scene.dense > 0
    if large:
        dense = np.zeros_like(dense)
        dense[8:36, 8:36, ...] = True
    smooth = np.rint(ndimage.gaussian_filter(10.0 * dense, 1)).astype(np.uint8)
    (finding,) = found_in(scene, np.where(scene.on, smooth, 0))
    assert (finding.kind, finding.severity) == (kind, "error")
    assert "nearest neighbours" in finding.message


# --- defects within a slice


def test_specks_are_told(scene):
    far = ndimage.distance_transform_cdt((scene.plane != 2) & ~scene.crossed, "chessboard")
    far[scene.plane != 0] = 0
    places = apart(np.argwhere(far[1:-1, 1:-1] > 4) + 1, 5, 8)
    for place in places:
        scene.plane[tuple(place)] = 2
    (finding,) = found_in(scene)
    assert (finding.kind, finding.slices) == ("specks", scene.here)
    assert "The class 2 has " in finding.message
    assert finding.voxel == scene.voxel(places[0])


def test_a_hole_that_was_not_filled_is_told(scene):
    place = inside((scene.plane == 1) & ~scene.crossed, 3)[0]
    scene.plane[tuple(place)] = scene.plane[place[0] + 1, place[1]] = 0
    if scene.raw.ndim == 2:  # nothing to compare one image with
        assert found_in(scene) == []
        return
    (finding,) = found_in(scene)
    assert (finding.kind, finding.slices, finding.voxel) == ("hole", scene.here, scene.voxel(place))
    assert "The class 1 has a hole of 2 voxels" in finding.message


def test_a_gap_that_the_image_shows_is_no_hole(volume):
    place = inside((volume.plane == 1) & ~volume.crossed, 3)[0]
    volume.plane[tuple(place)] = volume.plane[place[0] + 1, place[1]] = 0
    volume.image[0, place[0] : place[0] + 2, place[1], 15] = volume.image[0][volume.dense == 0].mean()
    assert found_in(volume) == []


def test_an_unlabelled_hole_is_told(scene):
    raw = np.where(scene.on, scene.dense, 9)
    plane = raw[..., 15] if raw.ndim == 3 else raw
    place = inside(~scene.crossed, 3)[20]
    plane[tuple(place)] = plane[place[0], place[1] + 1] = 9
    (finding,) = found_in(scene, raw, unlabelled=9)
    assert (finding.kind, finding.slices, finding.voxel) == ("hole", scene.here, scene.voxel(place))


def test_paint_outside_of_the_slices_is_told(volume):
    volume.raw[30, 30:33, 30] = 1
    (finding,) = found_in(volume)
    assert (finding.kind, finding.slices, finding.voxel) == ("stray", (("z", 30),), (30, 30, 30))


# --- slices that do not agree


@pytest.mark.parametrize("side", range(4), ids=["x low", "x high", "y low", "y high"])
@pytest.mark.parametrize("crossing", [True, False])
def test_a_slice_left_half_done_is_told(volume, side, crossing):
    slices = volume.slices if crossing else ((), (), volume.slices[2])
    raw = np.where(on_any(volume.raw.shape, slices), volume.dense, 0)
    crossed = on_any(raw.shape[:2], slices[:2]) if crossing else np.zeros(raw.shape[:2], bool)
    half = np.moveaxis(raw[..., 15], side // 2, 0)
    keep = np.moveaxis(crossed, side // 2, 0)
    middle = len(half) // 2
    gone = slice(0, middle) if side % 2 == 0 else slice(middle, None)
    half[gone][~keep[gone]] = 0
    found = [finding for finding in found_in(volume, raw) if finding.kind != "one_direction"]
    assert kinds(found) == ["unfinished"]
    assert found[0].slices == (("z", 15),)
    edge = middle if side % 2 == 0 else middle - 1
    at = found[0].voxel[side // 2]
    assert abs(at - edge) <= 1  # there may be another slice
    assert f"at {'xy'[side // 2]} = {at}" in found[0].message


@pytest.mark.parametrize("others", [(5, 25, 35), ()], ids=["with others", "alone"])
def test_the_image_shows_that_a_slice_is_half_done_where_few_others_go_on(volume, others):
    """Beyond the line most of the others are empty: it takes the image to see that paint is missing."""
    raw = np.zeros_like(volume.raw)
    raw[..., [*others, 15]] = volume.dense[..., [*others, 15]]
    raw[:, 24:, [z for z in others if z > 5]] = 0
    raw[:, 24:, 15] = 0
    found = [finding for finding in found_in(volume, raw) if finding.kind == "unfinished"]
    assert (("z", 15),) in [finding.slices for finding in found]
    assert "painted_only=True" in found[0].message
    volume.image[:, :, 24:] = volume.image[0][volume.dense == 0].mean()  # now there is nothing to go on
    found = [finding for finding in found_in(volume, raw) if finding.kind == "unfinished"]
    assert (("z", 15),) not in [finding.slices for finding in found]


def test_paint_that_ends_at_the_same_line_everywhere_is_a_region_of_interest(volume):
    raw = volume.raw.copy()
    raw[28:] = 0
    assert "unfinished" not in kinds(found_in(volume, raw))


def test_a_copied_slice_is_told(volume):
    volume.raw[..., 25][~volume.crossed] = volume.dense[..., 15][~volume.crossed]
    found = {finding.kind: finding for finding in found_in(volume)}
    assert found["copied"].slices == (("z", 15), ("z", 25))
    assert found.keys() <= {"copied", "contradiction"}  # it disagrees with what crosses it, too
    alone = np.zeros_like(volume.raw)
    alone[..., [5, 15, 25, 35]] = volume.dense[..., [5, 15, 15, 35]]
    assert kinds(found_in(volume, alone)) == ["copied", "one_direction"]


def test_equal_labels_of_equal_images_are_no_copy(volume):
    raw = np.zeros_like(volume.raw)
    raw[..., [5, 15, 25, 35]] = volume.dense[..., [5, 15, 15, 35]]
    volume.image[..., 25] = volume.image[..., 15]
    assert "copied" not in kinds(found_in(volume, raw))


@pytest.mark.parametrize(("axis", "index"), [(0, 27), (1, 24), (2, 25)])
def test_a_slice_that_contradicts_those_it_crosses_is_told(volume, axis, index):
    wrong = np.moveaxis(volume.raw, axis, 0)
    wrong[index] = np.array([0, 2, 1])[wrong[index]]
    (finding,) = found_in(volume)
    assert (finding.kind, finding.severity) == ("contradiction", "error")
    assert finding.slices[0] == ("xyz"[axis], index)
    assert len(finding.slices) > 2
    assert finding.voxel[axis] == index


def test_thin_lines_that_are_everywhere_are_no_contradiction():
    dense = np.broadcast_to(1 + np.indices((40, 1, 1))[0] % 2, (40, 36, 32)).copy()
    dense[:, 25:] = 0
    raw = np.where(on_any(dense.shape, SLICES["3d"]), dense, 0)
    assert kinds(audit(raw.shape, (1, 1, 1), understand_paint(raw))) == []


# --- where the slices are


@pytest.mark.parametrize("axis", range(3))
def test_slices_close_together_are_told(volume, axis):
    slices = [indices if a != axis else (9, 10, 11) for a, indices in enumerate(volume.slices)]
    raw = np.where(on_any(volume.raw.shape, slices), volume.dense, 0)
    (finding,) = found_in(volume, raw)
    assert (finding.kind, finding.slices) == ("bunched", tuple(("xyz"[axis], i) for i in (9, 10, 11)))
    n = raw.shape[axis]
    assert f"the next one at {'xyz'[axis]} = {n - 1} ({n} of {n})." in finding.message
    assert f"{'xyz'[axis]} = 9 (10 of {n})" in finding.message


@pytest.mark.parametrize("axis", range(3))
def test_slices_in_one_direction_are_noted_where_others_are_as_fine(volume, axis):
    slices = [indices if a == axis else () for a, indices in enumerate(volume.slices)]
    raw = np.where(on_any(volume.raw.shape, slices), volume.dense, 0)
    (finding,) = found_in(volume, raw)
    assert (finding.kind, finding.severity) == ("one_direction", "note")
    coarse = tuple(4.0 if a == axis else 1.0 for a in range(3))
    assert found_in(volume, raw, spacing=coarse) == []


def test_one_painted_block_is_told_to_be_unclear():
    x, y, z = np.ogrid[:40, :44, :48]
    raw = ((x - 20) ** 2 + (y - 15) ** 2 + (z - 23) ** 2 < 64).astype(np.uint8)
    found = audit(raw.shape, (1, 1, 4), understand_paint(raw))
    assert kinds(found) == ["unclear"]
    assert found[0].slices == tuple(("z", i) for i in range(16, 31))
    assert raw[found[0].voxel] == 1


def test_spacing_of_another_axis_is_told(volume):
    image, dense = blobs(3, (60, 56, 20))
    raw = np.where(on_any(dense.shape, ((20, 40), (20, 40), (5, 15))), dense, 0)
    paint = understand_paint(raw)
    assert kinds(audit(raw.shape, (4, 1, 1), paint, image)) == ["axis_order"]
    assert audit(raw.shape, (1, 1, 4), paint, image) == []


def test_another_shape_is_told(volume):
    paint = understand_paint(volume.raw)
    (finding,) = audit((40, 48, 54), (1, 1, 1), paint)
    assert (finding.kind, finding.severity) == ("shape", "error")
    assert "reorder the axes" in finding.message
    (finding,) = audit((40, 48, 53), (1, 1, 1), paint)
    assert "on the grid of the image" in finding.message


# --- image and labels


@pytest.mark.parametrize(("kind", "axis"), AXES)
def test_shifted_labels_are_told(kind, axis):
    scene = make_scene(kind)
    moved = np.roll(scene.raw, 7, axis)
    (finding,) = found_in(scene, moved)
    assert (finding.kind, finding.severity) == ("shifted", "error")
    x_y_z = [int(part) for part in finding.message.split("about (")[1].split(")")[0].split(",")]
    assert abs(x_y_z[axis] + 7) <= (1 if axis < 2 else 4)


def test_slices_put_at_the_wrong_depth_are_told(volume):
    raw = np.zeros_like(volume.raw)
    raw[..., [9, 19, 29, 39]] = volume.dense[..., [5, 15, 25, 35]]
    found = found_in(volume, raw, spacing=(1, 1, 4))
    assert kinds(found) == ["shifted"]
    assert "moved by about (0, 0, -4) voxels" in found[0].message


def test_an_image_that_does_not_fit_tells_nothing_about_holes():
    scene = make_scene("3d", seed=1)
    assert kinds(found_in(scene)) == []
    assert kinds(found_in(scene, np.roll(scene.raw, 7, 1))) == ["shifted"]


@pytest.mark.parametrize(("kind", "axis"), AXES)
def test_mirrored_labels_are_told(kind, axis):
    scene = make_scene(kind)
    (finding,) = found_in(scene, np.flip(scene.raw, axis))
    assert (finding.kind, finding.severity) == ("mirrored", "error")
    assert f"mirrored along {'xyz'[axis]}. " in finding.message


@pytest.mark.parametrize("order", [(1, 0), (1, 0, 2), (0, 2, 1), (2, 0, 1)], ids=str)
def test_axes_in_another_order_are_told(order):
    n = len(order)
    image, dense = blobs(2, (64, 64) if n == 2 else (44, 44, 44))
    raw = dense if n == 2 else np.where(on_any(dense.shape, [(9, 30)] * 3), dense, 0)
    back = ", ".join("xyz"[order.index(axis)] for axis in range(n))
    (finding,) = audit(raw.shape, ISOTROPIC[n], understand_paint(raw.transpose(order)), image)
    assert finding.kind == "mirrored"
    assert f"with its axes in the order {back}. " in finding.message


def test_labels_of_another_image_are_not_judged(scene):
    """How they lie cannot be said. At most it is asked why nothing in the image ends where they do."""
    other, _ = blobs(99, scene.raw.shape)
    found = found_in(scene, image=other)
    assert kinds(found) in ([], ["scribbles"])
    assert all("Or do they belong to another image?" in finding.message for finding in found)


def test_paint_in_the_padding_is_told(scene):
    where = (0, slice(0, 8))
    scene.image[where] = 0
    scene.raw[:8] = 0
    scene.plane[2:7, 30:34] = 1
    found = found_in(scene)
    assert kinds(found) == ["outside"]
    assert (found[0].voxel, found[0].slices) == (scene.voxel((2, 30)), scene.here)


# --- arguments, files


def test_spacing_has_one_positive_number_per_axis(scene):
    paint = understand_paint(scene.raw)
    for bad in ((1.0,), (1.0,) * (scene.raw.ndim - 1) + (0.0,)):
        with pytest.raises(ValueError, match="is not one positive voxel size for each of the"):
            audit(scene.raw.shape, bad, paint)


def test_the_image_has_the_shape_that_is_said(scene):
    with pytest.raises(ValueError, match=r"image has the shape \(80|image has the shape \(54"):
        audit(scene.raw.shape, ISOTROPIC[scene.raw.ndim], understand_paint(scene.raw), scene.image[0])


def test_errors_come_first(volume):
    raw = np.zeros_like(volume.raw)
    raw[..., [5, 20, 35]] = volume.dense[..., [5, 20, 35]]
    raw[0, 0, 5] = 9
    found = found_in(volume, raw, classes=[1, 2], names={3: "nerve"})
    order = [["error", "warning", "note"].index(finding.severity) for finding in found]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}


@pytest.fixture
def files(scene, tmp_path):
    """The scene as two files."""
    like = Volume(scene.image, np.eye(scene.raw.ndim + 1), "um")
    image, labels = tmp_path / "image.tif", tmp_path / "labels.tif"
    write_volume(image, scene.image, like)
    write_volume(labels, scene.raw, like)
    return image, labels


def test_files_are_audited(files, scene):
    seen = look_at(*files)
    paint = seen.paint
    assert paint.slices == scene.slices
    said = list(lines(paint, seen.findings, {1: "wall"}))
    assert said[0].endswith("; classes 1 'wall', 2")
    assert said[1:] == [paint.explain(), *filter(None, [paint.counted()]), "Nothing wrong found."]


def test_names_say_which_classes_there_are(files):
    seen = look_at(*files, names={1: "wall"})
    assert kinds(seen.findings) == ["unknown_value"]
    assert list(lines(seen.paint, seen.findings))[-1].startswith("error (unknown_value): ")


@pytest.mark.usefixtures("clean_process")
def test_the_command_says_what_it_understood_and_ends_as_what_it_found(files, scene, capfd):
    words = ["audit", *map(str, files), "--names", "1=wall", "2=lumen"]
    assert main(words) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0].endswith("classes 1 'wall', 2 'lumen'")
    assert said[-1] == "Nothing wrong found."
    assert main([*words[:4], "1=wall"]) == 3
    assert "error (unknown_value): " in capfd.readouterr().out
    assert main([*words, "--painted-only"]) == 0
    assert "Only painted voxels count" in capfd.readouterr().out
    assert main([*words[:3], "--unlabelled", "1"]) == 0
    assert "One value marks what is unlabelled" in capfd.readouterr().out


@pytest.mark.parametrize("word", ["wall", "1", "1=", "x=wall", "2=again"])
def test_a_name_belongs_to_a_value(word):
    assert names_from(["1=wall", "2=a=b"]) == {1: "wall", 2: "a=b"}
    with pytest.raises(ValueError, match=f"names holds {word!r}: give each class once"):
        names_from(["2=lumen", word])


@pytest.mark.slow
def test_a_real_label_has_no_error(shared_data):
    folder = shared_data / "medulla_fibsem_3d"
    image = read_volume(folder / "raw.tif")
    dense = read_volume(folder / "labels_boundary.tif", labels=True).array[0]
    raw = np.where(on_any(dense.shape, [even_positions(n, 4) for n in dense.shape]), dense, 0)
    found = audit(raw.shape, image.spacing, understand_paint(raw), image.array)
    assert "error" not in [finding.severity for finding in found]


def test_the_audit_is_a_room_of_annotation_with_its_function_inside():
    import volseg.annotation

    assert volseg.annotation.audit.audit is audit
    assert volseg.annotation.audit.Finding is volseg.annotation.Finding
