"""Finding the cases of a dataset folder: which image belongs to which annotation.

Two layouts are understood. Plain: ``images/`` and ``labels/`` with the same file stems.
Decathlon: ``imagesTr/``, ``labelsTr/`` and, for images without annotation, ``imagesTs/``.
A folder ``truth/`` may hold dense labels beside sparse ones; it is used for scoring only.
``dataset.json`` is optional. Four of its entries are read. ``training`` is a list of
``{"image": ..., "label": ...}`` as the Decathlon has it. ``held_out`` are the annotated slices
that are kept for evaluation: ``{"case": {"x": [120], "z": [10, 31]}}``, or ``{"case": "all"}`` for a
case that is not trained on at all. Slices are counted from 0: 10 is the one that Fiji and ITK-SNAP call 11.
``spacing`` and ``colours`` say of all files what they do not say
themselves, as on the command line: ``"0.5,0.5,2um"``, ``"000000=0,ff0000=1"``.

The channels of an image may lie in files of their own, ``a_0000.nii.gz``, ``a_0001.nii.gz``, ...; its
annotation is then ``a.nii.gz``.

Names are compared with their accents composed: in some files "é" is one letter, in others two. Links are
followed; what a list names must stand in the folder.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias
from unicodedata import normalize

from volseg.annotation import even_positions
from volseg.data.phantoms import Kind, phantom_or_own
from volseg.errors import InputError, RefusedError
from volseg.io import SUFFIXES, channel_of, digest, is_volume, output_suffix, read_json, suffix_of

__all__ = ["Case", "find_cases", "find_images", "join_channels", "listed", "output_of", "stem"]

logger = logging.getLogger(__name__)

HeldOut: TypeAlias = Mapping[str, Sequence[int]] | Literal["all"]

_LAYOUTS = (("images", "labels"), ("imagesTr", "labelsTr"))


@dataclass(frozen=True)
class Case:
    """One image with what is known about it: paths, and what is held out for evaluation.

    ``held_out`` is slices per axis, or ``"all"`` for a case that is not trained on. ``channels`` are the
    files of an image that has one for each channel; ``image`` is then the first of them. ``spacing`` and
    ``colours`` are how its files are to be read; see `volseg.io.read_volume`.
    """

    name: str
    image: Path
    label: Path | None = None
    truth: Path | None = None
    held_out: HeldOut | None = None
    channels: tuple[Path, ...] = ()
    spacing: str | None = None
    colours: str | None = None

    @property
    def images(self) -> tuple[Path, ...]:
        """The file of the image, or the files of its channels."""
        return self.channels or (self.image,)


def find_cases(
    dataset_dir: str | Path,
    *,
    phantom_dir: str | Path | None = None,
    phantom: Kind = "kidney",
    held_out_cases: float = 0.0,
    spacing: str | None = None,
    colours: str | None = None,
) -> list[Case]:
    """The annotated cases of a dataset folder, sorted by name.

    Args:
        phantom_dir: if ``dataset_dir`` is this folder, it is the phantom's, which is made if missing.
        phantom: which of :data:`volseg.data.phantoms.KINDS`.
        held_out_cases: fraction of the cases, evenly spread, that are not trained on but scored; for
            images, where slices cannot be held out. Does nothing if dataset.json holds out cases.
        spacing, colours: how the files are to be read, instead of what dataset.json says of it; see
            `volseg.io.read_volume`.

    Raises:
        InputError: if the folder is missing, has none of the two layouts, or an annotation has no image.
        RefusedError: if dataset.json names a file outside the folder.
    """
    folder = phantom_or_own(dataset_dir, phantom_dir, phantom)
    if not folder.is_dir():
        raise InputError(
            f"dataset_dir {folder} is not a folder. It should hold images/ and labels/ "
            "(or imagesTr/ and labelsTr/) with files of the same names."
        )
    listing = _dataset_json(folder)
    pairs = list(_listed(folder, listing)) if "training" in listing else list(_paired(folder))
    names = [name for name, _, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{folder / 'dataset.json'} lists two cases named {twice[0]!r}: give each label file a name of "
            "its own."
        )
    held_out = _held_out(folder, listing, set(names))
    truths = _by_stem(folder / "truth")
    spacing = spacing or _words(folder, listing, "spacing")
    colours = colours or _words(folder, listing, "colours")
    cases = [
        Case(
            name, files[0], label, truths.get(name), held_out.get(name), files if len(files) > 1 else (),
            spacing, colours,
        )
        for name, files, label in sorted(pairs)
    ]  # fmt: skip
    if not cases:
        raise InputError(f"{folder} holds no pair of an image and an annotation: nothing can be trained on.")
    return _hold_out_cases(cases, held_out_cases)


def _hold_out_cases(cases: Sequence[Case], fraction: float) -> list[Case]:
    """The same cases, some of them held out as a whole unless some are already; one at least is kept."""
    if not 0 <= fraction < 1:
        raise ValueError(f"held_out_cases = {fraction} must be from 0 to below 1.")
    if fraction == 0 or any(case.held_out == "all" for case in cases):
        return list(cases)
    count = min(max(1, round(fraction * len(cases))), len(cases) - 1)
    chosen = set(even_positions(len(cases), count)) if count else set()
    return [replace(case, held_out="all") if i in chosen else case for i, case in enumerate(cases)]


def find_images(
    source: str | Path,
    *,
    phantom_dir: str | Path | None = None,
    phantom: Kind = "kidney",
    spacing: str | None = None,
) -> list[Case]:
    """The images to be segmented: one file, a folder of files, or all images of a dataset folder.

    Args:
        spacing: voxel size of all of them, instead of what dataset.json in the folder says of it; see
            `volseg.io.read_volume`.

    Raises:
        InputError: if there is none.
    """
    path = _as_stored(phantom_or_own(source, phantom_dir, phantom))
    if is_volume(path):
        return [Case(stem(path), path, spacing=spacing)]
    if not path.is_dir():
        raise InputError(f"{path} does not exist: name an image, a folder of images, or a dataset folder.")
    inside = [path / name for name in ("imagesTs", "images", "imagesTr") if (path / name).is_dir()]
    spacing = spacing or _words(path, _dataset_json(path), "spacing")
    found = sorted(_by_stem(inside[0] if inside else path).items())
    cases = [Case(name, image, spacing=spacing) for name, image in found]
    if not cases:
        raise InputError(f"{path} holds no image. Formats that can be read: {', '.join(SUFFIXES)}.")
    return cases


def join_channels(cases: Sequence[Case], in_channels: int) -> list[Case]:
    """The cases, where as many files as there are channels, ``a_0000``, ``a_0001``, ..., are one case ``a``.

    Cases with an annotation are left as they are: its name says already what belongs together.
    """
    if in_channels < 2:
        return list(cases)
    joined: list[Case] = []
    parts: set[Path] = set()
    for case in cases:
        name, number = channel_of(stem(case.image))
        suffix = case.image.name[len(stem(case.image)) :]
        files = [case.image.with_name(f"{name}_{i:04d}{suffix}") for i in range(in_channels + 1)]
        is_first = number == 0 and case.label is None and not case.channels
        if is_first and all(is_volume(file) for file in files[:-1]) and not files[-1].exists():
            case = replace(case, name=name, channels=tuple(files[:-1]))
            parts.update(files[1:-1])
        joined.append(case)
    return [case for case in joined if case.image not in parts]


def stem(path: Path) -> str:
    """The file's name without the suffix of its format: ``a.nii.gz`` and ``a.tif`` are both ``a``."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def _paired(folder: Path) -> Iterator[tuple[str, tuple[Path, ...], Path]]:
    for images, labels in _LAYOUTS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            found, annotations = _by_stem(folder / images), _by_stem(folder / labels)
            break
    else:
        raise InputError(
            f"{folder} has neither images/ and labels/ nor imagesTr/ and labelsTr/. Put the images into "
            "one and the annotations, under the same names, into the other."
        )
    images_of = {name: _files_of(name, found) for name in annotations}
    lonely = sorted(name for name, files in images_of.items() if not files)
    if lonely:
        raise InputError(
            f"The annotation {annotations[lonely[0]]} has no image in {folder / images}"
            f"{f' (nor have {len(lonely) - 1} others)' if len(lonely) > 1 else ''}. "
            "Give image and annotation the same name."
        )
    unused = len(found) - sum(map(len, images_of.values()))
    if unused:
        logger.info("%d of %d images in %s have no annotation.", unused, len(found), folder / images)
    for name, label in annotations.items():
        yield name, images_of[name], label


def _files_of(name: str, found: Mapping[str, Path]) -> tuple[Path, ...]:
    """The file of this stem, or the files of its channels in their order; none if there are none."""
    if name in found:
        return (found[name],)
    numbered = sorted((channel_of(other)[1] or 0, path) for other, path in found.items()
                      if channel_of(other)[0] == name and other != name)  # fmt: skip
    missing = [i for i, (number, _) in enumerate(numbered) if number != i]
    if missing:
        raise InputError(
            f"{numbered[missing[0]][1]} is channel {numbered[missing[0]][0]} of {name}, but there is no "
            f"{name}_{missing[0]:04d}. Number the channels of an image from _0000, without a gap."
        )
    return tuple(path for _, path in numbered)


def _listed(folder: Path, listing: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Path, ...], Path]]:
    if not isinstance(listing["training"], list):
        raise InputError(f"{folder / 'dataset.json'}: 'training' is not a list of images and labels.")
    for entry in listing["training"]:
        if not isinstance(entry, Mapping) or not {"image", "label"} <= set(entry):
            raise InputError(
                f"{folder / 'dataset.json'}: the entry {entry!r} of 'training' does not name an image and "
                'a label. Write {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}.'
            )
        image, label = (_inside(folder, str(entry[key])) for key in ("image", "label"))
        files = (image,) if is_volume(image) else _files_of(_name(image), _by_stem(image.parent))
        for path, is_there in ((image, files), (label, is_volume(label))):
            if not is_there:
                raise InputError(f"{folder / 'dataset.json'} names {path}, which does not exist.")
        yield _name(label), files, label


def _inside(folder: Path, name: str) -> Path:
    """The file of the dataset that a list names, however its accents are composed."""
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise RefusedError(
            f"{folder / 'dataset.json'} names {path}, which lies outside the dataset, so it is not "
            "opened. Put the file, or a link to it, into the folder and name it from there."
        )
    return path if os.path.lexists(path) else _as_stored(path)


def _as_stored(path: Path) -> Path:
    """The path with its names as the disk has them, where accents are composed in another way."""
    if os.path.lexists(path) or path.parent == path:
        return path
    parent = _as_stored(path.parent)
    alike = [other for other in _entries(parent) if _composed(other.name) == _composed(path.name)]
    if len(alike) > 1:
        raise InputError(
            f"{alike[0]} and {alike[1]} differ only in how accents are composed: which of them is meant? "
            "Rename one."
        )
    return alike[0] if alike else path


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _composed(name: str) -> str:
    return normalize("NFC", name)


def _name(path: Path) -> str:
    """What a case is called after its file."""
    return _composed(stem(path))


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _entries(folder):
        if path.name.startswith(".") or not suffix_of(path):
            continue
        name = _name(path)
        if name in found:
            raise InputError(
                f"{path} and {found[name]} share one name: which of them is meant? Rename or remove one."
            )
        found[name] = path
    return found


def _dataset_json(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    listing = read_json(path)
    if not isinstance(listing, dict):
        raise InputError(f"{path} holds a {type(listing).__name__}, but an object is needed.")
    return listing


def _words(folder: Path, listing: Mapping[str, Any], key: str) -> str | None:
    """How all files of the dataset are to be read, where it says so."""
    given = listing.get(key)
    if given is None or isinstance(given, str):
        return given
    raise InputError(
        f"{folder / 'dataset.json'}: {key} is {given!r}, but a text is needed, as on the command line: "
        '"spacing": "0.5,0.5,2um", "colours": "000000=0,ff0000=1".'
    )


def _held_out(folder: Path, listing: Mapping[str, Any], names: set[str]) -> Mapping[str, HeldOut]:
    held_out = listing.get("held_out", {})
    if not (isinstance(held_out, dict) and all(map(_names_slices, held_out.values()))):
        raise InputError(
            f"{folder / 'dataset.json'}: held_out does not name slices per case and axis, "
            'counted from 0. Write {"held_out": {"case": {"x": [120], "z": [10, 31]}}}, or {"case": "all"} '
            "for a whole case."
        )
    held_out = {_composed(name): slices for name, slices in held_out.items()}
    unknown = sorted(set(held_out) - names)
    if unknown:
        raise InputError(
            f"{folder / 'dataset.json'}: held_out names the case {unknown[0]!r}, which is not in the dataset."
        )
    return held_out


def _names_slices(slices: Any) -> bool:
    """Whether this is a list of indices per axis, or says that everything is held out."""
    return slices == "all" or (
        isinstance(slices, dict)
        and all(
            isinstance(indices, list) and all(type(index) is int for index in indices)
            for indices in slices.values()
        )
    )


def listed(case: Case) -> dict[str, Any]:
    """The files of a case, with the SHA-256 of each, for a run's description."""
    entry: dict[str, Any] = {"name": case.name}
    for part in ("image", "label", "truth"):
        path = getattr(case, part)
        if path is not None:
            entry[part] = _hashed(path)
    if case.channels:
        entry["channels"] = [_hashed(path) for path in case.channels]
    return entry


def _hashed(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": digest(path)}


def output_of(case: Case, folder: Path) -> tuple[Path, Path, Path]:
    """Where the classes of an image go, probabilities and their spread: in its format if that can be."""
    name = case.name if case.channels else stem(case.image)
    fractions = output_suffix(case.image, fractions=True)
    maps, spread = (folder / f"{name}_{kind}{fractions}" for kind in ("probabilities", "spread"))
    return folder / f"{name}{output_suffix(case.image)}", maps, spread
