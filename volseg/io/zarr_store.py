"""One array of a Zarr folder, versions 2 and 3: what its description may say, and blocks of it.

zarr-python reads a chunk that is missing as zeros and says nothing. Here every chunk must be there before
anything is read; and a description is data, so it may not name a codec that runs code, or a place outside
its folder.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError, RefusedError, ResourceError, VolsegError
from volseg.io.stored import require_memory

__all__ = ["ZarrArray", "attributes_of", "create_array", "describe", "make_group", "zarr_library"]

_CODECS_2 = {"blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "crc32c", "shuffle", "delta"}
_CODECS_3 = {"bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed"}
_MOST = 1 << 22  # bytes of a description; chunks of an array
_ABSENT = np.uint64(2**64 - 1)  # where the index of a shard has no chunk


@dataclass(frozen=True)
class ZarrArray:
    """An array in a folder, its description checked; blocks are indexed in the file's order of axes.

    ``chunks`` are the pieces that are files of their own: chunks, or the shards that hold them.
    """

    folder: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    prefix: str
    separator: str
    shard: tuple[int, ...] | None = None
    _open: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def read(self, index: tuple[slice | int, ...]) -> NDArray[Any]:
        """A block; damage is an `InputError`."""
        try:
            block = np.asarray(self._array("r")[index])
        except (VolsegError, MemoryError):
            raise
        except Exception as error:
            raise InputError(
                f"{self.folder}: some of its chunks cannot be read ({_short(error)}). They were cut or are "
                "damaged; fetch it again."
            ) from error
        return block

    def write(self, index: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write a block; it is on the disk when this returns."""
        try:
            self._array("r+")[index] = block
            for path in self.files(index):
                _flush(path)
        except OSError as error:
            raise ResourceError(
                f"cannot write {self.folder}: {error.strerror or error}. Free some space or choose another "
                "folder."
            ) from error

    def files(self, index: Sequence[slice] | None = None) -> Iterator[Path]:
        """The files that hold a block, or all."""
        return map(self._file, self._corners(index))

    def require_complete(self) -> None:
        """All chunks are there and are plain files."""
        count = prod(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))
        if count > _MOST:
            raise InputError(f"{self.folder} has {count} chunks, more than are read. Use larger ones.")
        missing, first = 0, None
        for corner in self._corners():
            path = self._file(corner)
            if path.is_symlink():
                raise RefusedError(f"{path} is a link, so it is not opened. Put the file itself there.")
            if not path.is_file() or self._lacks(path, corner):
                missing, first = missing + 1, first or path
        if first is not None:
            raise InputError(
                f"{self.folder}: {missing} of {count} chunks are missing, such as "
                f"{first.relative_to(self.folder)}; they would be read as empty space. Copy it again; if it "
                "was written without its empty chunks, write it with write_empty_chunks=True."
            )

    def _corners(self, index: Sequence[slice] | None = None) -> Iterator[tuple[int, ...]]:
        """The first voxels of the chunks of a block, or of all."""
        wanted = index or [slice(0, n) for n in self.shape]
        return product(
            *(
                range(part.start - part.start % c, part.stop, c)
                for c, part in zip(self.chunks, wanted, strict=True)
            )
        )

    def _file(self, corner: Sequence[int]) -> Path:
        place = [str(start // c) for start, c in zip(corner, self.chunks, strict=True)]
        return self.folder / self.separator.join([self.prefix, *place] if self.prefix else place)

    def _lacks(self, path: Path, corner: Sequence[int]) -> bool:
        """Whether the index of a shard says that some of its chunks are not there."""
        if self.shard is None:
            return False
        count = prod(c // s for c, s in zip(self.chunks, self.shard, strict=True))
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16 * count - 4))
            index = np.frombuffer(file.read(16 * count)[: 16 * count], np.uint8)
        if len(index) < 16 * count:
            return True
        inside = np.array(True)  # chunks beyond the end of the array need not be there
        for n, c, s, start in zip(self.shape, self.chunks, self.shard, corner, strict=True):
            inside = np.logical_and.outer(inside, start + np.arange(0, c, s) < n)
        return bool((index.view("<u8")[::2][inside.ravel()] == _ABSENT).any())

    def _array(self, mode: Any) -> Any:
        if mode not in self._open:
            array = zarr_library().open_array(str(self.folder), mode=mode)
            self._open[mode] = array.with_config({"write_empty_chunks": True})
        return self._open[mode]


def zarr_library() -> Any:
    """The package ``zarr``, which is asked for where it is needed."""
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            "Zarr needs a package that is not installed. Install it with: pip install 'volseg[zarr]'."
        ) from error
    return zarr


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
    if not parts or ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
        raise RefusedError(f"{group} names the array '{name}', which is no place inside it. Do not trust it.")
    folder = group.joinpath(*parts)
    if not folder.resolve().is_relative_to(group.resolve()):
        raise RefusedError(f"{folder} is a link that leads elsewhere, so it is not opened.")
    for version, file in ((3, "zarr.json"), (2, ".zarray")):
        if (folder / file).is_file():
            content = _json(folder / file)
            try:
                found = _version_3(folder, content) if version == 3 else _version_2(folder, content)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                if isinstance(error, VolsegError):
                    raise
                raise InputError(
                    f"{folder / file}: the description is damaged or of an unknown kind ({_short(error)})."
                ) from error
            require_memory(prod(found.chunks) * found.dtype.itemsize, folder)
            return found
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
        zarr_format=version, overwrite=True, **options,
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
    for codec in _codecs_3(content["codecs"], folder):
        if codec["name"] == "sharding_indexed":
            shard = _sizes(codec["configuration"]["chunk_shape"])
            if codec["configuration"].get("index_location", "end") != "end" or any(
                c % s for c, s in zip(chunks, shard, strict=True)
            ):
                raise ValueError("shards of another kind")
    if not isinstance(content["data_type"], str):
        raise InputError(f"{folder}: {content['data_type']} voxels are not supported. Save it as numbers.")
    dtype = _dtype(content["data_type"], folder)
    return _checked(ZarrArray(folder, shape, chunks, dtype, "c" if default else "", separator, shard))


def _codecs_3(codecs: Sequence[Mapping[str, Any]], folder: Path) -> Sequence[Mapping[str, Any]]:
    for codec in codecs:
        _allow(codec["name"], _CODECS_3, folder)
        inner = codec.get("configuration", {})
        _codecs_3([*inner.get("codecs", ()), *inner.get("index_codecs", ())], folder)
    return codecs


def _version_2(folder: Path, content: Mapping[str, Any]) -> ZarrArray:
    for codec in [content["compressor"], *(content.get("filters") or ())]:
        if codec is not None:
            _allow(codec["id"], _CODECS_2, folder)
    shape, chunks = _sizes(content["shape"]), _sizes(content["chunks"])
    separator = content.get("dimension_separator", ".")
    return _checked(ZarrArray(folder, shape, chunks, _dtype(content["dtype"], folder), "", separator))


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
    if path.stat().st_size > _MOST:
        raise InputError(f"{path} is too large for a description. The file is damaged.")
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8")), path)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({_short(error)}). Fetch it again.") from error


def _mapping(content: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, but an object is needed.")
    return content


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _short(error: BaseException) -> str:
    """What a library says, in a few words."""
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:120].rstrip(".")
