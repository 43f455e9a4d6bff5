"""The data of an experiment: which annotated slices are trained and tested on, and the folders made for it.

Which slices is arithmetic on label arrays: as in :mod:`volseg.annotation`, class indices ``(*spatial)``
with 255 where it is unlabelled, and a choice of slices is a mapping from the axis, ``"x"``, ``"y"`` or
``"z"``, to indices.

A derived dataset is an ordinary dataset folder: ``labels/`` hold what this cell trains on, or is tested on,
and nothing else; ``images/`` are links. It gets its name when it is complete.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from volseg.annotation import even_positions, hold_out
from volseg.arguments import option
from volseg.data import Case, load_case
from volseg.errors import InputError
from volseg.geometry import AXES
from volseg.io import Volume, digest, read_volume, suffix_of, write_json, write_volume
from volseg.io.tiff import TiffHeader
from volseg.labels import IGNORE_INDEX, LabelScheme

__all__ = [
    "Annotated",
    "Budgets",
    "DerivedImage",
    "Flat",
    "Labels",
    "Side",
    "Slices",
    "annotated",
    "count",
    "derive",
    "divide_budgets",
    "divide_folds",
    "fingerprint",
    "link_images",
    "read_annotated",
    "volumes",
    "without",
]


Labels: TypeAlias = npt.NDArray[np.uint8]
Slices: TypeAlias = Mapping[str, Sequence[int]]


class Budgets(NamedTuple):
    """What is trained on under each budget, and what all of them are tested on."""

    train: list[Labels]
    slices: list[dict[str, list[int]]]  # the slices trained on, per budget
    test: Labels


def count(slices: Slices) -> int:
    """How many slices there are."""
    return sum(map(len, slices.values()))


def divide_folds(cases: Mapping[str, Slices], folds: int) -> list[dict[str, dict[str, list[int]]]]:
    """Every annotated slice in one of ``folds`` test subsets: per fold the slices of each case.

    The subsets are equally large, and each is spread evenly over each direction; slices that are
    neighbours stay together, because one of them shows what the next looks like.
    """
    total = sum(count(slices) for slices in cases.values())
    if not 2 <= folds <= total:
        raise InputError(
            f"{folds} folds of {total} annotated slice(s) are not possible: each needs a slice to test on "
            f"and one to train on. Choose {option('folds')} from 2 to the number of slices."
        )
    divided: list[dict[str, dict[str, list[int]]]] = [
        {name: {axis: [] for axis in slices} for name, slices in cases.items()} for _ in range(folds)
    ]
    start = 0
    for name, slices in cases.items():
        for axis, indices in slices.items():
            n = len(indices)
            together = n > 1 and float(np.mean(np.diff(indices) == 1)) > 0.5
            for i, index in enumerate(indices):
                fold = i * folds // n if together else i
                divided[(start + fold) % folds][name][axis].append(int(index))
            start += n
    if not all(any(map(count, fold.values())) for fold in divided):
        raise InputError(
            f"The annotated slices cannot be divided into {folds} folds. Choose fewer ({option('folds')})."
        )
    return divided


def divide_budgets(labels: Labels, slices: Slices, budgets: Sequence[Sequence[int]]) -> Budgets:
    """Fewer and more annotated slices to train on, and one test for all of them.

    The slices of the largest budget are spread evenly over the annotated ones, those of the smaller
    budgets evenly over these. The test is on the slices that are in none of them, as in Çiçek et al.
    2016 (Table 2), without the lines in which they cross a slice of any budget.

    Args:
        slices: the annotated slices.
        budgets: slices per axis; where fewer are annotated, these are taken.
    """
    axes = list(slices)
    for budget in budgets:
        if len(budget) != len(axes) or min(budget) < 0 or not any(budget):
            raise ValueError(
                f"The budget {','.join(map(str, budget))} does not fit: write one number of slices per axis "
                f"({', '.join(axes)}), such as {','.join('2' * len(axes))}."
            )
    most = {
        axis: [slices[axis][i] for i in even_positions(len(slices[axis]), min(k, len(slices[axis])))]
        for axis, k in zip(axes, np.max(np.asarray(budgets), axis=0).tolist(), strict=True)
    }
    rest = {axis: sorted(set(slices[axis]) - set(most[axis])) for axis in axes}
    if not count(rest):
        raise InputError(
            "The largest budget takes every annotated slice, so none is left to test on. "
            f"Choose smaller ones ({option('budgets')})."
        )
    chosen = [
        {
            axis: [most[axis][i] for i in even_positions(len(most[axis]), min(k, len(most[axis])))]
            for axis, k in zip(axes, budget, strict=True)
        }
        for budget in budgets
    ]
    test = hold_out(hold_out(labels, most)[0], rest)[1]
    return Budgets([hold_out(labels, part)[1] for part in chosen], chosen, test)


def without(slices: Slices, others: Slices) -> dict[str, list[int]]:
    """The slices that are not among the others."""
    return {
        axis: [i for i in indices if i not in set(others.get(axis, ()))] for axis, indices in slices.items()
    }


def annotated(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where there is annotation."""
    return np.asarray(labels != IGNORE_INDEX)


_TEST = "_test"  # ends the names of cases to test on: their labels are not the file that was trained on


@dataclass(frozen=True)
class Annotated:
    """A case of the experiment: all that is annotated, as class indices, and the truth if there is one."""

    case: Case
    label: Labels
    truth: Labels | None  # where there is no annotation, else unlabelled
    volume: Volume  # the image's geometry, without its voxels

    @property
    def name(self) -> str:
        """The case's name."""
        return self.case.name


@dataclass(frozen=True)
class Side:
    """What one side of an experiment has: some cases, what is annotated there, and on which slices."""

    cases: Sequence[Annotated]
    labels: Mapping[str, Labels]
    slices: Mapping[str, Slices]


@dataclass(frozen=True)
class DerivedImage:
    """One image of a derived dataset."""

    name: str
    image: Path
    label: Labels
    like: Volume
    truth: Labels | None = None


def read_annotated(cases: Sequence[Case], scheme: LabelScheme, in_channels: int) -> list[Annotated]:
    """Labels and truth of all cases, checked as a training would."""
    if scheme.unlabelled is None:
        raise InputError(
            "The bundle's labels have no value for unlabelled voxels, but slices are to be left out. "
            "Set labels#unlabelled to a value that is not a class."
        )
    found = []
    for case in cases:
        if case.label is None:
            raise InputError(f"{case.image} has no annotation: an experiment needs cases with labels.")
        if case.channels:
            raise InputError(
                f"{case.image} is one channel of several, but an experiment needs a file per image. "
                "Join them by 'volseg convert'."
            )
        item = load_case(replace(case, held_out={}), labels=scheme, in_channels=in_channels)
        label = item["label"][0].numpy()
        truth = item["truth"][0].numpy() if "truth" in item else None
        if truth is not None:
            truth = np.where(annotated(label), np.uint8(IGNORE_INDEX), truth)
        found.append(Annotated(case, label, truth, item["volume"]))
    return found


def fingerprint(cases: Sequence[Case]) -> dict[str, dict[str, str]]:
    """What the files of each case hold, as SHA-256."""
    return {
        case.name: {
            part: digest(path)
            for part, path in (("image", case.image), ("label", case.label), ("truth", case.truth))
            if path is not None
        }
        for case in cases
    }


def derive(folder: Path, samples: Iterable[DerivedImage], scheme: LabelScheme) -> Path:
    """Write a dataset, unless it is there already.

    Args:
        samples: asked for only where they are written.
    """
    if folder.is_dir():
        return folder
    with _appearing(folder) as draft:
        names = []
        for sample in samples:
            names.append(sample.name)
            file = sample.name + suffix_of(sample.image)
            parts = {"labels": sample.label} | ({} if sample.truth is None else {"truth": sample.truth})
            for part in ("images", *parts):
                (draft / part).mkdir(exist_ok=True)
            _link(sample.image, draft / "images" / file)
            for part, array in parts.items():
                write_volume(draft / part / file, scheme.decode(array), sample.like)
        listing = {"name": f"derived: {folder.name}", "held_out": {name: {} for name in names}}
        write_json(draft / "dataset.json", listing, indent=1)
    return folder


def link_images(folder: Path, cases: Sequence[Case]) -> Path:
    """A folder with the images of some cases, unless it is there already."""
    if not folder.is_dir():
        with _appearing(folder) as draft:
            for case in cases:
                _link(case.image, draft / f"{case.name}{suffix_of(case.image)}")
    return folder


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def volumes(part: Side, *, test: bool = False) -> Iterator[DerivedImage]:
    """The cases as they are, with the part's labels; one without annotation in this part is left out.

    Args:
        test: it is for scoring: the truth comes along.
    """
    for case in part.cases:
        label = part.labels[case.name]
        if annotated(label).any():
            name = f"{case.name}{_TEST}" if test else case.name
            yield DerivedImage(name, case.case.image, label, case.volume, case.truth if test else None)


class Flat:
    """Slices of volumes as 2D images: each is cut once, whatever number of datasets it is in.

    Args:
        folder: where the images go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: tuple[str, npt.NDArray[Any]] | None = None

    def train(self, part: Side) -> Iterator[DerivedImage]:
        """The part's slices, each with its annotation."""
        for case in part.cases:
            for axis, index in _each(part.slices[case.name]):
                plane = _plane(part.labels[case.name], axis, index)
                if annotated(plane).any():
                    yield self._sample(case, axis, index, plane, "")

    def test(self, part: Side) -> Iterator[DerivedImage]:
        """The part's slices; a voxel on two of them counts in the first only.

        With a truth, all slices along the last axis come along, so that the whole volume is scored as it
        would be segmented: slice by slice.
        """
        for case in part.cases:
            rest = part.labels[case.name].copy()
            last = AXES[rest.ndim - 1]
            slices = {axis: list(indices) for axis, indices in part.slices[case.name].items()}
            if case.truth is not None:
                slices[last] = list(range(rest.shape[-1]))
            for axis, index in _each(slices):
                plane = _plane(rest, axis, index).copy()
                _plane(rest, axis, index)[...] = IGNORE_INDEX
                truth = None if case.truth is None or axis != last else _plane(case.truth, axis, index)
                if annotated(plane).any() or (truth is not None and annotated(truth).any()):
                    yield self._sample(case, axis, index, plane, _TEST, truth)

    def _sample(
        self, case: Annotated, axis: str, index: int, label: Labels, ending: str, truth: Labels | None = None
    ) -> DerivedImage:
        name = f"{case.name}_{axis}{index:03d}"
        like = _plane_like(case.volume, axis, f"{name}{ending}")
        path = self.folder / f"{name}.tif"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_volume(path, np.take(self._image(case), index, axis=1 + AXES.index(axis)), like)
        return DerivedImage(f"{name}{ending}", path, label, like, truth)

    def _image(self, case: Annotated) -> npt.NDArray[Any]:
        if self._open is None or self._open[0] != case.name:
            self._open = case.name, read_volume(case.case.image).array
        return self._open[1]


def _each(slices: Slices) -> Iterator[tuple[str, int]]:
    for axis, indices in slices.items():
        for index in indices:
            yield axis, index


def _plane(array: npt.NDArray[Any], axis: str, index: int) -> npt.NDArray[Any]:
    """A slice of a volume, as a view."""
    where: tuple[Any, ...] = (*[slice(None)] * AXES.index(axis), index)
    return array[where]


def _plane_like(volume: Volume, axis: str, name: str) -> Volume:
    """The geometry of a slice: its pixel size. The name goes into the file.

    So no two label files are the same, even if both show nothing but background: a checkpoint knows
    what was trained on by the content of the label files.
    """
    kept = [i for i in range(volume.spatial_dims) if AXES[i] != axis]
    size = [volume.spatial_shape[i] for i in kept]
    spacing = [volume.spacing[i] for i in kept]
    resolution = [(round(2**20 / step), 2**20) for step in spacing]
    own = {"Info": name} | ({"unit": volume.unit} if volume.unit else {})
    return Volume(
        np.broadcast_to(np.zeros((), np.uint8), (1, *size)),
        np.diag([*spacing, 1.0]),
        volume.unit,
        header=TiffHeader("imagej", "YX", "YX", (resolution[0], resolution[1]), 1, own),
    )


def _link(source: Path, target: Path) -> None:
    """The same file under another name, without a copy where the file system allows."""
    source = source.resolve()
    for attempt in (os.link, os.symlink, shutil.copyfile):
        try:
            attempt(source, target)
            return
        except OSError:
            if attempt is shutil.copyfile:
                raise
