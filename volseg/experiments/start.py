"""What the papers' experiments begin with: the annotated cases, the variants, and checks of both.

Whatever can be found wrong is found here, before hours of training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from volseg.annotation import find_slices
from volseg.arguments import option
from volseg.bundle import check_overrides, read_bundle
from volseg.errors import InputError
from volseg.experiments.campaign import open_campaign
from volseg.experiments.cells import content_of
from volseg.experiments.datasets import Annotated, fingerprint, read_annotated
from volseg.io import read_json
from volseg.labels import LabelScheme

__all__ = [
    "VARIANTS",
    "Start",
    "Way",
    "begin_experiment",
    "check_settings",
    "frozen_bundle",
    "open_start",
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


@dataclass(frozen=True)
class Way:
    """How one column of a table is trained."""

    key: str
    title: str
    files: tuple[Path, ...]
    settings: dict[str, Any]
    parameters: int
    iterations: int

    @property
    def flat(self) -> bool:
        """Whether on slices as images of their own."""
        return self.key.startswith("2d")


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
