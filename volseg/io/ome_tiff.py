"""What TIFF files say about themselves: OME-XML, and voxel sizes wherever they are kept.

The description is compared with the pages that are there before anything is made of it: a few hundred bytes
can speak of a thousand million planes, and a set of files is described in each of them, whole.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from volseg.arguments import conversion, option
from volseg.errors import InputError
from volseg.io.grid import common_unit, filled_in, is_size
from volseg.io.stored import beside
from volseg.io.volume import Notes

__all__ = ["OmeImage", "OmeSet", "PlanesError", "affine_of", "fewer_planes", "images_of", "set_of"]

_MOST = 64 << 20  # characters of a description


class PlanesError(InputError):
    """A TIFF file describes other planes than there are; the caller may say what they are.

    Args:
        what: is wrong, in a sentence.
        remedy: what to do, unless that was done.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what


@dataclass(frozen=True)
class OmeImage:
    """One image of a description.

    Args:
        planes: how many pages it has, in all files.
        blocks: file name (``""`` is the file itself), first page and number of pages (0 is all) of each part.
        lengths: voxel size along x, y, z as written; ``None`` where there is none.
        units: their units, in OME's words.
        channels: names, ``""`` where a channel has none.
    """

    planes: int
    blocks: tuple[tuple[str, int, int], ...]
    lengths: tuple[float | None, ...]
    units: tuple[str, ...]
    channels: tuple[str, ...]

    def sizes(self, path: Path, notes: Notes) -> tuple[tuple[float | None, float | None, float | None], str]:
        """Voxel size along x, y, z and its unit; an axis without a unit beside others has no size."""
        found: list[tuple[float, str] | None] = []
        for length, name in zip(self.lengths, self.units, strict=True):
            factor, unit = common_unit(name, path, notes) if length is not None else (1.0, "")
            found.append(None if length is None else (length * factor, unit))
        units = {one[1] for one in found if one is not None and one[1]}
        unit = "um" if "um" in units else next(iter(units), "")
        x, y, z = (
            None if one is None or (unit and not one[1]) else one[0] * (1e3 if one[1] == "mm" != unit else 1)
            for one in found
        )
        return (x, y, z), unit


@dataclass(frozen=True)
class OmeSet:
    """How to open an OME-TIFF.

    Args:
        path: the file to open: the one asked for, or the one that holds the description of the set.
        xml: the description to go by; ``None`` is the file's own.
        files: other files that planes are read from.
        planes: pages of all files that the description speaks of.
    """

    path: Path
    xml: str | None = None
    files: dict[Path, int] = field(default_factory=dict)
    planes: int = 0


def images_of(xml: str) -> list[OmeImage]:
    """The images of a description; none where it cannot be read, or could expand without end."""
    root = _root(xml)
    return [] if root is None else [_image(pixels) for pixels in root.iterfind(".//{*}Image/{*}Pixels")]


def set_of(path: Path, xml: str, pages: int, count: Callable[[Path], int]) -> OmeSet:
    """Which files an OME-TIFF consists of, after its planes were counted.

    Args:
        count: gives the number of pages of another file, which it has checked.

    Raises:
        InputError: if the description speaks of other planes than there are, with the numbers.
        RefusedError: if it names a file that does not lie beside it.
    """
    root = _root(xml)
    if root is None:
        return OmeSet(path)
    only = root.find("./{*}BinaryOnly")
    if only is not None:
        return _companion(path, only.get("MetadataFile", ""), count)
    return _set(path, root, pages, count)


def _set(path: Path, root: ElementTree.Element, pages: int, count: Callable[[Path], int]) -> OmeSet:
    own_name, uuid = path.name, root.get("UUID")
    own = {own_name.lower()}
    named = {u.get("FileName", "").lower(): u.text for u in root.iterfind(".//{*}TiffData/{*}UUID")}
    # A file that was renamed still has its UUID; and where there is one name only, there is no other file.
    own |= {name for name, text in named.items() if uuid is not None and text == uuid}
    if len(named) == 1 and not any((path.parent / name).exists() for name in _file_names(root)):
        own |= set(named)
    images = [_image(pixels) for pixels in root.iterfind(".//{*}Image/{*}Pixels")]
    planes = sum(image.planes for image in images)
    others: dict[Path, int] = {}
    for image in images:
        for name, first, number in image.blocks:
            if name.lower() in own or not name:
                if first + number > pages:
                    raise fewer_planes(path, max(first + number, planes), pages)
                continue
            other = beside(path, name) if _is_there(path, name) else None
            if other is None:
                here = sum(
                    n or pages for i in images for file, _, n in i.blocks if file.lower() in own or not file
                )
                raise PlanesError(
                    f"{path} holds {min(here, pages)} of the {planes} planes of its image; others are in "
                    f"'{name}', which is missing.",
                    "Put all files of the set into one folder, or save the image as one file (in Fiji: "
                    "Bio-Formats Importer, then Bio-Formats Exporter).",
                )
            if other not in others:
                others[other] = count(other)
            if first + number > others[other]:
                raise InputError(
                    f"{path} speaks of page {first + number} of '{name}', which has {others[other]}. One of "
                    "the two was cut or exchanged; export the set again."
                )
    have = pages + sum(others.values())
    if planes > have:
        raise fewer_planes(path, planes, have)
    if not others and not (set(named) - {own_name.lower()}):
        return OmeSet(path, planes=planes)
    for data in root.iterfind(".//{*}TiffData"):  # what lies in this file needs no name any more
        for uuid_of in data.findall("{*}UUID"):
            if uuid_of.get("FileName", "").lower() in own:
                data.remove(uuid_of)
    root.attrib.pop("UUID", None)
    return OmeSet(path, ElementTree.tostring(root, encoding="unicode"), others, planes)


def _companion(path: Path, name: str, count: Callable[[Path], int]) -> OmeSet:
    """A file of a set whose description lies in another."""
    if not _is_there(path, name):
        raise InputError(
            f"{path} is one file of a set that is described in '{name}', which is missing. Put all files of "
            "the set into one folder, or save the image as one file."
        )
    master = beside(path, name)
    if master.name.lower().endswith((".tif", ".tiff")):
        raise InputError(
            f"{path} is one file of a set that is described in '{name}'. Name that file instead."
        )
    if master.stat().st_size > _MOST:
        raise InputError(f"{master} is too large for a description. It is damaged, or another file.")
    root = _root(master.read_text(encoding="utf-8", errors="replace"))
    if root is None or root.find("./{*}BinaryOnly") is not None:
        raise InputError(f"{master} holds no OME-XML that can be read. Export the set again.")
    root.attrib.pop("UUID", None)
    return _set(path, root, count(path), count)


def fewer_planes(path: Path, planes: int, have: int) -> PlanesError:
    """What to say of planes that are missing."""
    return PlanesError(
        f"{path}: the TIFF promises {planes} slices, {have} found.",
        "Writing or copying it was interrupted, or other files belong to it. Export it again as one file; or "
        "say what the pages are that are there, "
        f"with axes ('{conversion(path, axes='ZYX')}').",
    )


def _file_names(root: ElementTree.Element) -> set[str]:
    return {uuid.get("FileName", "") for uuid in root.iterfind(".//{*}TiffData/{*}UUID")} - {""}


def _is_there(path: Path, name: str) -> bool:
    """Whether a file is beside another; what is not a bare name is left to `beside` to refuse."""
    bare = name and not any(mark in name for mark in ("/", "\\", "\0"))
    return not bare or (path.parent / name).exists() if name else False


def _root(xml: str) -> ElementTree.Element | None:
    if "<!DOCTYPE" in xml or len(xml) > _MOST:  # entities can make a small file expand without end
        return None
    try:
        return ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", xml.removeprefix("\ufeff")))
    except (ElementTree.ParseError, RecursionError, ValueError):
        return None


def _image(pixels: ElementTree.Element) -> OmeImage:
    channels = pixels.findall("{*}Channel")
    samples = max(1, _number(channels[0].get("SamplesPerPixel")) or 1) if channels else 1
    size_c = _number(pixels.get("SizeC")) or 1
    planes = prod([_number(pixels.get(f"Size{a}")) or 1 for a in "ZT"]) * max(1, size_c // samples)
    blocks = []
    for data in pixels.iterfind("{*}TiffData"):
        uuid = data.find("{*}UUID")
        name = uuid.get("FileName", "") if uuid is not None else ""
        said = data.get("PlaneCount", data.get("NumPlanes"))
        count = _number(said) if said else int("IFD" in data.attrib)
        blocks.append((name, _number(data.get("IFD")), count))
    lengths = tuple(_length(pixels.get(f"PhysicalSize{a}")) for a in "XYZ")
    units = tuple(pixels.get(f"PhysicalSize{a}Unit", "µm") for a in "XYZ")
    return OmeImage(planes, tuple(blocks), lengths, units, tuple(c.get("Name", "") for c in channels))


def _number(text: str | None) -> int:
    """A count; 0 where there is none, and what is no count is the TIFF library's to refuse."""
    return int(text[:20]) if text and re.fullmatch(r"[0-9]+", text) else 0


def _length(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


_PRINT = (72, 75, 90, 96, 100, 150, 200, 240, 300, 400, 600, 1200)  # dots per inch of printers and screens
_Sizes = tuple[float | None, float | None, float | None]


def affine_of(
    tif: Any, page: Any, spatial_dims: int, path: Path, series: int, notes: Notes, sized: bool = False
) -> tuple[NDArray[np.float64], str]:
    """A plain scaling by the voxel size, and its unit; ones and ``""`` where the file names no size.

    An axis without a size gets that of an axis that has one, which is noted.

    Args:
        tif: what says the size, with ``page`` of the image, which is number ``series`` of its description.
        sized: the voxel size is given elsewhere, so that the file's need be none, and may lack an axis.
    """
    sizes, unit = _sizes(tif, page, series, path, notes)
    found = sizes[:spatial_dims]
    if any(size is not None and not is_size(size) for size in found):
        if sized:
            return np.eye(spatial_dims + 1), ""
        raise InputError(
            f"{path}: the voxel size {found} is not positive, or no number to calculate with. Say it: "
            f"{option('spacing', 'X,Y,Z')}, with a unit; or set it in Fiji under Image > "
            "Properties and save the file again."
        )
    if not any(found):
        return np.eye(spatial_dims + 1), ""
    return np.diag([*filled_in(found, unit, path, Notes() if sized else notes), 1.0]), unit


def _sizes(tif: Any, page: Any, series: int, path: Path, notes: Notes) -> tuple[_Sizes, str]:
    """x, y and z size, and volseg's unit of them, from the most talkative source."""
    if tif.is_ome and tif.ome_metadata:
        images = images_of(tif.ome_metadata)
        return images[series].sizes(path, notes) if series < len(images) else ((None, None, None), "")
    x, y = (_per_pixel(page, tag) for tag in ("XResolution", "YResolution"))
    own = tif.imagej_metadata if tif.is_imagej else (tif.shaped_metadata or [{}])[0] if tif.is_shaped else {}
    own = own or {}
    z = abs(float(own["spacing"])) if isinstance(own.get("spacing"), (int, float)) else None
    name = str(own.get("unit", ""))
    dots = page.tags.get("ResolutionUnit")
    per = {2: "inch", 3: "cm"}.get(int(dots.value), "") if dots is not None else ""
    if not name and x is not None and per and not _is_print(x, per):
        name = per
    if not name and z is None and not (tif.is_imagej and x is not None and not per):
        return (None, None, None), ""
    factor, unit = common_unit(name, path, notes)
    if not unit:  # ImageJ's pixels: an image without a resolution has pixels of length 1
        x, y = x or 1.0, y or x or 1.0
    scaled = [None if s is None else factor * s for s in (x, y, z)]
    return (scaled[0], scaled[1], scaled[2]), unit


def _per_pixel(page: Any, tag: str) -> float | None:
    """Size of a pixel in resolution units."""
    found = page.tags.get(tag)
    if found is None:
        return None
    value = found.value
    pixels, units = value if isinstance(value, tuple) else (value, 1)
    return float(units / pixels) if pixels and units else None


def _is_print(size: float, per: str) -> bool:
    """Whether a resolution is that of a printer or a screen, which says nothing about the object."""
    dpi = (1.0 if per == "inch" else 2.54) / size
    return dpi < 10 or any(abs(dpi - p) < 0.01 * p for p in _PRINT)
