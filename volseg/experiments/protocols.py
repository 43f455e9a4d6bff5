"""The three experiments of Çiçek et al. 2016: semi-automated, more and more slices, fully automated.

What they begin with, annotated cases and variants, comes first: whatever can be found wrong is found there,
before hours of training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from volseg.annotation import find_slices, hold_out
from volseg.arguments import option
from volseg.bundle import check_overrides, read_bundle
from volseg.errors import InputError
from volseg.experiments.campaign import Cell, Results, content_of, open_campaign, run_cells
from volseg.experiments.comparison import BUDGETS, TABLE_1, TABLE_3, Way, write_budgets, write_variants
from volseg.experiments.datasets import (
    Annotated,
    Flat,
    Side,
    annotated,
    count,
    derive,
    divide_budgets,
    divide_folds,
    fingerprint,
    read_annotated,
    volumes,
    without,
)
from volseg.io import read_json
from volseg.labels import LabelScheme

__all__ = [
    "BUDGETS",
    "EVERY_VARIANT",
    "Start",
    "VARIANTS",
    "auto",
    "begin_experiment",
    "budget",
    "check_settings",
    "frozen_bundle",
    "open_start",
    "semi",
    "ways",
]


VARIANTS = {"3d": "3D without BN", "3d-bn": "3D with BN", "2d-bn": "2D with BN"}
_NORM = "network_def#norm"
_NORMS: dict[str, str | None] = {"3d": None, "3d-bn": "batch", "2d-bn": "batch"}
_SET_HERE = ("output_dir", "resume", "overwrite")
_ELSEWHERE = (
    "dataset_dir",
    "phantom_dir",
)  # where data lie, not what they are: the files are compared instead


@dataclass(frozen=True)
class Start:
    """The cases of an experiment and the bundle they are given to."""

    files: tuple[Path, ...]
    settings: dict[str, Any]
    scheme: LabelScheme
    cases: list[Annotated]
    slices: dict[str, dict[str, list[int]]]
    data: str  # what the dataset calls itself

    def named(self, names: Sequence[str] | None) -> list[Annotated]:
        """The cases asked for by name; all without."""
        unknown = sorted(set(names or ()) - set(self.slices))
        if unknown:
            raise InputError(f"There is no case {unknown[0]!r}. There are: {', '.join(self.slices)}.")
        return [case for case in self.cases if names is None or case.name in names]


def begin_experiment(files: Sequence[Path], settings: Mapping[str, Any]) -> Start:
    """Read the bundle and every case's annotation."""
    bundle = check_settings(files, settings)
    if any(entry not in bundle for entry in ("labels", "in_channels", "cases")):
        raise InputError(f"{files[0]} lacks one of the entries 'labels', 'in_channels' and 'cases'.")
    scheme, channels, found, home = content_of(
        files, settings, "labels", "in_channels", "cases", "dataset_dir"
    )
    settings = dict(settings)
    for entry in ("held_out", "val_interval"):  # the experiment says what is tested, and when
        if isinstance(bundle.get(entry), str | int | float):
            settings.setdefault(entry, 0)
    cases = read_annotated(found, scheme, channels)
    slices = {case.name: find_slices(case.label) for case in cases}
    return Start(tuple(files), settings, scheme, cases, slices, _name_of(Path(home)))


def check_settings(files: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The bundle as it stands, if an experiment can set in it what it has to."""
    bundle = read_bundle(files)
    for entry in _SET_HERE:
        if entry in settings:
            raise ValueError(
                f"{entry} is set by the experiment for each of its cells. Name its folder "
                f"({option('output')})."
            )
    check_overrides(bundle, {**settings, **dict.fromkeys((*_SET_HERE, "dataset_dir"))})
    return bundle


def ways(
    start: Start, variants: Sequence[str], files_2d: Sequence[Path], files_bare: Sequence[Path] = ()
) -> list[Way]:
    """The variants that Tables 1 and 3 compare, each checked as far as that goes without training."""
    unknown = [key for key in variants if key not in VARIANTS]
    if unknown or not variants:
        raise ValueError(f"variants {', '.join(variants)}: each must be one of {', '.join(VARIANTS)}.")
    if _NORM in start.settings:
        raise ValueError(
            f"{_NORM} cannot be set here: it is what the variants differ in ({option('variants')})."
        )
    if any(case.label.ndim != 3 for case in start.cases):
        raise InputError("The images are 2D already, but 3D is to be compared with 2D: volumes are needed.")
    found = []
    for key in variants:
        files, settings = start.files, {**start.settings, _NORM: _NORMS[key]}
        if key == "3d" and files_bare:
            files = tuple(files_bare)
        if key.startswith("2d"):
            files = tuple(files_2d)
            patch = settings.get("patch_size")
            if isinstance(patch, list | tuple) and len(patch) == 3:  # holds for the volumes
                del settings["patch_size"]
        found.append(way(key, VARIANTS[key], files, settings))
    return found


def way(key: str, title: str, files: tuple[Path, ...], settings: dict[str, Any]) -> Way:
    """A way to train, with the size of its network; a patch that does not fit the network is reported now."""
    bundle = read_bundle(files)
    check_overrides(bundle, settings)
    network, epochs, length = content_of(
        files, settings, "network_def", "train#trainer#max_epochs", "train#trainer#epoch_length"
    )
    if "patch_size" in bundle:
        network.output_size(*content_of(files, settings, "patch_size"))
    parameters = sum(tensor.numel() for tensor in network.parameters())
    return Way(key, title, files, settings, parameters, int(epochs) * int(length))


def open_start(folder: Path, kind: str, start: Start, found: Sequence[Way], asked: Mapping[str, Any]) -> None:
    """Open the folder of the experiment, if what it holds was made with these settings and data."""
    settings = {
        "experiment": kind,
        **asked,
        "bundle": {way.key: frozen_bundle(way.files, way.settings) for way in found},
        "data": fingerprint([case.case for case in start.cases]),
    }
    open_campaign(folder, settings, may_grow="bundle")


def _name_of(folder: Path) -> str:
    """What a dataset calls itself, or is called."""
    path = folder / "dataset.json"
    listing = read_json(path) if path.is_file() else {}
    return str(listing.get("name", folder.name))


def frozen_bundle(files: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle with overlays and settings, without where its data lie."""
    bundle = read_bundle(files)
    parser = ConfigParser(config=bundle)
    parser.update(dict(settings))
    return {
        key: value for key, value in parser.get().items() if key not in (*_SET_HERE, *_ELSEWHERE, "_meta_")
    }


EVERY_VARIANT = tuple(VARIANTS)


def semi(
    files: Sequence[Path],
    settings: Mapping[str, Any],
    folder: Path,
    *,
    folds: int = 3,
    variants: Sequence[str] = EVERY_VARIANT,
    files_2d: Sequence[Path] = (),
    files_bare: Sequence[Path] = (),
) -> None:
    """Cross-validation over the annotated slices of all cases (Table 1).

    Args:
        files: the bundle and its overlays.
        settings: new values for entries of the bundle.
        folder: of the experiment.
        variants: some of :data:`VARIANTS`.
        files_2d: the bundle with what makes it one for slices.
        files_bare: the bundle with what it needs without batch norm, if that is more than leaving it out.
    """
    start = begin_experiment(files, settings)
    found = ways(start, variants, files_2d, files_bare)
    divided = divide_folds(start.slices, folds)
    open_start(folder, "semi", start, found, {"folds": folds})
    flat = Flat(folder / "datasets" / "slices")
    cells = []
    for number, test in enumerate(divided, start=1):
        both = {case.name: hold_out(case.label, test[case.name]) for case in start.cases}
        rest = {name: without(start.slices[name], test[name]) for name in both}
        train = Side(start.cases, {name: labels[0] for name, labels in both.items()}, rest)
        tested = Side(start.cases, {name: labels[1] for name, labels in both.items()}, test)
        for one in found:
            sets = _datasets(folder / "datasets" / f"fold{number}", one, start, flat, train, tested)
            facts = {"variant": one.title, "fold": number, **_facts(train, tested)}
            title = f"{one.title}, fold {number}"
            cells.append(_cell(f"{one.key}_fold{number}", title, str(number), one, sets, facts))
    total = sum(map(count, start.slices.values()))
    head = (
        f"# Semi-automated segmentation: {folds}-fold cross-validation\n\n"
        f"{total} annotated slices of {len(start.cases)} case(s) are divided into {folds} test subsets. In "
        "training a test slice is unlabelled, also where other slices cross it. Every variant has the same "
        "subsets and is scored on the same voxels: mean IoU over the classes, pooled over the voxels of the "
        "test slices.\n\n"
    )

    def report(results: Results) -> None:
        write_variants(folder, cells, results, head, "test subset", "Table 1", TABLE_1, start.data, found)

    run_cells(folder, cells, report)


def auto(
    files: Sequence[Path],
    settings: Mapping[str, Any],
    folder: Path,
    *,
    cases: Sequence[str] | None = None,
    variants: Sequence[str] = EVERY_VARIANT,
    files_2d: Sequence[Path] = (),
    files_bare: Sequence[Path] = (),
) -> None:
    """Training on all cases but one, tested on the annotated slices of that one (Table 3).

    Args:
        cases: names of those that are left out in turn; all without.
    """
    start = begin_experiment(files, settings)
    found = ways(start, variants, files_2d, files_bare)
    if len(start.cases) < 2:
        raise InputError(
            f"There is only one case, {start.cases[0].name}: none is left to train on without it."
        )
    chosen = start.named(cases)
    open_start(folder, "auto", start, found, {})
    flat = Flat(folder / "datasets" / "slices")
    cells = []
    for case in chosen:
        name = case.name
        others = [other for other in start.cases if other is not case]
        train = Side(others, {other.name: other.label for other in others}, start.slices)
        tested = Side([case], {name: hold_out(case.label, start.slices[name])[1]}, start.slices)
        for one in found:
            sets = _datasets(folder / "datasets" / f"without_{name}", one, start, flat, train, tested)
            facts = {"variant": one.title, "test case": name, **_facts(train, tested)}
            title = f"{one.title}, tested on {name}"
            cells.append(_cell(f"{one.key}_without_{name}", title, name, one, sets, facts))
    head = (
        "# Fully automated segmentation: one case left out\n\n"
        f"Trained on the annotated slices of all {len(start.cases)} cases but one, tested on those of that "
        "one: mean IoU over the classes, pooled over the voxels of the test slices.\n\n"
    )

    def report(results: Results) -> None:
        write_variants(folder, cells, results, head, "test volume", "Table 3", TABLE_3, start.data, found)

    run_cells(folder, cells, report)


def budget(
    files: Sequence[Path],
    settings: Mapping[str, Any],
    folder: Path,
    *,
    budgets: Sequence[Sequence[int]] = BUDGETS,
    cases: Sequence[str] | None = None,
) -> None:
    """More and more slices of one case at a time, always tested on the same voxels (Table 2).

    Args:
        budgets: slices per axis, such as ``(3, 3, 2)``.
        cases: names of those that are done; all without.
    """
    start = begin_experiment(files, settings)
    chosen = start.named(cases)
    one = way("bundle", "", start.files, start.settings)
    names = [",".join(map(str, numbers)) for numbers in budgets]
    open_start(folder, "budget", start, [one], {"budgets": names})
    cells = []
    for case in chosen:
        divided = divide_budgets(case.label, start.slices[case.name], budgets)
        home = folder / "datasets" / case.name
        test = derive(
            home / "test", volumes(Side([case], {case.name: divided.test}, {}), test=True), start.scheme
        )
        for name, labels, slices in zip(names, divided.train, divided.slices, strict=True):
            key = name.replace(",", "-")
            train = derive(home / key, volumes(Side([case], {case.name: labels}, {})), start.scheme)
            labelled = float(annotated(labels).mean())
            taken = " ".join(str(len(indices)) for indices in slices.values())
            facts = {"case": case.name, "slices": taken, "labelled": f"{labelled:.5f}"}
            title = f"{case.name}, {name} slices, {labelled:.1%} of the voxels labelled"
            cells.append(
                _cell(f"{case.name}_{key}", title, name, one, (train, test), facts, column=case.name)
            )

    def report(results: Results) -> None:
        write_budgets(folder, cells, results, start.data, one)

    run_cells(folder, cells, report)


def _datasets(home: Path, one: Way, start: Start, flat: Flat, train: Side, test: Side) -> tuple[Path, Path]:
    """What a cell of Table 1 or 3 is trained and scored on, derived where it is not there yet."""
    if one.flat:
        return (
            derive(home / "2d_train", flat.train(train), start.scheme),
            derive(home / "2d_test", flat.test(test), start.scheme),
        )
    return (
        derive(home / "3d_train", volumes(train), start.scheme),
        derive(home / "3d_test", volumes(test, test=True), start.scheme),
    )


def _cell(
    name: str,
    title: str,
    row: str,
    one: Way,
    sets: tuple[Path, Path],
    facts: Mapping[str, Any],
    *,
    column: str | None = None,
) -> Cell:
    column = one.title if column is None else column
    return Cell(name, title, row, column, one.files, one.settings, dataset=sets[0], test=sets[1], facts=facts)


def _facts(train: Side, test: Side) -> dict[str, Any]:
    """How much is annotated for the two sides, for the table."""
    voxels = [annotated(train.labels[case.name]) for case in train.cases]
    return {
        "slices": sum(count(train.slices[case.name]) for case in train.cases),
        "test slices": sum(count(test.slices[case.name]) for case in test.cases),
        "labelled": f"{sum(int(v.sum()) for v in voxels) / sum(v.size for v in voxels):.5f}",
    }
