"""``volseg.load(path).predict(image)``: every kind of model, in 2D and 3D, gives what its command gives."""

import json
import shutil

import numpy as np
import pytest
from monai.bundle import run as run_bundle

import volseg
from volseg.densification import densify
from volseg.errors import InputError, RefusedError
from volseg.io import Volume, read_volume, write_volume
from volseg.models import DensifyModel, NetworkModel
from volseg.runs.checkpoint import export_weights, load_checkpoint

pytestmark = pytest.mark.usefixtures("clean_process")

SIZES = {"2d": (30, 26), "3d": (18, 16, 12)}


@pytest.fixture(params=SIZES)
def size(request):
    return SIZES[request.param]


def scene(size, seed=0):
    """Slabs that are brighter from class to class, ``(1, *size)``; and the truth."""
    slabs = (np.arange(size[0]) // (size[0] // 3)).clip(0, 2)
    truth = np.broadcast_to(slabs.reshape(-1, *[1] * (len(size) - 1)), size).astype(np.uint8)
    noise = np.random.default_rng(seed).normal(0, 8, size)
    return (60 * truth + 60 + noise).clip(0, 255).astype(np.uint8)[None], truth


def densified(folder, size, learner):
    image, truth = scene(size)
    affine = np.diag([0.5] * len(size) + [1.0])
    painted = np.full_like(truth, 9)
    painted[..., 2::5] = np.array([10, 20, 30], np.uint8)[truth[..., 2::5]]
    densify(
        Volume(image, affine, "um"), Volume(painted[None], affine, "um"), folder, names={10: "a", 20: "b"} |
        {30: "c"}, unlabelled=9, learner=learner, minutes=0.02, folds=0, force=True, device="cpu",
    )  # fmt: skip
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["pixelwise", "unet", "joined"])
def test_a_result_of_densify_segments_volumes_files_and_arrays(tmp_path, size, learner):
    out = densified(tmp_path / "out", size, learner)
    model = volseg.load(out, device="cpu")
    assert isinstance(model, DensifyModel)
    assert (model.labels.values, model.labels.names) == ((10, 20, 30), ("a", "b", "c"))
    image, truth = scene(size, seed=1)
    other = Volume(image, np.diag([0.5] * len(size) + [1.0]), "um")
    found, probabilities = model.predict(other, probabilities=True)
    assert found.array.shape == (1, *size)
    assert set(np.unique(found.array)) <= {10, 20, 30}
    np.testing.assert_array_equal(found.affine, other.affine)
    np.testing.assert_allclose(probabilities.array.sum(0), 1, atol=1e-5)
    best = np.array([10, 20, 30])[probabilities.array.argmax(0)]
    np.testing.assert_array_equal(found.array[0], best)
    applied = densify(other, apply=out, device="cpu")
    np.testing.assert_array_equal(found.array[0], applied.labels)
    np.testing.assert_array_equal(model.predict(image, spacing=[0.5] * len(size)), applied.labels)
    write_volume(tmp_path / "other.tif", image, other)
    again = volseg.load(out / "model.pt", device="cpu").predict(tmp_path / "other.tif")
    np.testing.assert_array_equal(again.array, found.array)
    if learner == "pixelwise":
        assert np.mean(found.array[0] == np.array([10, 20, 30])[truth]) > 0.8


@pytest.mark.slow
def test_what_a_result_was_not_learnt_for_is_refused(tmp_path):
    model = volseg.load(densified(tmp_path / "out", SIZES["3d"], "pixelwise"), device="cpu")
    image, _ = scene(SIZES["3d"])
    with pytest.raises(InputError, match="takes 1 channel.* and volume in memory has 2"):
        model.predict(np.concatenate([image, image]))
    with pytest.raises(InputError, match=r"segments 3D, and volume in memory is 2D, of shape \(1, 18, 16\)"):
        model.predict(image[..., 0])
    volseg.write_volume(
        tmp_path / "a.png", np.zeros((3, 18, 16), np.uint8), volseg.Volume(image[..., 0], np.eye(3))
    )
    with pytest.raises(InputError, match="Give it an image of as many axes"):
        model.predict(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"is \(channels, \*spatial\), not \(18, 16\)"):
        model.predict(image[0, ..., 0])
    with pytest.raises(InputError, match="Voxels are 1 x 1 x 9"):
        model.predict(image, spacing=(1, 1, 9))


@pytest.fixture
def trained(make_dataset, tmp_path, root, monkeypatch):
    """Trains a bundle a little, and segments its image with ``volseg predict``'s own way."""
    monkeypatch.chdir(root)

    def make(name, **settings):
        data, out = make_dataset(**settings), tmp_path / "run"
        given = {"config_file": [f"bundles/{name}", "configs/smoke.json"], "logging_file": False}
        given |= {"dataset_dir": str(data), "output_dir": str(out)}
        run_bundle(run_id="training", **given)
        run_bundle(run_id="predicting", **given)
        image = data / "images" / "a.tif"
        return out, image, read_volume(out / "segmentations" / "a.tif", labels=True)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("xenopus.json", {}),
        ("hela.json", {"size": (24, 24), "channels": 1, "values": (0, 1), "unlabelled": 255, "cases": "ab"}),
    ],
)
def test_a_run_and_its_exported_weights_segment_as_predict_does(trained, tmp_path, name, settings):
    out, image, wanted = trained(name, **settings)
    for path in (out, out / "model.pt"):
        model = volseg.load(path, device="cpu")
        assert isinstance(model, NetworkModel)
        found = model.predict(image)
        np.testing.assert_array_equal(found.array, wanted.array)
        np.testing.assert_allclose(found.affine, wanted.affine)
    folder = tmp_path / "handed on"
    folder.mkdir()
    export_weights(load_checkpoint(out / "model.pt"), folder / "mine.safetensors")
    with pytest.raises(InputError, match="mine.safetensors holds weights alone"):
        volseg.load(folder)
    shutil.copy(out / "config.json", folder / "mine.json")
    for given in ({}, {"bundle": out / "config.json"}):
        again = volseg.load(folder / "mine.safetensors", device="cpu", **given)
        np.testing.assert_array_equal(again.predict(image).array, wanted.array)
    array = read_volume(image).array
    labels, probabilities = again.predict(array, probabilities=True)
    np.testing.assert_array_equal(labels, wanted.array[0])
    assert probabilities.shape == (len(again.labels), *labels.shape)
    with pytest.raises(InputError, match="Give it the channels that it was trained on"):
        again.predict(np.concatenate([array, array]))


@pytest.mark.slow
def test_a_bundle_of_others_is_judged_before_anything_of_it_is_evaluated(trained, tmp_path):
    out, _, _ = trained("xenopus.json")
    config = json.loads((out / "config.json").read_text())
    config["preprocessing"] = f"$__import__('pathlib').Path('{tmp_path}/seen').touch()"
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedError, match="could do anything: preprocessing evaluates"):
        volseg.load(out)
    assert not (tmp_path / "seen").exists()
    volseg.load(out, trust=True)
    assert (tmp_path / "seen").exists()


@pytest.mark.slow
def test_weights_of_another_network_and_no_weights_are_refused(trained, tmp_path):
    out, _, _ = trained("xenopus.json")
    with pytest.raises(InputError, match="belong to another network"):
        volseg.load(out, bundle="hela")
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "nowhere", tmp_path / "a.tif"):
        with pytest.raises(InputError, match=r"(holds no model|does not exist)\. Name a result of volseg"):
            volseg.load(nothing)
    (tmp_path / "bundle.json").write_text('{"network_def": 1}')
    with pytest.raises(InputError, match="has no 'labels', 'inferer', 'in_channels'"):
        volseg.load(out, bundle=tmp_path / "bundle.json")
