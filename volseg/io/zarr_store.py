"""What the descriptions in a Zarr folder, versions 2 and 3, may say, and how they are made.

A description is data: it may not name a codec that runs code, or a place outside its folder. That of an array
says how its chunks are stored; that of an image (OME-Zarr, NGFF 0.4 and 0.5) which axes, voxel sizes and
levels it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError, RefusedError, VolsegError
from volseg.io.grid import NGFF_UNITS, common_unit, is_size
from volseg.io.stored import require_memory
from volseg.io.text import read_json
from volseg.io.volume import Notes
from volseg.io.zarr_array import ZarrArray, in_short, packing_of, zarr_library

__all__ = [
    "Multiscale",
    "attributes_of",
    "create_array",
    "describe",
    "make_group",
    "multiscale_of",
    "new_multiscale",
]

_CODECS_2 = {"blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "crc32c", "shuffle", "delta"}
_CODECS_3 = {"bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed"}
_MOST = 1 << 22  # bytes of a description
_MARK = "volseg: every chunk is written"  # an attribute of an array


def attributes_of(folder: Path) -> tuple[int, Mapping[str, Any]]:
    """The version of Zarr, 2 or 3, and the attributes of a group.

    Raises:
        InputError: if the folder is not a group.
    """
    if (folder / "zarr.json").is_file():
        content = _json(folder / "zarr.json")
        if content.get("node_type") == "group":
            return 3, _mapping(content.get("attributes", {}), folder / "zarr.json")
    elif (folder / ".zgroup").is_file():
        return 2, _json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
    raise InputError(
        f"{folder} is not a group of arrays with a description (zarr.json or .zgroup). Name the folder of an "
        "OME-Zarr image."
    )


def describe(group: Path, name: str) -> ZarrArray:
    """The array of that name in a group, as far as its description can be believed.

    Raises:
        InputError: if there is no such array, or it cannot be read.
        RefusedError: if the name leads out of the group.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or any(mark in name for mark in "\\:\0"):
        raise RefusedError(f"{group} names the array {name!r}, which is not inside it. Do not trust it.")
    folder = group.joinpath(*parts)
    if not folder.resolve().is_relative_to(group.resolve()):
        raise RefusedError(f"{folder} is a link that leads elsewhere, so it is not opened.")
    for version, file in ((3, "zarr.json"), (2, ".zarray")):
        if (folder / file).is_file():
            content = _json(folder / file)
            own = folder / ".zattrs"
            noted = content.get("attributes") if version == 3 else _json(own) if own.is_file() else {}
            try:
                found = _version_3(folder, content) if version == 3 else _version_2(folder, content)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                if isinstance(error, VolsegError):
                    raise
                raise InputError(
                    f"{folder / file}: the description is damaged or of an unknown kind ({in_short(error)})."
                ) from error
            require_memory(prod(found.chunks) * found.dtype.itemsize, folder)
            complete = isinstance(noted, Mapping) and noted.get(_MARK) is True
            fill = content.get("fill_value")
            return replace(found, complete=complete, fill=0 if fill is None else fill)
    raise InputError(f"{group} speaks of an array '{name}', which is not there. Copy it again.")


def make_group(folder: Path, version: int, attributes: Mapping[str, Any]) -> None:
    """A group with these attributes, in a folder that may exist."""
    group = zarr_library().open_group(str(folder), mode="a", zarr_format=version)
    group.attrs.put(dict(attributes))


def create_array(
    group: Path,
    name: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: np.dtype[Any],
    version: int,
    axes: Sequence[str],
) -> ZarrArray:
    """An array to be filled, every chunk with a checksum."""
    zarr = zarr_library()
    options: dict[str, Any]
    if version == 3:
        codecs = zarr.codecs
        packing = [codecs.ZstdCodec(level=1), codecs.Crc32cCodec()]
        options = {"compressors": packing, "dimension_names": list(axes)}
    else:
        from numcodecs import Zstd

        options = {"compressors": Zstd(1, checksum=True)}
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    zarr.create_array(
        str(group), name=name, shape=tuple(shape), chunks=tuple(chunks), dtype=dtype, fill_value=0,
        zarr_format=version, overwrite=True, attributes={_MARK: True}, **options,
    )  # fmt: skip
    return describe(group, name)


def _version_3(folder: Path, content: Mapping[str, Any]) -> ZarrArray:
    shape = _sizes(content["shape"])
    if content["node_type"] != "array" or content["chunk_grid"]["name"] != "regular":
        raise ValueError("no array of regular chunks")
    chunks = _sizes(content["chunk_grid"]["configuration"]["chunk_shape"])
    keys = content["chunk_key_encoding"]
    default = keys["name"] == "default"
    if not default and keys["name"] != "v2":
        raise ValueError(f"chunk keys {keys['name']!r}")
    separator = keys.get("configuration", {}).get("separator", "/" if default else ".")
    shard = None
    codecs = _codecs_3(content["codecs"], folder)
    packed = codecs
    for codec in codecs:
        if codec["name"] == "sharding_indexed":
            shard = _sizes(codec["configuration"]["chunk_shape"])
            packed = codec["configuration"]["codecs"]
            if packing_of(codecs, "name", folder).compressor:
                raise ValueError("shards that are packed as a whole")
            if codec["configuration"].get("index_location", "end") != "end" or any(
                c % s for c, s in zip(chunks, shard, strict=True)
            ):
                raise ValueError("shards of another kind")
    if not isinstance(content["data_type"], str):
        raise InputError(f"{folder}: {content['data_type']} voxels are not supported. Save it as numbers.")
    dtype = _dtype(content["data_type"], folder)
    packing = packing_of(packed, "name", folder)
    return _checked(
        ZarrArray(folder, shape, chunks, dtype, "c" if default else "", separator, shard, packing)
    )


def _codecs_3(codecs: Sequence[Mapping[str, Any]], folder: Path) -> Sequence[Mapping[str, Any]]:
    for codec in codecs:
        _allow(codec["name"], _CODECS_3, folder)
        inner = codec.get("configuration", {})
        _codecs_3([*inner.get("codecs", ()), *inner.get("index_codecs", ())], folder)
    return codecs


def _version_2(folder: Path, content: Mapping[str, Any]) -> ZarrArray:
    codecs = [c for c in (*(content.get("filters") or ()), content["compressor"]) if c is not None]
    for codec in codecs:
        _allow(codec["id"], _CODECS_2, folder)
    shape, chunks = _sizes(content["shape"]), _sizes(content["chunks"])
    separator = content.get("dimension_separator", ".")
    dtype, packing = _dtype(content["dtype"], folder), packing_of(codecs, "id", folder)
    return _checked(ZarrArray(folder, shape, chunks, dtype, "", separator, packing=packing))


def _checked(array: ZarrArray) -> ZarrArray:
    if len(array.chunks) != len(array.shape) or array.separator not in ("/", "."):
        raise ValueError(f"chunks {array.chunks} of {array.shape}, apart by {array.separator!r}")
    return array


def _allow(name: object, known: set[str], folder: Path) -> None:
    """Codecs of the list only: some others run code that came with the data."""
    if name not in known:
        raise InputError(
            f"{folder}: chunks packed with {str(name)[:40]!r} are not read. Save it with zstd, blosc or gzip."
        )


def _sizes(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, list) or not all(type(n) is int and 0 < n < 2**48 for n in numbers):
        raise ValueError(f"sizes {str(numbers)[:60]}")
    return tuple(numbers)


def _dtype(name: str, folder: Path) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise ValueError(f"data type {name!r}") from error
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise InputError(f"{folder}: {dtype} voxels are not supported. Save it as float32 instead.")
    return dtype.newbyteorder("=")


def _json(path: Path) -> Mapping[str, Any]:
    return _mapping(read_json(path, most=_MOST, constant=float), path)


def _mapping(content: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, but an object is needed.")
    return content


_VERSIONS = {2: "0.4", 3: "0.5"}


@dataclass(frozen=True)
class Multiscale:
    """An image and smaller copies of it.

    Args:
        axes: as the file describes them, in its order: a name, a type, perhaps a unit.
        levels: per level the name of its array, and per axis the voxel size and the position of the first
            voxel, in the file's units; the finest first.
    """

    axes: tuple[Mapping[str, Any], ...]
    levels: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]

    @property
    def letters(self) -> str:
        """One letter per axis, ``T`` for time: ``"TCZYX"``."""
        return "".join(str(axis["name"])[0].upper() for axis in self.axes)

    def place(self, dims: int, path: Path, notes: Notes) -> tuple[NDArray[np.float64], str]:
        """The affine of the finest level, x, y, z, and its unit."""
        _, scale, start = self.levels[0]
        found = [self.letters.index(letter) for letter in "XYZ"[:dims]]
        units = [common_unit(str(self.axes[i].get("unit") or ""), path, notes) for i in found]
        names = {name for _, name in units}
        if len(names) > 1 and "" in names:
            raise InputError(f"{path}: some axes have a unit and some have none. Give all of them one.")
        unit = "um" if "um" in names else units[0][1]
        affine = np.eye(dims + 1)
        for axis, (i, (factor, name)) in enumerate(zip(found, units, strict=True)):
            factor = factor * 1000 if name == "mm" and unit == "um" else factor
            affine[axis, axis], affine[axis, -1] = factor * scale[i], factor * start[i]
        return affine, unit

    def for_result(self, channels: int) -> "Multiscale":
        """The same grid, one level, with an axis of channels or without."""
        _, scale, start = self.levels[0]
        kept = [i for i, letter in enumerate(self.letters) if letter not in "TC"]
        axes = [self.axes[i] for i in kept]
        scale, start = tuple(scale[i] for i in kept), tuple(start[i] for i in kept)
        if channels > 1:
            axes.insert(0, {"name": "c", "type": "channel"})
            scale, start = (1.0, *scale), (0.0, *start)
        return Multiscale(tuple(axes), (("0", scale, start),))

    def description(self, version: int, name: str) -> dict[str, Any]:
        """The attributes of the group, for version 2 or 3 of Zarr."""
        datasets = []
        for level, scale, start in self.levels:
            steps: list[dict[str, Any]] = [{"type": "scale", "scale": list(scale)}]
            if any(start):
                steps.append({"type": "translation", "translation": list(start)})
            datasets.append({"path": level, "coordinateTransformations": steps})
        content = {"name": name, "axes": [dict(axis) for axis in self.axes], "datasets": datasets}
        number = _VERSIONS[version]
        if version == 3:
            return {"ome": {"version": number, "multiscales": [content]}}
        return {"multiscales": [{"version": number} | content]}


def new_multiscale(dims: int, affine: NDArray[np.float64], unit: str) -> Multiscale:
    """For an image that came from another format; what it says of orientation is lost."""
    more = {"unit": NGFF_UNITS[unit]} if unit in NGFF_UNITS else {}
    axes = tuple({"name": name, "type": "space"} | more for name in "xyz"[:dims][::-1])
    scale = np.linalg.norm(affine[:-1, :-1], axis=0)[::-1]
    plain = np.array_equal(affine[:-1, :-1], np.diag(scale[::-1]))
    start = affine[:-1, -1][::-1] if plain else np.zeros(dims)
    return Multiscale(axes, (("0", tuple(map(float, scale)), tuple(map(float, start))),))


def multiscale_of(attributes: Mapping[str, Any], path: Path) -> Multiscale | None:
    """The image that a group's attributes describe; ``None`` if they describe none."""
    inside = attributes.get("ome", attributes)
    found = inside.get("multiscales") if isinstance(inside, Mapping) else None
    if found is None:
        return None
    try:
        if len(found) != 1:
            raise InputError(f"{path} describes {len(found)} images. Name the folder of one.")
        return _parsed(found[0], path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, VolsegError):
            raise
        said = f"{type(error).__name__}: {error}"[:120]
        raise InputError(
            f"{path}: its 'multiscales' are not those of OME-Zarr 0.4 or 0.5 ({said}). Export it again."
        ) from error


def _parsed(content: Mapping[str, Any], path: Path) -> Multiscale:
    axes = tuple(content["axes"])
    if not all(isinstance(axis, Mapping) for axis in axes):
        raise InputError(
            f"{path} is OME-Zarr before 0.4, which gives no voxel sizes. Convert it to 0.4 or 0.5."
        )
    names = [str(axis["name"]).lower() for axis in axes]
    if not set(names) <= set("tczyx") or len(set(names)) < len(names) or not {"x", "y"} <= set(names):
        raise InputError(
            f"{path} has the axes {', '.join(names)}; known are t, c, z, y and x. Save it with these names."
        )
    whole = _steps(content.get("coordinateTransformations", ()), len(axes))
    levels = []
    for dataset in content["datasets"]:
        scale, start = _steps(dataset["coordinateTransformations"], len(axes))
        scale, start = scale * whole[0], start * whole[0] + whole[1]
        if not (all(map(is_size, scale)) and np.isfinite(start).all()):
            raise InputError(f"{path}: the voxel size {scale.tolist()} is not positive. Export it again.")
        levels.append((str(dataset["path"]), tuple(scale.tolist()), tuple(start.tolist())))
    if not levels:
        raise ValueError("no datasets")
    return Multiscale(axes, tuple(levels))


def _steps(steps: Sequence[Mapping[str, Any]], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and translation of transformations in a row."""
    scale, start = np.ones(count), np.zeros(count)
    for step in steps:
        kind = step["type"]
        if kind not in ("scale", "translation", "identity"):
            raise ValueError(f"transformation {kind!r}")
        if kind == "identity":
            continue
        try:
            numbers = np.array(step[kind], float)
        except OverflowError as error:
            raise ValueError(f"{kind} of more than 300 digits") from error
        if numbers.shape != (count,):
            raise ValueError(f"{kind} of {count} axes: {step[kind]}")
        if kind == "scale":
            scale, start = scale * numbers, start * numbers
        else:
            start = start + numbers
    return scale, start
