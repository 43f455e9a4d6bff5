"""Dataset folders for the figures in docs/results.md, made from data with dense ground truth.

    python benchmarks/prepare.py medulla SOURCE data/medulla

``SOURCE`` is the folder of that data set: ``raw.tif`` and ``labels_boundary.tif`` (medulla); ``imagesTr/``
and ``labelsTr/`` of the Medical Segmentation Decathlon's Task04 (hippocampus); two stacks of images,
``train-volume.tif`` and ``train-labels.tif`` (isbi2012) or ``images.tif`` and ``labels.tif`` (hela);
``images/`` and ``labels/`` with one file per image (dsb2018, usiigaci, axon).

In 3D only the slices named here are left in the labels to train on; the rest becomes 255, unlabelled. In 2D
whole images are held out, which ``dataset.json`` lists. ``axon`` makes one folder per animal, where the
images of this animal are held out.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from volseg import LabelScheme, Volume, read_volume, write_volume
from volseg.annotation import keep_slices

TRAINING_CASES = 40  # of the hippocampus, in the order of their names; the others are scored
ISBI_TEST = range(20, 24)  # sections
HELA_TEST = range(22, 30)  # frames, the last ones: neighbours in time look alike
EVERY = {"dsb2018": 4, "usiigaci": 3}  # in the order of the names, one image in so many is held out


def medulla(source: Path, target: Path, counts: Sequence[int], crop: int | None = None) -> None:
    """One volume, or its middle, so many slices along x, y and z; the dense truth beside it."""
    for part in ("images", "labels", "truth"):
        (target / part).mkdir(parents=True)
    image, truth = target / "images" / "medulla.tif", target / "truth" / "medulla.tif"
    for here, there in ((source / "raw.tif", image), (source / "labels_boundary.tif", truth)):
        if crop is None:
            shutil.copyfile(here, there)
            continue
        volume = read_volume(here, labels=there == truth)
        starts = [max(0, (n - crop) // 2) for n in volume.spatial_shape]
        array = volume.array[:, *(slice(start, start + crop) for start in starts)]
        write_volume(there, array, Volume(array, volume.affine, volume.unit))
    _sparse_copy(truth, target / "labels" / "medulla.tif", counts)


def hippocampus(source: Path, target: Path, counts: Sequence[int]) -> None:
    """40 cases with sparse labels in ``train``, the other 20 with dense labels in ``test``."""
    labels = sorted((source / "labelsTr").glob("*.nii.gz"))
    for index, label in enumerate(labels):
        is_training = index < TRAINING_CASES
        folder = target / ("train" if is_training else "test")
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "imagesTr" / label.name, folder / "images" / label.name)
        if is_training:
            _sparse_copy(label, folder / "labels" / label.name, counts)
        else:
            shutil.copyfile(label, folder / "labels" / label.name)


def _sparse_copy(source: Path, target: Path, slices: Sequence[int]) -> None:
    """Write the label ``source`` with only some slices annotated."""
    volume = read_volume(source, labels=True)
    values = [int(v) for v in np.unique(volume.array)]
    scheme = LabelScheme([str(v) for v in values], values, 255)
    kept = keep_slices(scheme.encode(volume.array[0], source=str(source)), slices)
    write_volume(target, scheme.decode(kept), volume)


def isbi2012(source: Path, target: Path) -> None:
    """Sections 0 to 19 to train on, 20 to 23 held out."""
    _stack(source / "train-volume.tif", source / "train-labels.tif", target, "section", ISBI_TEST)


def hela(source: Path, target: Path) -> None:
    """The first 22 frames to train on, the last 8 held out."""
    _stack(source / "images.tif", source / "labels.tif", target, "frame", HELA_TEST)


def _stack(images: Path, labels: Path, target: Path, name: str, test: Sequence[int]) -> None:
    """The pages of a stack as images of their own."""
    for part, path in (("images", images), ("labels", labels)):
        (target / part).mkdir(parents=True)
        volume = read_volume(path, labels=part == "labels")
        affine = volume.affine[np.ix_([0, 1, 3], [0, 1, 3])]
        for z in range(volume.spatial_shape[2]):
            page = np.ascontiguousarray(volume.array[..., z])
            write_volume(target / part / f"{name}_{z:02d}.tif", page, Volume(page, affine, volume.unit))
    _hold_out(target, (f"{name}_{z:02d}" for z in test))


def files(source: Path, target: Path, which: str) -> None:
    """The images as they are, RGB turned to grey; evenly spread ones held out."""
    names = sorted(path.stem for path in (source / "labels").glob("*.tif"))
    _copy(source, target, names)
    _hold_out(target, names[EVERY[which] // 2 :: EVERY[which]])


def axon(source: Path, target: Path) -> None:
    """One folder per animal, where this animal's images are held out."""
    names = sorted(path.stem for path in (source / "labels").glob("*.tif"))
    for animal in sorted({name.split("_")[0] for name in names}):
        folder = target / animal.removeprefix("sub-")
        _copy(source, folder, names)
        _hold_out(folder, (name for name in names if name.startswith(f"{animal}_")))


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for part in ("images", "labels"):
        (target / part).mkdir(parents=True)
        for name in names:
            volume = read_volume(source / part / f"{name}.tif", labels=part == "labels")
            array = volume.array
            if len(array) == 3:
                array = np.rint(array.mean(0, keepdims=True)).astype(array.dtype)
            like = Volume(array, volume.affine, volume.unit)
            write_volume(target / part / f"{name}.tif", array, like)


def _hold_out(target: Path, names: Iterable[str]) -> None:
    listing = {"held_out": dict.fromkeys(names, "all")}
    (target / "dataset.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and make the folder."""
    sparse: dict[str, tuple[Callable[..., None], int]] = {
        "medulla": (medulla, 4),
        "hippocampus": (hippocampus, 2),
    }
    dense: dict[str, Callable[[Path, Path], None]] = {"isbi2012": isbi2012, "hela": hela, "axon": axon}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=(*sparse, *dense, *EVERY))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--slices",
        type=lambda text: [int(part) for part in text.split(",")],
        help="annotated slices per direction (4 for medulla, 2 for hippocampus), or 0,0,12 for xy alone",
    )
    parser.add_argument("--crop", type=int, help="medulla: so many voxels along each axis, from the middle")
    given = parser.parse_args()
    if given.target.exists():
        parser.error(f"{given.target} exists already.")
    if given.crop and given.which != "medulla":
        parser.error("--crop is for medulla.")
    if given.which in sparse:
        make, per_direction = sparse[given.which]
        counts = given.slices or [per_direction]
        options = {"crop": given.crop} if given.crop else {}
        make(given.source, given.target, counts * 3 if len(counts) == 1 else counts, **options)
    elif given.which in dense:
        dense[given.which](given.source, given.target)
    else:
        files(given.source, given.target, given.which)


if __name__ == "__main__":
    main()
