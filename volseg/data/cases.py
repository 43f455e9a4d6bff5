"""Finding the cases of a dataset folder: which image belongs to which annotation.

Two layouts are understood. Plain: ``images/`` and ``labels/`` with the same file stems.
Decathlon: ``imagesTr/``, ``labelsTr/`` and, for images without annotation, ``imagesTs/``.
A folder ``truth/`` may hold dense labels beside sparse ones; it is used for scoring only.
``dataset.json`` is optional. Two of its entries are read: ``training``, a list of
``{"image": ..., "label": ...}`` as the Decathlon has it, and ``held_out``, the annotated slices
that are kept for evaluation: ``{"case": {"x": [120], "z": [10, 31]}}``, or ``{"case": "all"}`` for a
case that is not trained on at all.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from volseg.annotation import even_positions
from volseg.data.phantoms import Kind, phantom_or_own
from volseg.errors import InputError
from volseg.io import SUFFIXES

__all__ = ["Case", "find_cases", "find_images", "stem"]

logger = logging.getLogger(__name__)

HeldOut: TypeAlias = Mapping[str, Sequence[int]] | Literal["all"]

_LAYOUTS = (("images", "labels"), ("imagesTr", "labelsTr"))


@dataclass(frozen=True)
class Case:
    """One image with what is known about it: paths, and what is held out for evaluation.

    ``held_out`` is slices per axis, or ``"all"`` for a case that is not trained on.
    """

    name: str
    image: Path
    label: Path | None = None
    truth: Path | None = None
    held_out: HeldOut | None = None


def find_cases(
    dataset_dir: str | Path,
    *,
    phantom_dir: str | Path | None = None,
    phantom: Kind = "kidney",
    held_out_cases: float = 0.0,
) -> list[Case]:
    """The annotated cases of a dataset folder, sorted by name.

    Args:
        phantom_dir: if ``dataset_dir`` is this folder, it is the phantom's, which is made if missing.
        phantom: which of :data:`~volseg.data.phantoms.KINDS`.
        held_out_cases: fraction of the cases, evenly spread, that are not trained on but scored; for
            images, where slices cannot be held out. Does nothing if dataset.json holds out cases.

    Raises:
        InputError: if the folder is missing, has none of the two layouts, or an annotation has no image.
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
    cases = [Case(n, image, label, truths.get(n), held_out.get(n)) for n, image, label in sorted(pairs)]
    if not cases:
        raise InputError(f"{folder} holds no pair of an image and an annotation: nothing can be trained on.")
    return _hold_out_cases(cases, held_out_cases)


def _hold_out_cases(cases: Sequence[Case], fraction: float) -> list[Case]:
    """The same cases, some of them held out as a whole unless some are already; one at least is kept."""
    if not 0 <= fraction < 1:
        raise ValueError(f"held_out_cases = {fraction} is no fraction from 0 to below 1.")
    if fraction == 0 or any(case.held_out == "all" for case in cases):
        return list(cases)
    count = min(max(1, round(fraction * len(cases))), len(cases) - 1)
    chosen = set(even_positions(len(cases), count)) if count else set()
    return [replace(case, held_out="all") if i in chosen else case for i, case in enumerate(cases)]


def find_images(
    source: str | Path, *, phantom_dir: str | Path | None = None, phantom: Kind = "kidney"
) -> list[Case]:
    """The images to be segmented: one file, a folder of files, or all images of a dataset folder.

    Raises:
        InputError: if there is none.
    """
    path = phantom_or_own(source, phantom_dir, phantom)
    if path.is_file():
        return [Case(stem(path), path)]
    if not path.is_dir():
        raise InputError(f"{path} does not exist: name an image, a folder of images, or a dataset folder.")
    inside = [path / name for name in ("imagesTs", "images", "imagesTr") if (path / name).is_dir()]
    cases = [Case(name, image) for name, image in sorted(_by_stem(inside[0] if inside else path).items())]
    if not cases:
        raise InputError(f"{path} holds no image. Formats that can be read: {', '.join(SUFFIXES)}.")
    return cases


def stem(path: Path) -> str:
    """The file's name without the suffix of its format: ``a.nii.gz`` and ``a.tif`` are both ``a``."""
    endings = [suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)]
    return path.name[: -max(map(len, endings))] if endings else path.stem


def _paired(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    for images, labels in _LAYOUTS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            found, annotations = _by_stem(folder / images), _by_stem(folder / labels)
            break
    else:
        raise InputError(
            f"{folder} has neither images/ and labels/ nor imagesTr/ and labelsTr/. Put the images into "
            "one and the annotations, under the same names, into the other."
        )
    lonely = sorted(set(annotations) - set(found))
    if lonely:
        raise InputError(
            f"The annotation {annotations[lonely[0]]} has no image in {folder / images}"
            f"{f' (nor have {len(lonely) - 1} others)' if len(lonely) > 1 else ''}. "
            "Give image and annotation the same name."
        )
    unused = len(found) - len(annotations)
    if unused:
        logger.info("%d of %d images in %s have no annotation.", unused, len(found), folder / images)
    for name, label in annotations.items():
        yield name, found[name], label


def _listed(folder: Path, listing: Mapping[str, Any]) -> Iterator[tuple[str, Path, Path]]:
    if not isinstance(listing["training"], list):
        raise InputError(f"{folder / 'dataset.json'}: 'training' is not a list of images and labels.")
    for entry in listing["training"]:
        if not isinstance(entry, Mapping) or not {"image", "label"} <= set(entry):
            raise InputError(
                f"{folder / 'dataset.json'}: the entry {entry!r} of 'training' does not name an image and "
                'a label. Write {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}.'
            )
        paths = [(folder / str(entry[key])).resolve() for key in ("image", "label")]
        for path in paths:
            if not path.is_relative_to(folder.resolve()):
                raise InputError(f"{folder / 'dataset.json'} names {path}, which lies outside the dataset.")
            if not path.is_file():
                raise InputError(f"{folder / 'dataset.json'} names {path}, which does not exist.")
        yield stem(paths[1]), paths[0], paths[1]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or not path.name.lower().endswith(SUFFIXES):
            continue
        if stem(path) in found:
            raise InputError(f"{path} and {found[stem(path)]} share one name: which of them is meant?")
        found[stem(path)] = path
    return found


def _dataset_json(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    try:
        listing = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}). Mend or remove it.") from error
    if not isinstance(listing, dict):
        raise InputError(f"{path} holds a {type(listing).__name__}, but an object is needed.")
    return listing


def _held_out(folder: Path, listing: Mapping[str, Any], names: set[str]) -> Mapping[str, HeldOut]:
    held_out = listing.get("held_out", {})
    if not (isinstance(held_out, dict) and all(map(_names_slices, held_out.values()))):
        raise InputError(
            f"{folder / 'dataset.json'}: held_out does not name slices per case and axis. "
            'Write {"held_out": {"case": {"x": [120], "z": [10, 31]}}}, or {"case": "all"} for a whole case.'
        )
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
