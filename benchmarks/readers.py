"""What the libraries that read a format make of damaged files, beside volseg: the figures of docs/formats.md.

    python benchmarks/readers.py [--tries 600]  # in the environment of peers.txt

Each try flips one bit of a whole file, seeded, or cuts it at one of 49 places. A line for each format and
reader says how many of these were opened, and how many with other numbers, or another place in the world.
"""

import argparse
import io
import logging
import random
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from volseg.io import Volume, read_volume, read_weights, write_volume, write_weights

Reader = Callable[[bytes], Any]


def ours(folder: Path, suffix: str) -> Reader:
    def read(data: bytes) -> Any:
        path = folder / f"a{suffix}"
        path.write_bytes(data)
        volume = read_volume(path)
        return volume.array.tolist(), volume.affine.tolist(), volume.unit

    return read


def pillow(data: bytes) -> Any:
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
        image.verify()
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
        return np.asarray(image).tolist()


def pynrrd(folder: Path) -> Reader:
    import nrrd

    def read(data: bytes) -> Any:
        path = folder / "b.nrrd"
        path.write_bytes(data)
        array, header = nrrd.read(str(path))
        fields = ("space", "space directions", "space origin", "space units", "kinds")
        return array.tolist(), str([np.asarray(header.get(name)).tolist() for name in fields])

    return read


def flipped(data: bytes, tries: int, low: int = 0) -> Iterator[bytes]:
    draw = random.Random(0)
    for _ in range(tries):
        changed = bytearray(data)
        changed[draw.randrange(low, len(data))] ^= 1 << draw.randrange(8)
        yield bytes(changed)


def not_ascii(data: bytes, end: int) -> Iterator[bytes]:
    """The highest bit of each byte of a header, but its first line, flipped."""
    for place in range(data.index(b"\n") + 1, end):
        changed = bytearray(data)
        changed[place] ^= 128
        yield bytes(changed)


def cut(data: bytes) -> Iterator[bytes]:
    for part in range(1, 50):
        yield data[: len(data) * part // 50]


def stream_flipped(data: bytes, tries: int) -> Iterator[bytes]:
    """PNG with a bit flipped in the compressed pixels, and the checksum of that part right again."""
    parts, place = [], 8
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        parts.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    pixels = b"".join(content for kind, content in parts if kind == b"IDAT")
    for changed in flipped(pixels, tries):
        whole = data[:8]
        for kind, content in [parts[0], (b"IDAT", changed), (b"IEND", b"")]:
            whole += struct.pack(">I", len(content)) + kind + content
            whole += struct.pack(">I", zlib.crc32(kind + content))
        yield whole


def report(what: str, name: str, read: Reader, data: bytes, tries: Iterator[bytes]) -> None:
    expected, opened, other, count = read(data), 0, 0, 0
    for changed in tries:
        count += 1
        try:
            found = read(changed)
        except Exception:  # a library raises anything; what counts is what it opens
            continue
        opened += 1
        other += found != expected
    print(f"{what:34} {name:12} of {count}: {opened} opened, {other} of them otherwise", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=600)
    tries = parser.parse_args().tries
    warnings.simplefilter("ignore")
    logging.disable()
    random_numbers = np.random.default_rng(0)
    grey = (
        np.add.outer(np.arange(64), np.arange(80)) * 3 % 251 + random_numbers.integers(0, 4, (64, 80))
    ).astype(np.uint8)
    colour = np.stack([grey, grey + 1, grey + 2], -1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for mode, picture in (("grey", grey), ("16 bits", grey.astype(np.uint16) * 9), ("colours", colour)):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            for reader, read in (("Pillow", pillow), ("volseg", ours(folder, ".png"))):
                data = buffer.getvalue()
                report(f"PNG, {mode}, a bit flipped", reader, read, data, flipped(data, tries))
                report(f"PNG, {mode}, cut", reader, read, data, cut(data))
                report(f"PNG, {mode}, checksum repaired", reader, read, data, stream_flipped(data, tries))
        for progressive in (False, True):
            buffer = io.BytesIO()
            Image.fromarray(grey).save(buffer, "JPEG", progressive=progressive)
            data = buffer.getvalue()
            for reader, read in (("Pillow", pillow), ("volseg", ours(folder, ".jpg"))):
                report(f"JPEG, progressive {progressive}, cut", reader, read, data, cut(data))
        affine = np.array([[0.5, 0, 0, 10.5], [0, 0.25, 0, -3.25], [0, 0, 2, 7], [0, 0, 0, 1]])
        array = random_numbers.integers(0, 9, (6, 5, 4)).astype(np.uint16)
        write_volume(folder / "whole.nrrd", array, Volume(array[None], affine, "mm"))
        data = (folder / "whole.nrrd").read_bytes()
        end = data.index(b"\n\n") + 2
        for reader, read in (("pynrrd", pynrrd(folder)), ("volseg", ours(folder, ".nrrd"))):
            report("NRRD, a byte that is not ASCII", reader, read, data, not_ascii(data, end))
            report("NRRD, a bit of the voxels flipped", reader, read, data, flipped(data, tries, low=end))
            report("NRRD, cut", reader, read, data, cut(data))
        write_weights(folder / "whole.safetensors", {"a": torch.arange(600.0)}, {})
        data = (folder / "whole.safetensors").read_bytes()

        def weights(changed: bytes) -> Any:
            (folder / "c.safetensors").write_bytes(changed)
            return read_weights(folder / "c.safetensors")[0]["a"].tolist()

        def plain(changed: bytes) -> Any:
            return safetensors.torch.load(changed)["a"].tolist()

        for reader, read in (("safetensors", plain), ("volseg", weights)):
            report("weights, a bit flipped", reader, read, data, flipped(data, tries))
            report("weights, cut", reader, read, data, cut(data))


if __name__ == "__main__":
    main()
