"""B-spline fields against SimpleITK and a slow twin; sampling against scipy; compiled loop against torch."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage

from volseg.bspline import (
    Part,
    SplineMap,
    bspline_displacement,
    control_shape,
    interpolating_coefficients,
    jacobian_bound,
    kernel,
    sample_map,
    sample_maps,
    smallest_jacobian,
    warp,
)
from volseg.bspline.field import spline_taps
from volseg.bspline.sampling import KERNEL_DTYPES

BOTH = pytest.mark.parametrize("size", [(13, 10), (9, 13, 7)], ids=["2d", "3d"])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def basis(size, spacing, n, *, offset=0):
    """Matrix ``(size, n)`` that takes n coefficients to the spline's values at voxels ``offset`` and on."""
    first, weights = spline_taps(size, spacing, n, offset=offset)
    matrix = np.zeros((size, n))
    np.put_along_axis(matrix, first[:, None] + np.arange(4), weights.T, axis=1)
    return torch.from_numpy(matrix)


def random_control(rng, size, spacing, extra=0):
    shape = [n + extra for n in control_shape(size, spacing)]
    return torch.from_numpy(rng.normal(0, 4, (len(size), *shape)))


def random_map(rng, size, source, *, std=2.0, spacing=5.0, zoom=1.0):
    """Rotation, shear, scaling and deformation that take the patch's centre to the source's."""
    dims = len(size)
    matrix = zoom * (np.eye(dims) + rng.normal(0, 0.2, (dims, dims)))
    displacement = rng.normal(0, std, (dims, *control_shape(size, spacing)))
    mapping = SplineMap(matrix, np.zeros(dims), displacement, (float(spacing),) * dims)
    return mapping.through([n // 2 for n in size], [n / 2 for n in source])


def naive_displacement(control, size, spacing):
    """The textbook: 4^d products per voxel."""

    def b(t):
        return ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)

    out = np.zeros((control.shape[0], *size))
    for voxel in np.ndindex(*size):
        cells = [int(i // s) for i, s in zip(voxel, spacing, strict=True)]
        weights = [b(i / s - c) for i, s, c in zip(voxel, spacing, cells, strict=True)]
        for taps in product(range(4), repeat=len(size)):
            at = tuple(c + k for c, k in zip(cells, taps, strict=True))
            weight = np.prod([w[k] / 6 for w, k in zip(weights, taps, strict=True)])
            out[(slice(None), *voxel)] += weight * control.numpy()[(slice(None), *at)]
    return out


# The field


@BOTH
def test_the_field_is_the_tensor_product_of_cubic_splines(rng, size):
    spacing = (4, 3.5, 8)[: len(size)]
    control = random_control(rng, size, spacing)
    field = bspline_displacement(control, size, spacing)
    np.testing.assert_allclose(field.numpy(), naive_displacement(control, size, spacing), atol=1e-12)


@BOTH
def test_the_field_equals_simpleitk(rng, size):
    sitk = pytest.importorskip("SimpleITK")
    dims, spacing = len(size), 4
    control = random_control(rng, size, spacing).float()
    field = bspline_displacement(control, size, spacing)
    cells = [n - 3 for n in control.shape[1:]]
    transform = sitk.BSplineTransform(dims, 3)
    transform.SetTransformDomainOrigin([0.0] * dims)
    transform.SetTransformDomainPhysicalDimensions([float(c * spacing) for c in cells])
    transform.SetTransformDomainMeshSize(cells)
    transform.SetParameters([float(v) for axis in control.numpy() for v in axis.ravel(order="F")])
    for voxel in np.ndindex(*size):
        moved = np.array(transform.TransformPoint([float(i) for i in voxel]))
        np.testing.assert_allclose(field[(slice(None), *voxel)].numpy(), moved - voxel, atol=1e-4)


@BOTH
def test_constant_coefficients_give_a_constant_field(size):
    control = torch.full((len(size), *control_shape(size, 4)), 2.5)
    torch.testing.assert_close(bspline_displacement(control, size, 4), torch.full((len(size), *size), 2.5))


def test_a_spline_reproduces_straight_lines():
    matrix = basis(20, 4, 9, offset=3)
    control_points = (torch.arange(9, dtype=torch.float64) - 1) * 4
    torch.testing.assert_close(matrix @ control_points, torch.arange(3, 23, dtype=torch.float64))


def test_basis_rows_are_weights_of_four_neighbours():
    matrix = basis(9, 4, 6)
    torch.testing.assert_close(matrix.sum(1), torch.ones(9, dtype=torch.float64))
    assert (matrix >= 0).all()
    expected = torch.tensor([0, 1 / 6, 4 / 6, 1 / 6, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(matrix[4], expected)


@BOTH
def test_the_basis_is_what_the_field_uses(rng, size):
    control = random_control(rng, size, 4, extra=2)
    value = control
    for axis, n in enumerate(size, start=1):
        matrix = basis(n, 4, value.shape[axis])
        value = torch.tensordot(matrix, value, dims=([1], [axis])).movedim(0, axis)
    torch.testing.assert_close(bspline_displacement(control, size, 4), value)


@pytest.mark.parametrize(("dims", "factor"), [(2, 151 / 315), (3, (151 / 315) ** 1.5)])
def test_coefficients_of_std_four_displace_by_the_documented_rms(rng, dims, factor):
    size = (64, 64, 40)[:dims]
    control = torch.from_numpy(rng.normal(0, 4, (200 // dims, *control_shape(size, 8))))
    fields = [bspline_displacement(c.expand(dims, *c.shape), size, 8)[0] for c in control]
    rms = torch.stack([f.square().mean() for f in fields]).mean().sqrt()
    assert rms.item() == pytest.approx(4 * factor, rel=0.05)


@BOTH
def test_interpolating_coefficients_hold_the_values_at_the_control_points(rng, size):
    values = rng.normal(size=(len(size), *control_shape(size, 3)))
    field = bspline_displacement(torch.from_numpy(interpolating_coefficients(values)), size, 3)
    inner = (slice(None), *(slice(1, (n - 1) // 3 + 2) for n in size))
    np.testing.assert_allclose(
        field[(slice(None), *(slice(None, None, 3),) * len(size))], values[inner], atol=1e-9
    )


@BOTH
def test_gradients_reach_the_coefficients(rng, size):
    small = tuple(n // 2 for n in size)
    control = random_control(rng, small, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: bspline_displacement(c, small, 4), (control,))


def test_reduced_precision_settings_do_not_reach_the_field(rng):
    size = (40, 40, 40)
    control = random_control(rng, size, 16).float() + 100
    exact = bspline_displacement(control, size, 16)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(bspline_displacement(control, size, 16), exact, rtol=0, atol=0)
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_documented_control_grid_is_the_smallest_that_fits(rng):
    for n, spacing in product((1, 4, 5, 8, 9, 33), (4, 8)):
        assert control_shape((n, n), spacing) == ((n - 1) // spacing + 4,) * 2
        control = random_control(rng, (n, n), spacing)
        assert bspline_displacement(control, (n, n), spacing).shape == (2, n, n)
        with pytest.raises(ValueError, match=f"At least {(n - 1) // spacing + 4} points are needed"):
            bspline_displacement(control[:, :-1], (n, n), spacing)


@pytest.mark.parametrize(
    ("control", "size", "spacing", "message"),
    [
        (torch.zeros(2, 5, 5), (8, 8, 8), 4, "which is not \\(spatial_dims, \\*n\\)"),
        (torch.zeros(3, 5, 5), (8, 8), 4, "which is not \\(spatial_dims, \\*n\\)"),
        (torch.zeros(2, 5, 5, dtype=torch.int64), (8, 8), 4, "needs floating-point coefficients"),
        (torch.zeros(2, 5, 5), (8, 8), 0, "grid_spacing = 0 must be positive"),
        (torch.zeros(2, 5, 5), (8, 8), (4, 4, 4), "does not say one finite number per axis"),
        (torch.zeros(2, 5, 5), (8, 8), float("nan"), "does not say one finite number per axis"),
    ],
)
def test_a_wrong_field_is_refused(control, size, spacing, message):
    with pytest.raises(ValueError, match=message):
        bspline_displacement(control, size, spacing)


def test_a_grid_too_small_to_interpolate_is_refused():
    with pytest.raises(ValueError, match="needs two or more points per axis"):
        interpolating_coefficients(np.zeros((2, 1, 5)))


@pytest.mark.parametrize(("dims", "factor"), [(2, 0.8742), (3, 0.8742**1.5)])
def test_interpolated_vectors_displace_by_the_documented_rms(rng, dims, factor):
    size = (64, 64, 40)[:dims]
    values = rng.normal(0, 4, (200 // dims, *control_shape(size, 8)))
    control = torch.from_numpy(interpolating_coefficients(values))
    fields = [bspline_displacement(c.expand(dims, *c.shape), size, 8)[0] for c in control]
    rms = torch.stack([f.square().mean() for f in fields]).mean().sqrt()
    assert rms.item() == pytest.approx(4 * factor, rel=0.05)


def test_the_control_grid_fits_whatever_the_spacing():
    for n, points in product(range(2, 60), range(2, 8)):
        spacing = (n - 1) / (points - 1)
        basis(n, spacing, control_shape((n, n), spacing)[0])


# Folds


def naive_jacobian(control, size, spacing):
    """Finite differences of the dense field in small steps, at every voxel."""
    fine = 16
    dims = len(size)
    field = bspline_displacement(control, [fine * (n - 1) + 1 for n in size], [fine * s for s in spacing])
    jacobian = torch.stack(
        [torch.gradient(field * fine, dim=axis + 1, edge_order=2)[0] for axis in range(dims)], dim=-1
    ).movedim(0, -2)
    return torch.linalg.det(jacobian + torch.eye(dims))[(slice(None, None, fine),) * dims].min().item()


@pytest.mark.parametrize("std", [0.5, 4])
@pytest.mark.parametrize(("size", "spacing"), [((13, 10), (6, 4.5)), ((7, 6, 5), (4, 3.5, 5))])
def test_the_smallest_jacobian_is_that_of_the_dense_field(rng, size, spacing, std):
    for _ in range(3):
        control = random_control(rng, size, spacing) * (std / 4)
        expected = naive_jacobian(control, size, spacing)
        found = smallest_jacobian(control, size, spacing)
        assert found == pytest.approx(expected, abs=0.15 * abs(1 - expected))
        assert (found > 0) == (expected > 0)


@BOTH
def test_the_jacobian_of_a_linear_map_is_its_determinant(rng, size):
    matrix = np.eye(len(size)) + rng.normal(0, 0.3, (len(size),) * 2)
    nodes = np.meshgrid(*((np.arange(n) - 1.0) * 4 for n in control_shape(size, 4)), indexing="ij")
    control = np.tensordot(matrix - np.eye(len(size)), np.stack(nodes), 1)
    assert smallest_jacobian(control, size, 4) == pytest.approx(np.linalg.det(matrix))
    assert smallest_jacobian(np.zeros_like(control), size, 4) == pytest.approx(1)


@BOTH
def test_the_bound_of_the_jacobian_is_below_it_and_tells_what_does_not_fold(rng, size):
    told = 0
    for std in (0.05, 0.2, 0.5, 1.0, 4.0):
        control = random_control(rng, size, 4) * (std / 4)
        bound = jacobian_bound(control, [4] * len(size))
        assert bound <= smallest_jacobian(control, size, 4) + 1e-9
        told += bound > 0
    assert 2 <= told <= 4
    assert jacobian_bound(np.zeros_like(control), [4] * len(size)) == 1


# Reading between voxels


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5), (1, 7), (2, 1, 3), (1, 1)])
@pytest.mark.parametrize("reach", [0, 3, 40], ids=["inside", "near", "far"])
def test_linear_is_scipy_with_mirrored_border(rng, shape, reach):
    image = rng.normal(size=(2, *shape))
    places = np.stack([rng.uniform(-reach, n - 1 + reach, 50) for n in shape])
    warped = warp(torch.from_numpy(image), torch.from_numpy(places)[:, :, *(None,) * (len(shape) - 1)])
    expected = [ndimage.map_coordinates(channel, places, order=1, mode="mirror") for channel in image]
    np.testing.assert_allclose(warped.numpy().reshape(2, -1), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5), (1, 7), (2, 1, 3)])
def test_nearest_takes_the_voxel_that_holds_the_position_and_fills_beyond(rng, shape):
    labels = rng.integers(0, 5, (1, *shape)).astype(np.uint8)
    places = np.stack([rng.uniform(-4, n + 3, 200) for n in shape])
    places[:, :20] = np.round(places[:, :20]) + 0.5
    grid = torch.from_numpy(places).reshape(len(shape), *(-1,) + (1,) * (len(shape) - 1))
    warped = warp(torch.from_numpy(labels), grid, mode="nearest", outside=255)
    assert warped.dtype == torch.uint8
    for value, place in zip(warped.flatten().tolist(), places.T, strict=True):
        voxel = [int(np.floor(p + 0.5)) for p in place]
        inside = all(0 <= v < n for v, n in zip(voxel, shape, strict=True))
        assert value == (labels[(0, *voxel)] if inside else 255)


@BOTH
def test_cubic_reproduces_voxels_and_quadratics(rng, size):
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    image = torch.stack([sum((k + 1) * a**2 - a for k, a in enumerate(axes)), axes[0] * axes[-1]])
    torch.testing.assert_close(warp(image, torch.stack(axes), mode="cubic"), image)
    inner = torch.stack([torch.from_numpy(rng.uniform(1, n - 2, size)) for n in size])
    expected = torch.stack([sum((k + 1) * a**2 - a for k, a in enumerate(inner)), inner[0] * inner[-1]])
    torch.testing.assert_close(warp(image, inner, mode="cubic"), expected)


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5), (1, 7), (2, 1, 3)])
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
def test_every_mode_sees_the_same_mirror(rng, shape, mode):
    image = torch.from_numpy(rng.normal(size=(1, *shape)))
    pad = 9
    padded = torch.from_numpy(np.pad(image.numpy()[0], pad, mode="reflect"))[None]
    places = torch.stack(
        [torch.from_numpy(rng.uniform(-5, n + 4, (40,) + (1,) * (len(shape) - 1))) for n in shape]
    )
    torch.testing.assert_close(warp(image, places, mode=mode), warp(padded, places + pad, mode=mode))


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
def test_a_constant_image_stays_constant(rng, mode):
    places = torch.from_numpy(rng.uniform(-9, 15, (3, 4, 5, 6))).float()
    torch.testing.assert_close(
        warp(torch.full((1, 5, 6, 7), 3.0), places, mode=mode), torch.full((1, 4, 5, 6), 3.0)
    )


@pytest.mark.parametrize(
    ("image", "places", "options", "message"),
    [
        (torch.zeros(1, 4, 4), torch.zeros(3, 2, 2, 2), {}, "with 3 spatial axes it must be"),
        (torch.zeros(1, 0, 4), torch.zeros(2, 2, 2), {}, "not empty"),
        (
            torch.zeros(1, 4, 4),
            torch.zeros(2, 2, 2),
            {"mode": "bilinear"},
            "mode = 'bilinear' is not an interpolation",
        ),
        (torch.zeros(1, 4, 4), torch.zeros(2, 2, 2), {"outside": "zeros"}, "neither 'mirror' nor a number"),
        (
            torch.zeros(1, 4, 4, dtype=torch.int8),
            torch.zeros(2, 2, 2),
            {"mode": "nearest", "outside": 255},
            "The value 255 for what lies beyond the volume does not fit into torch.int8",
        ),
    ],
)
def test_wrong_sampling_is_refused(image, places, options, message):
    with pytest.raises(ValueError, match=message):
        warp(image, places, **options)


# One map


@BOTH
def test_the_composed_spline_is_deformation_then_affine(rng, size):
    mapping = random_map(rng, size, (30,) * len(size))
    image = torch.from_numpy(rng.normal(size=(2, *(30,) * len(size)))).float()
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"))
    field = bspline_displacement(torch.from_numpy(mapping.displacement), size, mapping.grid_spacing).numpy()
    places = np.einsum("ij,j...->i...", mapping.matrix, voxels + field)
    places += mapping.shift.reshape(-1, *(1,) * len(size))
    corner = tuple(n - 1 for n in size)
    np.testing.assert_allclose(mapping(corner), places[(slice(None), *corner)], atol=1e-9)
    expected = warp(image, torch.from_numpy(places)).float()
    torch.testing.assert_close(
        sample_map(image, mapping, (0,) * len(size), size), expected, atol=1e-4, rtol=0
    )


@BOTH
def test_a_window_is_that_part_of_the_patch(rng, size):
    mapping = random_map(rng, size, (12,) * len(size))
    image = torch.from_numpy(rng.normal(size=(1, *(12,) * len(size)))).float()
    whole = sample_map(image, mapping, (0,) * len(size), size)
    part = sample_map(image, mapping, (2,) * len(size), tuple(n - 4 for n in size))
    torch.testing.assert_close(part, whole[(slice(None), *(slice(2, -2),) * len(size))], atol=1e-4, rtol=0)


@BOTH
def test_crops_and_flips_are_copied_exactly(rng, size):
    dims = len(size)
    image = torch.from_numpy(rng.normal(size=(2, *size))).float()
    padded = np.pad(image.numpy(), [(0, 0)] + [(20, 20)] * dims, mode="reflect")
    for start in (0, -5, 3):
        step = rng.choice([-1, 1], dims)
        first = start + np.where(step < 0, 7, 0)
        mapping = SplineMap(np.diag(step.astype(float)), first.astype(float))
        window = padded[(slice(None), *(slice(start + 20, start + 28),) * dims)]
        window = np.flip(window, [axis + 1 for axis in range(dims) if step[axis] < 0])
        drawn = sample_map(image, mapping, (0,) * dims, (8,) * dims)
        np.testing.assert_array_equal(drawn.numpy(), window)
        # The general path agrees, and so does the rule on what lies beyond.
        nudged = SplineMap(mapping.matrix, mapping.shift + 1e-7)
        assert nudged.lattice() is None
        torch.testing.assert_close(
            sample_map(image, nudged, (0,) * dims, (8,) * dims), drawn, atol=1e-4, rtol=0
        )
        for dtype in {2: (torch.uint8, torch.uint16, torch.float32), 3: (torch.uint8,)}[dims]:
            labels = image[:1].abs().mul(9).to(dtype)
            options = {"start": (0,) * dims, "size": (8,) * dims, "mode": "nearest", "outside": 200}
            exact = sample_map(labels, mapping, **options)
            assert exact.dtype == dtype
            assert torch.equal(exact.float(), sample_map(labels, nudged, **options).float())


def test_a_rotation_is_no_lattice():
    assert SplineMap(np.array([[0.0, 1.0], [1.0, 0.0]]), np.zeros(2)).lattice() is None
    assert SplineMap(2 * np.eye(2), np.zeros(2)).lattice() is None
    assert SplineMap(np.eye(2), np.zeros(2), np.ones((2, 4, 4)), (8.0, 8.0)).lattice() is None


def test_a_map_is_refused_if_it_cannot_be():
    with pytest.raises(ValueError, match="give both or neither"):
        SplineMap(np.eye(2), np.zeros(2), np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="numbers that are not finite"):
        SplineMap(np.eye(2), np.array([0, np.inf]))


# The compiled loop


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [(30, 28, 26), (3, 5, 4), (1, 9, 1), (2, 2, 2), (1, 1, 1), (40, 31), (3, 5), (1, 9), (9, 1), (1, 1)],
)
@pytest.mark.parametrize("far", [False, True])
def test_the_compiled_loop_equals_torch(rng, shape, far):
    size, *window = {
        2: ((60, 70), (1, 0), (57, 66)),
        3: ((17, 14, 21), (1, 0, 2), (15, 14, 18)),
    }[len(shape)]
    mapping = random_map(rng, size, shape, zoom=2.0 if far else 0.7)
    image = torch.from_numpy(rng.normal(size=(2, *shape))).float()
    for outside in ("mirror", -3.0):
        fast, slow = (
            sample_map(image, mapping, *window, outside=outside, use_kernel=use_kernel)
            for use_kernel in (True, False)
        )
        different = (fast - slow).abs() > 1e-4
        assert different.float().mean() <= (0 if outside == "mirror" else 1e-3)
    labels = torch.from_numpy(rng.integers(0, 5, (1, *shape)).astype(np.uint8))
    for outside in ("mirror", 255):
        fast, slow = (
            sample_map(labels, mapping, *window, mode="nearest", outside=outside, use_kernel=k)
            for k in (True, False)
        )
        assert (fast != slow).float().mean() <= 1e-3


@pytest.mark.parametrize("use_kernel", [True, False])
@BOTH
def test_an_image_and_its_label_are_read_together_as_they_are_alone(rng, size, use_kernel):
    shape = tuple(n + 3 for n in size)
    mapping = random_map(rng, shape, shape, zoom=1.3)
    image = torch.from_numpy(rng.normal(size=(2, *shape))).float()
    label = torch.from_numpy(rng.integers(0, 5, (1, *shape)).astype(np.uint8))
    weight = torch.from_numpy(rng.normal(size=(1, *shape))).float()
    start, inner = (1,) * len(size), tuple(n - 4 for n in size)
    parts = [
        Part(label, start, inner, "nearest", 255),
        Part(image, (0,) * len(size), size),
        Part(weight, tuple(range(1, len(size) + 1)), inner, "nearest", 0.0),
        Part(label, (0,) * len(size), tuple(n + 2 for n in size[:-1]) + size[-1:], "nearest"),
        Part(image, start, inner, "cubic"),
    ]
    for part, drawn in zip(parts, sample_maps(parts, mapping, use_kernel=use_kernel), strict=True):
        alone = sample_map(
            part.image,
            mapping,
            part.start,
            part.size,
            mode=part.mode,
            outside=part.outside,
            use_kernel=use_kernel,
        )
        assert torch.equal(drawn, alone), part.mode


@pytest.mark.parametrize("other", ["begins before", "ends after", "has another shape"])
@BOTH
def test_what_does_not_fit_an_image_is_read_as_it_is_alone(rng, size, other):
    """The label would be read at positions that are not there, or folded at the image's border."""
    shape = tuple(n + 3 for n in size)
    mapping = random_map(rng, shape, shape, zoom=1.3)
    larger = tuple(n + 20 for n in shape) if other == "has another shape" else shape
    label = torch.from_numpy(rng.integers(0, 5, (1, *larger)).astype(np.uint8))
    start = {"begins before": 0, "ends after": 2}.get(other, 1)
    parts = [
        Part(torch.from_numpy(rng.normal(size=(1, *shape))).float(), (1,) * len(size), size),
        Part(label, (start,) * len(size), size, "nearest"),
    ]
    together = sample_maps(parts, mapping)
    for part, drawn in zip(parts, together, strict=True):
        alone = sample_map(part.image, mapping, part.start, part.size, mode=part.mode, outside=part.outside)
        assert torch.equal(drawn, alone), part.mode


@pytest.mark.slow
def test_the_compiled_loop_reads_any_layout_and_number_type(rng):
    size, shape = (8, 9, 10), (14, 12, 13)
    mapping = random_map(rng, size, shape)
    plain = torch.from_numpy(rng.integers(0, 100, (2, *shape)))
    expected = sample_map(plain.float(), mapping, (0, 0, 0), size, use_kernel=False)
    layouts = {
        "fortran": torch.from_numpy(np.asfortranarray(plain.float().numpy())),
        "crop": torch.nn.functional.pad(plain.float(), (1, 2, 3, 4, 5, 6))[:, 5:-6, 3:-4, 1:-2],
        "channels last": plain.float().movedim(0, -1).contiguous().movedim(-1, 0),
        **{str(dtype): plain.to(dtype) for dtype in sorted(KERNEL_DTYPES, key=str)},
    }
    for name, image in layouts.items():
        drawn = sample_map(image, mapping, (0, 0, 0), size)
        torch.testing.assert_close(drawn, expected, atol=2e-3, rtol=0, msg=name)
    same = plain[:1].float().expand(2, *shape)
    torch.testing.assert_close(sample_map(same, mapping, (0, 0, 0), size)[1], expected[0], atol=2e-3, rtol=0)
    mask = sample_map(plain > 50, mapping, (0, 0, 0), size, mode="nearest", outside=0)
    assert mask.dtype == torch.bool


def test_the_compiled_loop_never_reads_beyond_the_volume():
    """The volume is a crop; whatever lies around it in memory is NaN, and zero times NaN would show."""
    memory = torch.full((1, 9, 9, 9), float("nan"))
    volume = memory[:, 2:7, 2:7, 2:7]
    volume[:] = 1
    for scale in (1.0, 0.5, -1.0, 3.0):
        for shift in (1e-9, -1e-7, 1e-7, 0.25):  # off the lattice, where voxels would be copied
            mapping = SplineMap(scale * np.eye(3), np.full(3, 4 + shift))
            drawn = sample_map(volume, mapping, (0, 0, 0), (9, 9, 9))
            torch.testing.assert_close(drawn, torch.ones(1, 9, 9, 9))


@pytest.mark.slow
def test_the_compiled_loop_does_not_depend_on_threads(rng, monkeypatch):
    monkeypatch.setattr(kernel, "ALONE", 0)
    mapping = random_map(rng, (16, 9, 10), (20, 20, 20))
    image = torch.from_numpy(rng.normal(size=(1, 20, 20, 20))).float()
    before = torch.get_num_threads()
    drawn = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            drawn.append(sample_map(image, mapping, (0, 0, 0), (16, 9, 10)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_accuracy_does_not_depend_on_where_in_a_large_volume_the_patch_lies(rng):
    """Positions around 3000 in float32 would be off by 1e-4 voxels; here the image is the position."""
    ramp = torch.arange(3000, dtype=torch.float64)[:, None, None].expand(3000, 4, 4)
    image = (ramp - 2900)[None].float()
    size = (12, 3, 3)
    displacement = rng.normal(0, 2, (3, *control_shape(size, 6)))
    displacement[1:] = 0
    mapping = SplineMap(np.eye(3), np.array([2900.3, 0, 0]), displacement, (6.0, 6.0, 6.0))
    field = bspline_displacement(torch.from_numpy(displacement), size, 6.0)[0]
    expected = field + torch.arange(12)[:, None, None] + 0.3
    drawn = sample_map(image, mapping, (0, 0, 0), size, use_kernel=False)[0]
    torch.testing.assert_close(drawn.double(), expected, atol=2e-5, rtol=0)


def test_a_map_into_the_blue_is_refused():
    mapping = SplineMap(1e7 * np.eye(3), np.zeros(3))
    with pytest.raises(ValueError, match="voxels far, where float32 no longer distinguishes voxels"):
        sample_map(torch.zeros(1, 4, 4, 4), mapping, (0, 0, 0), (4, 4, 4))
