"""What others make of the same paint: a random forest on filter responses, and nnU-Net with its ignore label.

    python benchmarks/densify_peers.py forest TASK.npz RESULT.npz
    python benchmarks/densify_peers.py nnunet TASK.npz RESULT.npz --seconds 300
    python benchmarks/densify_peers.py strokes TASK.npz RESULT.npz

Called by ``densify.py`` with the interpreter of an environment of its own (``peers.txt``); needs
no volseg. ``TASK.npz`` holds ``image (C, *spatial)``, ``labels (*spatial)`` with 255 where nobody painted,
``spacing``, ``classes`` and ``seed``; ``RESULT.npz`` gets ``voxels`` (flat indices, or nothing for all)
and their ``classes``. ``strokes`` is the forest again, on responses that ``loop.py`` computed: ``seen (n,
features)``, ``painted (n,)`` and ``turn (n,)`` of painted voxels, ``asked (m, features)`` of others and the
``turns`` after which they are asked about; the result holds ``classes (turns, m)``.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

UNLABELLED = 255
SIGMAS = (0.7, 1.0, 1.6, 3.5, 5.0)
TRAINED = 200_000  # annotated voxels, at most
SCORED = 1_000_000  # random unpainted voxels that the forest is asked about
TREES = 100


def forest(task: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Ilastik's method: 45 responses per channel, one random forest."""
    from sklearn.ensemble import RandomForestClassifier

    labels = task["labels"].reshape(-1)
    rng = np.random.default_rng(int(task["seed"]))
    painted = np.flatnonzero(labels != UNLABELLED)
    painted = rng.permutation(painted)[:TRAINED]
    asked = np.sort(rng.permutation(np.flatnonzero(labels == UNLABELLED))[:SCORED])
    train = np.empty((len(painted), 0), np.float32)
    test = np.empty((len(asked), 0), np.float32)
    for channel in task["image"]:
        for sigma in SIGMAS:
            found = [f.reshape(-1) for f in _responses(channel.astype(np.float32), sigma)]
            train = np.column_stack([train, *(f[painted] for f in found)])
            test = np.column_stack([test, *(f[asked] for f in found)])
    trees = RandomForestClassifier(TREES, n_jobs=1, random_state=int(task["seed"]))
    trees.fit(train, labels[painted])
    return asked, trees.predict(test)


def strokes(task: dict[str, np.ndarray]) -> np.ndarray:
    """One forest after each of some turns, on what is painted by then."""
    from sklearn.ensemble import RandomForestClassifier

    found = []
    for turn in task["turns"]:
        there = task["turn"] <= turn
        trees = RandomForestClassifier(TREES, n_jobs=1, random_state=int(task["seed"]))
        trees.fit(task["seen"][there], task["painted"][there])
        found.append(trees.predict(task["asked"]))
    return np.stack(found)


def _responses(image: np.ndarray, sigma: float) -> list[np.ndarray]:
    """Smoothed, gradient, Laplacian, eigenvalues of Hessian and structure tensor."""
    from scipy import ndimage
    from skimage.feature import hessian_matrix, hessian_matrix_eigvals, structure_tensor
    from skimage.feature import structure_tensor_eigenvalues as tensor_eigenvalues

    hessian = hessian_matrix_eigvals(hessian_matrix(image, sigma, use_gaussian_derivatives=False))
    tensor = tensor_eigenvalues(structure_tensor(ndimage.gaussian_filter(image, sigma), sigma))
    return [
        ndimage.gaussian_filter(image, sigma),
        ndimage.gaussian_gradient_magnitude(image, sigma),
        ndimage.gaussian_laplace(image, sigma),
        *hessian,
        *tensor,
    ]


def nnunet(task: dict[str, np.ndarray], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """nnU-Net v2, 3d_fullres as it plans it, trained for so long; planning and segmenting come on top."""
    home = Path(tempfile.mkdtemp(prefix="nnunet-"))
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(home / name)
    os.environ.update({"nnUNet_n_proc_DA": "1"})
    try:
        return _nnunet(task, seconds, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _nnunet(task: dict[str, np.ndarray], seconds: float, home: Path) -> tuple[np.ndarray, np.ndarray]:
    import SimpleITK
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(int(task["seed"]))
    np.random.seed(int(task["seed"]))
    classes, spacing = int(task["classes"]), [float(s) for s in task["spacing"]]
    name = "Dataset001_task"
    raw = home / "raw" / name
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    labels = np.where(task["labels"] == UNLABELLED, classes, task["labels"]).astype(np.uint8)

    def write(array: np.ndarray, path: Path) -> None:
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing(spacing)
        SimpleITK.WriteImage(image, str(path))

    for channel, array in enumerate(task["image"]):
        write(array.astype(np.float32), raw / "imagesTr" / f"case_{channel:04d}.nii.gz")
    write(labels, raw / "labelsTr" / "case.nii.gz")
    names = {"background": 0} | {f"class{c}": c for c in range(1, classes)} | {"ignore": classes}
    about = {
        "channel_names": {str(c): "image" for c in range(len(task["image"]))},
        "labels": names,
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    extract_fingerprints([1], num_processes=1)
    plan_experiments([1])
    preprocess([1], configurations=("3d_fullres",), num_processes=(1,))
    folder = home / "preprocessed" / name
    plans = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
    listing = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    class Limited(nnUNetTrainer):  # type: ignore[misc, valid-type]
        """Stops when its time is over; the learning rate comes to its end then."""

        def run_training(self) -> None:
            self.on_train_start()
            self.network.train()
            began = time.monotonic()
            while (share := (time.monotonic() - began) / seconds) < 1:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - share) ** 0.9
                self.train_step(next(self.dataloader_train))

    os.environ.update({"nnUNet_n_proc_DA": "0"})  # patches are made here; planning refuses none
    plans["continue_training"] = False
    trainer = Limited(plans, "3d_fullres", "all", listing, device=device)
    trainer.run_training()
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=device.type == "cuda", device=device
    )
    trainer.set_deep_supervision_enabled(False)
    network = trainer.network.eval()
    predictor.manual_initialization(
        network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [network.state_dict()],
        listing,
        "Limited",
        trainer.inference_allowed_mirroring_axes,
    )
    image = np.ascontiguousarray(np.transpose(task["image"].astype(np.float32), (0, 3, 2, 1)))
    found = predictor.predict_single_npy_array(image, {"spacing": spacing[::-1]})
    return np.empty(0, np.int64), np.ascontiguousarray(found.T).reshape(-1)


def main() -> None:
    """Do one task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=("forest", "nnunet", "strokes"))
    parser.add_argument("task", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    given = parser.parse_args()
    task = dict(np.load(given.task))
    if given.method == "strokes":
        np.savez(given.result, classes=strokes(task).astype(np.uint8))
        return
    voxels, classes = forest(task) if given.method == "forest" else nnunet(task, given.seconds)
    np.savez(given.result, voxels=voxels, classes=classes.astype(np.uint8))


if __name__ == "__main__":
    main()
