"""What training patches promise: annotated, exact where that is possible, one map for image and label."""

import logging
import pickle

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from volseg.bspline import smallest_jacobian
from volseg.errors import InputError
from volseg.instances import separate_touching
from volseg.transforms import (
    BorderWeightMap,
    BorderWeightMapd,
    NormalizeGreyValues,
    NormalizeGreyValuesd,
    RandBSplineDeform,
    RandBSplineDeformd,
    RandDeformedPatchd,
    RandGreyValues,
    RandGreyValuesd,
    annotated_voxels,
)
from volseg.weightmaps import border_weight_map

IGNORE = 255
STILL = {"std": 0, "rotation": 0, "scaling": (1, 1)}
WILD = {"std": 3.0, "grid_spacing": 6, "rotation": 60.0, "scaling": (0.6, 1.6), "flip": 0.5}


@pytest.fixture(params=[(25, 19), (17, 14, 21)], ids=["2d", "3d"])
def shape(request):
    return request.param


@pytest.fixture
def volume(shape):
    """An image and a sparse label: three classes on every fifth slice, unlabelled elsewhere."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (1, *shape)).astype(np.uint8)
    blank = np.ones(shape, dtype=bool)
    blank[::5] = False
    label[0][blank] = IGNORE
    return {"image": rng.normal(size=(2, *shape)).astype(np.float32), "label": label}


def coordinate_volume(shape):
    """Channels hold each voxel's own position; the label numbers the voxels."""
    image = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).astype(np.float32)
    return {"image": image, "label": np.arange(np.prod(shape)).reshape(1, *shape)}


def patches(shape, seed=0, **options):
    transform = RandDeformedPatchd(patch_size=(9, 11, 10)[: len(shape)], **options)
    transform.set_random_state(seed)
    return transform


def inner(patch, context):
    return patch[(slice(None), *(slice(context, -context or None),) * (patch.ndim - 1))]


# RandDeformedPatchd


def test_a_patch_has_the_promised_sizes_and_types(volume, shape):
    out = patches(shape, context=2, **WILD)(volume)
    size = (9, 11, 10)[: len(shape)]
    assert out["image"].shape == (2, *size)
    assert out["label"].shape == (1, *(n - 4 for n in size))
    assert (out["image"].dtype, out["label"].dtype) == (torch.float32, torch.uint8)
    assert type(out["image"]) is torch.Tensor


def test_without_randomness_a_patch_is_the_plain_crop(volume, shape):
    transform = patches(shape, context=1, **STILL)
    pad = 12
    image = np.pad(volume["image"], [(0, 0)] + [(pad, pad)] * len(shape), mode="reflect")
    label = np.pad(volume["label"], [(0, 0)] + [(pad, pad)] * len(shape), constant_values=IGNORE)
    for _ in range(20):
        mapping = transform.sample(volume)
        out = transform.apply(volume, mapping)
        start = (mapping.shift + pad).astype(int)
        window = [slice(s, s + n) for s, n in zip(start, transform.patch_size, strict=True)]
        np.testing.assert_array_equal(out["image"], image[(slice(None), *window)])
        window = [slice(s + 1, s + n - 1) for s, n in zip(start, transform.patch_size, strict=True)]
        np.testing.assert_array_equal(out["label"], label[(slice(None), *window)])


@pytest.mark.parametrize("spline", ["approximating", "interpolating"])
def test_the_drawn_voxel_lies_in_the_output(shape, spline):
    """The label numbers its voxels and only one is annotated: it must turn up in every patch."""
    data = coordinate_volume(shape)
    rng = np.random.default_rng(1)
    for seed in range(25):
        voxel = int(rng.integers(data["label"].size))
        label = np.full((1, *shape), IGNORE, dtype=np.uint8)
        label.reshape(-1)[voxel] = 1
        out = patches(shape, seed, context=3, spline=spline, **WILD)({"image": data["image"], "label": label})
        assert (out["label"] == 1).any()
        places = inner(out["image"], 3)[:, (out["label"] == 1)[0]]
        distance = (places - torch.tensor(np.unravel_index(voxel, shape))[:, None]).abs().amax(0)
        assert distance.min() < 1e-4


def test_image_and_label_come_from_the_same_places(shape):
    """Where the image of positions says p, the label that numbers voxels names the voxel nearest to p."""
    data = coordinate_volume(shape)
    for seed in range(10):
        out = patches(shape, seed, context=2, ignore_index=-1, **WILD)(data)
        places, numbers = inner(out["image"], 2), out["label"][0]
        inside = numbers >= 0
        voxels = np.stack(np.unravel_index(numbers[inside].numpy(), shape))
        assert inside.any()
        assert np.abs(places[:, inside].numpy() - voxels).max() <= 0.5 + 1e-3


def test_beyond_the_volume_the_image_mirrors_and_the_label_is_ignored(shape):
    label = np.zeros((1, *shape), dtype=np.uint8)
    image = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).astype(np.float32)
    voxels = [np.array([0])]  # always the corner, so patches reach far out
    for seed in range(5):
        transform = patches(
            shape, seed, rotation=0, scaling=(1.0, 1.0), std=2.0, grid_spacing=6, keep_inside=False
        )
        data = {"image": image, "label": label, "label_voxels": voxels}
        mapping = transform.sample(data)
        out = transform.apply(data, mapping)
        voxels_of_patch = list(np.ndindex(*transform.patch_size))
        places = np.array([mapping(voxel) for voxel in voxels_of_patch]).T.reshape(out["image"].shape)
        np.testing.assert_allclose(out["image"], np.abs(places), atol=1e-4)
        beyond = (places < -0.5).any(0)
        assert beyond.any()
        sure = (np.abs(places + 0.5) > 1e-4).all(0)
        np.testing.assert_array_equal((out["label"][0].numpy() == IGNORE)[sure], beyond[sure])


def test_labels_and_weights_never_invent_values(volume, shape):
    weight = np.where(volume["label"] == IGNORE, 0, volume["label"] * 1.5 + 1).astype(np.float32)
    transform = patches(shape, context=1, weight_key="weight", **WILD)
    for _ in range(10):
        out = transform({**volume, "weight": weight})
        assert set(out["label"].unique().tolist()) <= {0, 1, 2, IGNORE}
        annotated = out["label"] != IGNORE
        torch.testing.assert_close(out["weight"][annotated], out["label"][annotated] * 1.5 + 1)
        assert not out["weight"][~annotated].any()


def test_a_constant_image_gives_a_constant_patch(volume, shape):
    volume["image"] = np.full((1, *shape), 2.5, dtype=np.float32)
    for mode in ("linear", "cubic"):
        out = patches(shape, image_mode=mode, **WILD)(volume)
        torch.testing.assert_close(out["image"], torch.full_like(out["image"], 2.5))


def test_rotation_is_rigid_in_world_units():
    """Positions in world units keep their distances, though voxels are five times longer along z."""
    spacing = np.array([1.0, 1.0, 5.0])
    data = {**coordinate_volume((60, 60, 60)), "spacing": spacing}
    data["label_voxels"] = [np.array([30 * 3600 + 30 * 60 + 30])]
    for seed in range(5):
        transform = patches((0, 0, 0), seed, std=0, rotation=(20.0, 20.0, 90.0), scaling=(1.0, 1.0))
        mapping = transform.sample(data)
        world = np.diag(spacing) @ mapping.matrix @ np.diag(1 / spacing)
        np.testing.assert_allclose(world @ world.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(world) == pytest.approx(1)
        patch = transform.apply(data, mapping)["image"].numpy().astype(float)
        steps = np.diff(patch, axis=3)[:, 4, 4] * spacing[:, None]
        np.testing.assert_allclose(np.linalg.norm(steps, axis=0), 5.0, atol=1e-3)


@pytest.mark.parametrize(
    ("spacing", "turns"), [((1, 1, 5), [0, 0, 1]), ((3, 1, 1), [1, 0, 0]), ((1, 1, 1.4), [1, 1, 1])]
)
def test_one_angle_turns_about_the_coarse_axis_alone(spacing, turns):
    data = {**coordinate_volume((12, 12, 12)), "spacing": spacing}
    matrix = patches((0, 0, 0), std=0, rotation=30.0, scaling=(1, 1)).sample(data).matrix
    fixed = [np.allclose(matrix[:, axis], np.eye(3)[axis]) for axis in range(3)]
    assert fixed == ([False] * 3 if sum(turns) == 3 else [bool(t) for t in turns])


def test_spacing_comes_from_the_sample_then_from_metadata():
    data = coordinate_volume((12, 12, 12))
    affine = torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0]))
    data["image"] = MetaTensor(torch.from_numpy(data["image"]), affine=affine)
    drawn = patches((0, 0, 0), std=0, rotation=30.0, scaling=(1, 1))
    assert drawn.sample(data).matrix[2, 2] == 1
    assert drawn.sample({**data, "spacing": torch.ones(3)}).matrix[2, 2] != 1
    with pytest.raises(ValueError, match="spacing = .* must be positive"):
        drawn.sample({**data, "spacing": (1, 1, 0)})
    assert type(drawn(data)["image"]) is torch.Tensor


def test_scaling_magnifies(shape):
    data = coordinate_volume(shape)
    mapping = patches(shape, std=0, rotation=0, scaling=(2, 2)).sample(data)
    np.testing.assert_allclose(mapping.matrix, np.eye(len(shape)) / 2)


def test_what_is_scaled_shrinks_as_often_as_it_grows(shape):
    """Half and twice are alike: the logarithm of the factor is drawn evenly, not the factor."""
    data = coordinate_volume(shape)
    transform = patches(shape, std=0, rotation=0, scaling=(0.25, 4.0))
    logs = np.log([1 / transform.sample(data).matrix[0, 0] for _ in range(400)])
    assert abs(np.mean(logs > 0) - 0.5) < 0.1  # 0.8 if the factor were drawn evenly
    assert abs(logs.mean()) < 0.15
    assert np.abs(logs).max() <= np.log(4.0) + 1e-9


def test_deformation_follows_its_probability(volume, shape):
    transform = patches(shape, prob_deform=0.25)
    deformed = [transform.sample(volume).displacement is not None for _ in range(200)]
    assert 25 < sum(deformed) < 80


def test_the_same_seed_gives_the_same_patches_and_another_one_others(volume, shape):
    first, again, other = (patches(shape, seed, **WILD) for seed in (3, 3, 4))
    for _ in range(3):
        expected = first(volume)
        assert torch.equal(expected["image"], again(volume)["image"])
        assert not torch.equal(expected["image"], other(volume)["image"])


def test_classes_are_drawn_equally_or_by_ratio_and_places_uniformly():
    label = np.zeros((1, 40, 40), dtype=np.uint8)
    label[0, 3, 5] = 1  # one voxel among 1600
    label[0, 10:, 10:] = IGNORE
    data = {
        "image": np.zeros((1, 40, 40), np.float32),
        "label": label,
        "label_voxels": annotated_voxels(label, 3),
    }

    def share_of_class_one(**options):
        transform = patches((0, 0), context=3, **STILL, **options)
        hits = 0
        places = []
        for _ in range(400):
            out = transform(data)["label"][0]
            where = (out == 1).nonzero()
            hits += len(where) > 0
            places += where.tolist()
        return hits / 400, np.array(places)

    share, places = share_of_class_one()
    assert 0.45 < share < 0.65  # half, and those where class 0 is drawn next to it
    assert len(np.unique(places, axis=0)) == 3 * 5  # every place of the output
    assert share_of_class_one(class_ratios=(0, 1, 0))[0] == 1
    assert share_of_class_one(class_ratios=(1, 0, 0))[0] < 0.1


def test_ready_made_voxel_lists_change_nothing_but_the_cost(volume, shape):
    lists = annotated_voxels(volume["label"], 3)
    out = patches(shape, 5, **WILD)({**volume, "label_voxels": lists, "name": "a"})
    assert torch.equal(out["image"], patches(shape, 5, **WILD)(volume)["image"])
    assert set(out) == {"image", "label", "name"}


def test_annotated_voxels_lists_each_class_in_order(volume):
    label = volume["label"]
    lists = annotated_voxels(label, 4)
    assert [len(indices) for indices in lists] == [(label == c).sum() for c in range(4)]
    for index, indices in enumerate(lists):
        assert (label.reshape(-1)[indices] == index).all()
    assert annotated_voxels(np.full((1, 2, 2), IGNORE)) == []
    with pytest.raises(ValueError, match="The label holds class 2, but the classes are 0 to 1"):
        annotated_voxels(label, 2)


def test_every_kind_of_array_gives_the_same_patch(volume, shape):
    expected = patches(shape, **WILD)(volume)
    image, label = volume["image"], volume["label"]
    image_file = np.array(image)
    image_file.setflags(write=False)
    kinds = {
        "tensor": {"image": torch.from_numpy(image), "label": torch.from_numpy(label)},
        "meta": {"image": MetaTensor(image), "label": MetaTensor(label)},
        "fortran": {"image": np.asfortranarray(image), "label": np.asfortranarray(label)},
        "big endian": {"image": image.astype(">f4"), "label": label},
        "reversed": {"image": np.ascontiguousarray(image[:, ::-1])[:, ::-1], "label": label},
        "read only": {"image": image_file, "label": label},
    }
    for name, data in kinds.items():
        out = patches(shape, **WILD)(data)
        assert torch.equal(out["label"], expected["label"]), name
        torch.testing.assert_close(out["image"], expected["image"], msg=name)


def test_the_source_is_left_as_it_was(volume, shape):
    before = {key: value.copy() for key, value in volume.items()}
    patches(shape, **STILL)(volume)["image"].zero_()
    patches(shape, **WILD)(volume)["label"].zero_()
    for key, value in before.items():
        np.testing.assert_array_equal(volume[key], value)


def test_patches_larger_than_the_volume_are_mirrored():
    data = {
        "image": np.arange(6, dtype=np.float32).reshape(1, 3, 2, 1),
        "label": np.zeros((1, 3, 2, 1), np.uint8),
    }
    out = RandDeformedPatchd(patch_size=(20, 20, 20), context=4).set_random_state(0)(data)
    assert out["image"].isfinite().all()
    assert 0 <= out["image"].min() <= out["image"].max() <= 5
    assert (out["label"] == 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": ("image",)}, "must name two entries"),
        ({"patch_size": (8, 8, 8, 8)}, "two or three sizes"),
        ({"patch_size": (8, 0)}, "patch_size\\[1\\] = 0 is too small"),
        ({"context": 4}, "leaves no output inside a context of \\(4, 4\\).*at least \\(9, 9\\)"),
        ({"grid_spacing": -1}, "grid_spacing = .* must be positive"),
        ({"grid_spacing": 8, "grid_points": 3}, "Give one of them"),
        ({"grid_points": 1}, "grid_points.* = 1 is too small"),
        ({"max_redraws": -1}, "max_redraws.* = -1 is too small"),
        ({"std": -1}, "std = -1 must not be negative"),
        ({"spline": "cubic"}, "spline = 'cubic' must be 'approximating' or 'interpolating'"),
        ({"rotation": 200}, "rotation = 200 must lie between 0 and 180 degrees"),
        ({"rotation": (1, 2, 3)}, "rotation = .* one finite number per axis"),
        ({"scaling": (1.2, 0.8)}, "scaling = .* the smaller one first"),
        ({"flip": 2}, "flip = 2.0 must be a probability"),
        ({"prob_deform": -0.1}, "prob_deform = -0.1 must be a probability"),
        ({"class_ratios": (0, 0)}, "class_ratios = .* not all zero"),
        ({"class_ratios": ()}, "class_ratios = .* not all zero"),
        ({"image_mode": "bicubic"}, "mode = 'bicubic' is not an interpolation"),
        ({"image_mode": "nearest"}, "would give a jagged image"),
    ],
)
def test_a_wrong_argument_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RandDeformedPatchd(**{"patch_size": (8, 8), **options})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label": np.zeros((1, 12, 11), np.uint8)}, ValueError, "with the same 2 spatial axes"),
        ({"image": np.zeros((1, 12, 12, 12), np.float32)}, ValueError, "must be \\(C, \\*spatial\\)"),
        ({"label": np.full((1, 12, 12), IGNORE, np.uint8)}, InputError, "has no annotated voxel"),
        ({"label_voxels": [np.array([], int)]}, InputError, "has no annotated voxel"),
        ({"label_voxels": [np.array([999])]}, ValueError, "points at voxel 999, outside"),
        ({"label_voxels": [np.array([1])] * 3}, ValueError, "class_ratios holds 2 numbers.*has 3 classes"),
        ({"label": np.ones((1, 12, 12), np.uint8)}, InputError, "draws only from classes"),
        ({"label": np.zeros((1, 12, 12), np.int8)}, ValueError, "255 .* does not fit into torch.int8"),
        ({"weight": np.zeros((1, 3, 3), np.float32)}, ValueError, "needs one value per voxel"),
        ({"weight": None}, ValueError, "The sample has no entry 'weight'; it holds 'image', 'label'"),
    ],
)
def test_a_sample_that_cannot_be_drawn_from_is_refused(change, error, message):
    blank = np.zeros((1, 12, 12), np.float32)
    data = {"image": blank, "label": blank.astype(np.uint8), "weight": blank, **change}
    data = {key: value for key, value in data.items() if value is not None}
    transform = RandDeformedPatchd(patch_size=(8, 8), weight_key="weight", class_ratios=(1, 0))
    with pytest.raises(error, match=message):
        transform(data)


# Grids and folds


def test_grid_points_span_the_patch(shape):
    transform = patches(shape, grid_points=3, std=10)
    mapping = transform.sample(coordinate_volume(shape))
    assert mapping.displacement.shape == (len(shape), *(6,) * len(shape))
    assert mapping.grid_spacing == tuple((n - 1) / 2 for n in transform.patch_size)
    same = patches(shape, grid_spacing=mapping.grid_spacing, std=10).sample(coordinate_volume(shape))
    np.testing.assert_array_equal(same.displacement, mapping.displacement)


@pytest.mark.parametrize("points", [2, 3, 4, 7])
def test_any_number_of_grid_points_serves_any_size(points):
    for n in (1, 2, 11, 23, 64):
        image = np.ones((1, n, n + 1), np.float32)
        transform = RandBSplineDeformd("image", grid_points=points, std=1).set_random_state(0)
        np.testing.assert_allclose(transform({"image": image})["image"], image, rtol=1e-6)


def test_vectors_hold_at_the_three_by_three_grid_if_they_interpolate():
    """With interpolation the vectors themselves displace the patch's corners, edges and centre."""
    transform = RandBSplineDeformd("a", grid_points=3, std=10, spline="interpolating").set_random_state(3)
    mapping = transform.sample((21, 31))
    vectors = np.random.RandomState(3)
    vectors.rand()  # whether to deform at all
    vectors = vectors.standard_normal((2, 6, 6)) * 10
    for i, x in enumerate((0, 10, 20)):
        for j, y in enumerate((0, 15, 30)):
            np.testing.assert_allclose(mapping((x, y)) - (x, y), vectors[:, i + 1, j + 1], atol=1e-9)


@pytest.fixture
def folding():
    """Vectors as long as their grid is wide, which fold more often than not."""
    return {"grid_spacing": 6, "std": 3.0, "spline": "interpolating"}


def is_folded(mapping, size):
    return smallest_jacobian(mapping.displacement, size, mapping.grid_spacing) <= 0


def test_folds_are_counted_and_reported_once(volume, shape, folding, caplog):
    transform = patches(shape, **folding)
    with caplog.at_level(logging.WARNING):
        folded = sum(is_folded(transform.sample(volume), transform.patch_size) for _ in range(20))
    assert transform.deformation.folded == folded > 2
    assert transform.deformation.drawn == 20
    assert len(caplog.records) == 1
    assert "A deformation folds: its smallest Jacobian determinant is -" in caplog.text


def test_redraws_avoid_folds(volume, shape, folding):
    options = folding | {"std": {2: 2.0, 3: 1.2}[len(shape)]}
    redrawing, plain = patches(shape, max_redraws=50, **options), patches(shape, **options)
    for _ in range(10):
        assert not is_folded(redrawing.sample(volume), redrawing.patch_size)
    assert redrawing.deformation.folded == 0
    assert any(is_folded(plain.sample(volume), plain.patch_size) for _ in range(25))


def test_where_everything_folds_the_least_folded_is_taken(shape):
    def smallest(redraws):
        transform = RandBSplineDeformd("a", grid_spacing=6, std=30, max_redraws=redraws).set_random_state(0)
        mapping = transform.sample(shape)
        return smallest_jacobian(mapping.displacement, shape, mapping.grid_spacing)

    worst_to_best = [smallest(redraws) for redraws in (0, 3, 12)]
    assert worst_to_best == sorted(worst_to_best)
    assert worst_to_best[0] < worst_to_best[-1] <= 0


def test_redraws_change_nothing_where_nothing_folds(volume, shape):
    calm = {"grid_spacing": 16, "std": 0.5}
    first, second = patches(shape, **calm), patches(shape, max_redraws=5, **calm)
    for _ in range(3):
        assert torch.equal(first(volume)["image"], second(volume)["image"])


# BorderWeightMapd


@pytest.fixture
def cells(shape):
    """Cubes in a row that touch, numbered from 1, and a slice that no one labelled."""
    instances = np.zeros((1, *shape), np.int32)
    for index, start in enumerate(range(2, shape[0] - 4, 4), start=1):
        instances[0, start : start + 4, 3:9] = index
    instances[0, :, -2:] = -1
    return {"image": np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32), "label": instances}


def test_instances_become_a_class_target_and_a_weight(cells, shape):
    out = BorderWeightMapd("label")(cells)
    instances = cells["label"][0]
    apart = separate_touching(instances)
    assert out["label"].dtype == np.uint8
    np.testing.assert_array_equal(out["label"][0], np.where(instances < 0, IGNORE, apart > 0))
    assert out["weight"].dtype == np.float32
    np.testing.assert_array_equal(out["weight"][0], border_weight_map(apart))
    assert not out["weight"][0][instances < 0].any()
    assert out["weight"].max() > 5
    assert out["image"] is cells["image"]
    together = BorderWeightMapd(
        "label", separate=False, w0=3, sigma=2, class_weight=(1, 2), background_only=True
    )(cells)
    np.testing.assert_array_equal(
        together["weight"][0],
        border_weight_map(instances, w0=3, sigma=2, class_weight=(1, 2), background_only=True),
    )
    np.testing.assert_array_equal(together["label"][0] == 1, instances > 0)


def test_deformed_instances_become_target_and_weight(cells, shape):
    """One map for all: what the crop of the instances says is what target and weight show."""
    options = WILD | {"std": 1.0, "context": 1, "ignore_index": -1, "keep_inside": False}
    crop = patches(shape, 2, **options)(cells)
    assert crop["label"].dtype == torch.int32
    out = BorderWeightMapd("label")(patches(shape, 2, **options)(cells))
    instances = crop["label"][0].numpy()
    assert set(np.unique(instances)) <= set(np.unique(cells["label"]))
    assert (instances < 0).any()
    np.testing.assert_array_equal(out["label"][0] == IGNORE, instances < 0)
    np.testing.assert_array_equal(out["label"][0] == 1, separate_touching(instances) > 0)
    np.testing.assert_array_equal(out["weight"][0], border_weight_map(separate_touching(instances)))
    assert torch.equal(out["image"], crop["image"])
    assert type(out["label"]) is type(out["weight"]) is torch.Tensor


def test_instances_can_go_along_beside_a_class_label(cells, shape):
    """As a dataset does that draws from classes; what the label ignores stays ignored."""
    instances = cells["label"]
    label = np.where(instances < 0, IGNORE, instances > 0).astype(np.uint8)
    data = {"image": cells["image"], "label": label, "instances": instances.clip(0)}
    pipeline = Compose(
        [patches(shape, context=1, weight_key="instances", **WILD), BorderWeightMapd("instances")]
    )
    pipeline.set_random_state(0)
    for _ in range(5):
        out = pipeline(data)
        assert torch.equal(out["weight"] == 0, out["label"] == IGNORE)
        assert torch.equal(
            (out["label"] == 1)[0],
            torch.from_numpy(separate_touching(out["instances"][0].numpy()) > 0)
            & (out["label"] != IGNORE)[0],
        )


def test_a_weight_computed_once_is_deformed_with_the_label(cells, shape):
    ready = BorderWeightMapd("label")(cells)
    out = patches(shape, context=1, weight_key="weight", **WILD)(ready)
    assert set(out["weight"].unique().tolist()) <= set(np.unique(ready["weight"]).tolist())
    assert torch.equal(out["weight"] == 0, out["label"] == IGNORE)


def test_weights_know_world_units_and_keep_the_kind_of_array(cells, shape):
    spacing = (1.0, 2.0, 3.0)[: len(shape)]
    affine = torch.diag(torch.tensor([*spacing, 1.0][: len(shape)] + [1.0] * (4 - len(shape))))
    meta = {"label": MetaTensor(cells["label"], affine=affine)}
    expected = border_weight_map(separate_touching(cells["label"][0]), spacing=spacing)
    from_meta = BorderWeightMapd("label", spacing_key="spacing")(meta)
    assert isinstance(from_meta["weight"], MetaTensor)
    np.testing.assert_array_equal(from_meta["weight"][0], expected)
    named = BorderWeightMapd("label", spacing_key="spacing")({**cells, "spacing": spacing})
    np.testing.assert_array_equal(named["weight"][0], expected)
    plain = BorderWeightMapd("label", spacing_key="spacing")(cells)
    np.testing.assert_array_equal(plain["weight"], BorderWeightMapd("label")(cells)["weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": ("a", "b")}, "must name one entry, the map of instances"),
        ({"w0": -1}, "w0 = -1 must be a finite number, 0 or more"),
        ({"sigma": 0}, "sigma = 0 must be a finite number above 0"),
        ({"class_weight": (1,)}, "is not the pair"),
    ],
)
def test_wrong_border_weights_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BorderWeightMapd(**options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "The sample has no entry 'instances'"),
        ({"instances": np.zeros((2, 4, 4), int)}, r"shape \(2, 4, 4\); instances are \(1, \*spatial\)"),
        ({"instances": np.zeros((1, 4, 4), np.float32)}, "ids of objects are integers"),
        (
            {"instances": np.zeros((1, 4, 4), int), "label": np.zeros((1, 4, 5), int)},
            "both must show the same voxels",
        ),
    ],
)
def test_instances_that_cannot_be_weighed_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        BorderWeightMapd("instances")(data)


# RandBSplineDeformd


def test_the_deformation_alone_keeps_size_kind_and_metadata(volume, shape):
    affine = torch.diag(torch.tensor([2.0] * len(shape) + [1.0] * (4 - len(shape))))
    data = {"image": MetaTensor(volume["image"], affine=affine), "label": volume["label"], "name": "a"}
    transform = RandBSplineDeformd(["image", "label"], mode=["linear", "nearest"], grid_spacing=8)
    out = transform.set_random_state(0)(data)
    assert isinstance(out["image"], MetaTensor)
    assert torch.equal(out["image"].affine, data["image"].affine)
    assert isinstance(out["label"], np.ndarray)
    assert out["label"].dtype == np.uint8
    assert out["image"].shape == volume["image"].shape
    assert not np.array_equal(out["image"], volume["image"])
    assert set(np.unique(out["label"])) <= {0, 1, 2, IGNORE}
    assert out["name"] == "a"


def test_the_deformation_alone_is_the_same_for_all_keys(shape):
    data = coordinate_volume(shape)
    transform = RandBSplineDeformd(
        ["image", "label"], mode=["linear", "nearest"], outside=["mirror", -1], grid_spacing=6, std=3
    )
    out = transform.set_random_state(0)(data)
    inside = out["label"][0] >= 0
    voxels = np.stack(np.unravel_index(out["label"][0][inside], shape))
    assert np.abs(out["image"][:, inside] - voxels).max() <= 0.5 + 1e-3
    assert not inside.all()


def test_no_deformation_is_the_identity_in_float(volume):
    for options in ({"std": 0}, {"prob": 0}):
        data = {"image": (volume["image"] * 10).astype(np.int16), "label": volume["label"]}
        out = RandBSplineDeformd(["image", "label"], mode=["linear", "nearest"], **options)(data)
        assert out["image"].dtype == np.float32
        np.testing.assert_array_equal(out["image"], data["image"])
        np.testing.assert_array_equal(out["label"], data["label"])


def test_the_deformation_alone_skips_missing_keys_if_told(volume):
    out = RandBSplineDeformd(["image", "other"], allow_missing_keys=True)(volume)
    assert set(out) == {"image", "label"}
    assert RandBSplineDeformd("other", allow_missing_keys=True)({"a": 1}) == {"a": 1}


def test_transforms_survive_compose_seeds_and_pickling(volume, shape):
    def pipeline():
        transforms = [
            RandBSplineDeformd("image", grid_spacing=8),
            patches(shape, **WILD),
            RandGreyValuesd(),
        ]
        return Compose(transforms).set_random_state(7)

    expected = pipeline()(volume)["image"]
    assert torch.equal(pickle.loads(pickle.dumps(pipeline()))(volume)["image"], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "bilinear"}, "mode = 'bilinear' is not an interpolation"),
        ({"outside": "zeros"}, "neither 'mirror' nor a number"),
        ({"prob": 2}, "prob = 2 must be a probability"),
        ({"spline": "b"}, "spline = 'b' must be"),
        ({"std": -1}, "std = -1 must not be negative"),
        ({"grid_spacing": 0}, "grid_spacing = .* must be positive"),
    ],
)
def test_a_wrong_deformation_is_refused(volume, options, message):
    with pytest.raises(ValueError, match=message):
        RandBSplineDeformd("image", **options)(volume)


def test_arrays_of_different_shape_are_not_deformed_together():
    data = {"a": np.zeros((1, 4, 4)), "b": np.zeros((1, 4, 5))}
    with pytest.raises(ValueError, match="must share their spatial shape"):
        RandBSplineDeformd(["a", "b"])(data)


# RandGreyValuesd


def test_grey_values_change_as_drawn(volume):
    image = torch.from_numpy(volume["image"])
    quiet = {"brightness": 0, "contrast": (1, 1), "gamma": (1, 1), "noise": 0}

    def changed(**options):
        return RandGreyValuesd(**{**quiet, **options}).set_random_state(0)({"image": image})["image"]

    torch.testing.assert_close(changed(), image)
    shift = changed(brightness=0.5) - image
    assert 0 < shift.abs().max() <= 0.5
    torch.testing.assert_close(shift, shift.mean().expand_as(shift), atol=1e-5, rtol=0)
    axes = tuple(range(1, image.ndim))
    doubled = changed(contrast=(2, 2))
    torch.testing.assert_close(doubled.mean(axes), image.mean(axes), atol=1e-5, rtol=0)
    torch.testing.assert_close(doubled.std(axes), 2 * image.std(axes))
    gamma = changed(gamma=(2, 2))
    torch.testing.assert_close(gamma.amin(axes), image.amin(axes))
    torch.testing.assert_close(gamma.amax(axes), image.amax(axes))
    assert (gamma <= image + 1e-5).all()
    noise = changed(noise=0.2) - image
    assert 0 < noise.std() <= 0.25
    assert torch.equal(noise, changed(noise=0.2) - image)


def test_grey_values_keep_kind_and_leave_the_source_alone(volume):
    before = volume["image"].copy()
    out = RandGreyValuesd(["image", "other"], allow_missing_keys=True).set_random_state(0)(volume)
    assert isinstance(out["image"], np.ndarray)
    np.testing.assert_array_equal(volume["image"], before)
    out = RandGreyValuesd(prob=0)({"image": MetaTensor(torch.ones(1, 4, 4, dtype=torch.int16))})
    assert isinstance(out["image"], MetaTensor)
    assert out["image"].dtype == torch.float32


def test_a_flat_image_stays_finite():
    out = RandGreyValuesd(noise=0).set_random_state(0)({"image": torch.full((1, 5, 5), 3.0)})["image"]
    assert out.isfinite().all()
    assert out.min() == out.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"brightness": -1}, "brightness = -1 must be zero or a positive number"),
        ({"noise": float("nan")}, "noise = nan must be zero or a positive number"),
        ({"contrast": (0, 1)}, "contrast = .* two positive factors"),
        ({"contrast": 0.2}, "contrast = 0.2 is one number"),
        ({"gamma": (2, 1)}, "gamma = .* the smaller one first"),
        ({"prob": 1.5}, "prob = 1.5 must be a probability"),
    ],
)
def test_wrong_grey_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RandGreyValuesd(**options)


# Of an array and of a dictionary


def test_a_transform_of_an_array_does_what_that_of_a_dictionary_does(shape):
    random = np.random.default_rng(0)
    image = MetaTensor(torch.from_numpy(random.normal(3, 2, (2, *shape)).astype(np.float32)))
    for one, many in (
        (
            RandBSplineDeform(grid_spacing=6, mode="cubic"),
            RandBSplineDeformd("a", grid_spacing=6, mode="cubic"),
        ),
        (RandGreyValues(noise=0.3), RandGreyValuesd("a", noise=0.3)),
    ):
        one.set_random_state(3)
        many.set_random_state(3)
        for _ in range(2):
            changed = one(image)
            assert isinstance(changed, MetaTensor)
            assert torch.equal(changed, many({"a": image})["a"])
            assert not torch.allclose(changed, image, atol=0.1)
    assert torch.equal(NormalizeGreyValues()(image), NormalizeGreyValuesd("a")({"a": image})["a"])
    ids = random.integers(-1, 3, (1, *shape))
    target, weight = BorderWeightMap(sigma=2)(ids)
    out = BorderWeightMapd("label", sigma=2)({"label": ids})
    np.testing.assert_array_equal(target, out["label"])
    np.testing.assert_array_equal(weight, out["weight"])


def test_a_random_state_that_is_given_is_drawn_from():
    """As ``TrainingPatches`` does: one generator for all transforms of a sample."""
    state = np.random.RandomState(0)
    transform = RandGreyValuesd("a").set_random_state(state=state)
    transform({"a": torch.ones(1, 4, 4)})
    assert state.rand() != np.random.RandomState(0).rand()


def test_an_array_of_instances_is_weighed_with_its_spacing_and_what_is_unlabelled():
    ids = np.zeros((1, 8, 12), np.int32)
    ids[0, 2:6, 1:5], ids[0, 2:6, 7:11] = 1, 2
    hidden = np.zeros((8, 12), bool)
    hidden[:, :3] = True
    target, weight = BorderWeightMap(sigma=2)(ids, spacing=(1, 2), unlabelled=hidden)
    assert (target[0][hidden] == 255).all()
    assert (weight[0][hidden] == 0).all()
    closer = BorderWeightMap(sigma=2)(ids)[1]
    assert weight[0, 4, 6] < closer[0, 4, 6]
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4\); they are \(1, \*spatial\)"):
        BorderWeightMap()(np.zeros((2, 4, 4), int))
