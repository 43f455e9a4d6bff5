"""What the description of a Zarr folder, versions 2 and 3, may say, and how one is made.

A description is data: it may not name a codec that runs code, or a place outside its folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from volseg.errors import InputError, RefusedError, VolsegError
from volseg.io.json_text import read_json
from volseg.io.stored import require_memory
from volseg.io.zarr_array import ZarrArray, in_short, packing_of, zarr_library

__all__ = ["attributes_of", "create_array", "describe", "make_group"]

_CODECS_2 = {"blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "crc32c", "shuffle", "delta"}
_CODECS_3 = {"bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed"}
_MOST = 1 << 22  # bytes of a description
_MARK = "volseg: every chunk is written"  # an attribute of an array


def attributes_of(folder: Path) -> tuple[int, Mapping[str, Any]]:
    """The version of Zarr, 2 or 3, and the attributes of a group.

    Raises:
        InputError: if the folder is no group.
    """
    if (folder / "zarr.json").is_file():
        content = _json(folder / "zarr.json")
        if content.get("node_type") == "group":
            return 3, _mapping(content.get("attributes", {}), folder / "zarr.json")
    elif (folder / ".zgroup").is_file():
        return 2, _json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
    raise InputError(
        f"{folder} is no group of arrays with a description (zarr.json or .zgroup). Name the folder of an "
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
        raise RefusedError(f"{group} names the array {name!r}, which is no place inside it. Do not trust it.")
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
