"""Image and label are on one grid, can be turned onto it, or are refused with what to do."""

import itertools
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volseg.errors import InputError
from volseg.io import Volume, check_alignment, read_volume, write_volume


@pytest.fixture(params=[(5, 4), (5, 4, 6)], ids=["2d", "3d"])
def image(request):
    """A rotated, anisotropic grid with an origin."""
    rng = np.random.default_rng(0)
    dims = len(request.param)
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = np.linalg.qr(rng.standard_normal((dims, dims)))[0] * [0.5, 0.7, 3.0][:dims]
    affine[:-1, -1] = rng.uniform(-50, 50, dims)
    return Volume(rng.integers(0, 99, (1, *request.param)), affine, "mm")


def label_of(volume, affine=None, unit="mm"):
    return Volume(volume.array.astype(np.uint8), volume.affine if affine is None else affine, unit)


def test_the_same_grid_passes_unchanged(image, caplog):
    label = label_of(image)
    assert check_alignment(image, label) is label
    assert not caplog.records


@pytest.mark.parametrize(("moved", "fine"), [(1e-5, True), (0.009, True), (0.011, False), (1.0, False)])
def test_corners_may_move_by_a_hundredth_of_a_voxel(image, moved, fine):
    affine = image.affine.copy()
    affine[0, -1] += moved * 0.5
    label = label_of(image, affine)
    if fine:
        assert check_alignment(image, label) is label
    else:
        remedy = "volseg convert .* --like "
        with pytest.raises(InputError, match=f"case 3: the label .* up to {moved:.3g} voxels .*{remedy}"):
            check_alignment(image, label, "case 3")


def test_a_slow_drift_of_the_spacing_is_seen_at_the_far_corner(image):
    affine = image.affine.copy()
    affine[:, 0] *= 1 + 0.02 / (image.spatial_shape[0] - 1)
    with pytest.raises(InputError, match="up to 0.02 voxels"):
        check_alignment(image, label_of(image, affine))


def test_every_orientation_of_the_grid_is_turned_back(image, caplog):
    """All axis orders and directions: 8 in 2D, 48 in 3D; the slow twin is nibabel's reorientation."""
    dims = image.spatial_dims
    for order in itertools.permutations(range(dims)):
        for flips in itertools.product([1, -1], repeat=dims):
            turn = np.stack([order, flips], 1)
            array = nib.orientations.apply_orientation(image.array[0], turn)
            affine = image.affine @ nib.orientations.inv_ornt_aff(turn, image.spatial_shape)
            label = Volume(np.ascontiguousarray(array)[None].astype(np.uint8), affine, "mm")
            caplog.clear()
            result = check_alignment(image, label)
            np.testing.assert_array_equal(result.array, image.array)
            np.testing.assert_allclose(result.affine, image.affine)
            assert result.array.flags.c_contiguous
            trivial = order == tuple(range(dims)) and set(flips) == {1}
            assert ("in another orientation" in caplog.text) != trivial


def test_a_turned_label_is_written_on_the_images_grid(tmp_path):
    image = np.random.default_rng(0).integers(0, 9, (5, 4, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(image, np.diag([1.0, 2, 3, 1])), tmp_path / "image.nii.gz")
    flipped = nib.Nifti1Image(image[::-1], np.diag([1.0, 2, 3, 1]) @ [[-1, 0, 0, 4], *np.eye(4)[1:]])
    nib.save(flipped, tmp_path / "label.nii.gz")
    one, two = read_volume(tmp_path / "image.nii.gz"), read_volume(tmp_path / "label.nii.gz", labels=True)
    turned = check_alignment(one, two)
    np.testing.assert_array_equal(turned.array, one.array)
    write_volume(tmp_path / "out.nii.gz", turned.array, like=turned)
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii.gz").affine, one.affine)


def test_another_size_is_refused(image):
    label = Volume(image.array[:, :-1].astype(np.uint8), image.affine, "mm")
    with pytest.raises(
        InputError, match="image .* has 5 x 4.* voxels, the label .* has 4 x 4.*reference volume"
    ):
        check_alignment(image, label)
    with pytest.raises(InputError, match="They cannot belong together"):
        check_alignment(image, label, assume_aligned=True)


def test_a_plane_and_a_volume_are_refused(image):
    other = Volume(
        np.zeros((1, 5, 4) if image.spatial_dims == 3 else (1, 5, 4, 6)), np.eye(7 - image.array.ndim)
    )
    with pytest.raises(InputError, match="spatial axes, the label"):
        check_alignment(image, other)


def test_the_position_can_be_overruled(image):
    affine = image.affine.copy()
    affine[0, -1] += 100
    label = label_of(image, affine)
    assert check_alignment(image, label, assume_aligned=True) is label


def test_units_are_taken_into_account(image):
    scale = np.diag([1000.0] * image.spatial_dims + [1])
    assert check_alignment(image, label_of(image, scale @ image.affine, "um"))
    with pytest.raises(InputError, match="voxels from those"):
        check_alignment(image, label_of(image, image.affine, "um"))
    assert check_alignment(image, label_of(image, image.affine, ""))  # one that names none is believed


def test_a_bare_grid_fits_a_scaled_one_but_not_a_turned_one(image):
    bare = label_of(image, np.eye(image.array.ndim), "")
    plain = Volume(image.array, np.diag([0.2] * image.spatial_dims + [1]), "um")
    assert check_alignment(plain, bare) is bare
    assert check_alignment(bare, plain) is plain
    with pytest.raises(InputError, match="voxels from those"):
        check_alignment(image, bare)


def test_where_sizes_differ_and_one_has_no_unit_both_are_said(caplog):
    caplog.set_level(logging.INFO)
    image = Volume(np.zeros((1, 4, 5, 6), np.uint8), np.diag([0.5, 0.5, 1.5, 1]), "", Path("i.nii.gz"))
    label = Volume(np.zeros((1, 4, 5, 6), np.uint8), np.eye(4), "", Path("p.nii.gz"))
    assert check_alignment(image, label) is label
    said = "p.nii.gz names no voxel size, or one without a unit (1 x 1 x 1); i.nii.gz has 0.5 x 0.5 x 1.5"
    assert said in caplog.text


def test_all_real_pairs_agree(shared_data):
    pairs = []
    for image in sorted((shared_data / "msd_hippocampus_3d" / "imagesTr").glob("*.nii.gz"))[:10]:
        pairs.append((image, image.parent.parent / "labelsTr" / image.name))
    for folder in (shared_data / "med_single_cases_3d").iterdir():
        if folder.is_dir():
            pairs.append((folder / "image.nii.gz", folder / "label.nii.gz"))
    for image in sorted((shared_data / "plant_confocal_3d" / "images").iterdir()):
        pairs.append((image, image.parent.parent / "labels" / image.name))
    for image, label in pairs:
        first, second = read_volume(image), read_volume(label, labels=True)
        assert check_alignment(first, second, image.name) is second
