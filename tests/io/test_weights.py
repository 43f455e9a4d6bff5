"""Weights as safetensors: what is written is read, by hand too; what is altered is refused."""

import hashlib
import json
import random
import struct

import pytest
import torch

from volseg.errors import InputError, RefusedError
from volseg.io.weights import read_weights, write_weights
from volseg.networks import UNet


@pytest.fixture
def weights():
    torch.manual_seed(0)
    network = UNet(2, 1, 2, channels=[[2, 3], [3, 4]], norm="batch")
    return network.state_dict()


@pytest.fixture
def saved(tmp_path, weights):
    write_weights(tmp_path / "a.safetensors", weights, {"bundle": "cells"})
    return tmp_path / "a.safetensors"


def test_what_is_written_is_read(saved, weights):
    tensors, notes = read_weights(saved)
    assert notes == {"bundle": "cells"}
    assert tensors.keys() == weights.keys()
    for name, tensor in weights.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    UNet(2, 1, 2, channels=[[2, 3], [3, 4]], norm="batch").load_state_dict(tensors)


@pytest.mark.parametrize(
    "dtype", ["float64", "float16", "bfloat16", "int64", "int8", "uint8", "bool", "complex64"]
)
def test_every_type_and_shape_survives(tmp_path, dtype):
    tensors = {"a": torch.ones((2, 3)), "b": torch.zeros(()), "c": torch.zeros((0, 3)), "d": torch.ones(1)}
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    write_weights(tmp_path / "a.safetensors", tensors)
    back, _ = read_weights(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_the_layout_is_that_of_the_format(saved, weights):
    """Read by hand, after its description: length, JSON, numbers in little-endian order."""
    data = saved.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    for name, tensor in weights.items():
        begin, end = header[name]["data_offsets"]
        assert header[name]["shape"] == list(tensor.shape)
        raw = data[8 + length + begin : 8 + length + end]
        kind = {"F32": "f", "I64": "q"}[header[name]["dtype"]]
        assert list(struct.unpack(f"<{tensor.numel()}{kind}", raw)) == tensor.flatten().tolist()


def test_the_hash_of_the_file_tells_whose_it_is(tmp_path, weights):
    told = write_weights(tmp_path / "a.safetensors", weights)
    assert told == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    read_weights(tmp_path / "a.safetensors", sha256=told.upper())
    other = write_weights(tmp_path / "b.safetensors", {name: tensor * 0 for name, tensor in weights.items()})
    with pytest.raises(InputError, match="another SHA-256"):
        read_weights(tmp_path / "a.safetensors", sha256=other)


def numbers(tensors):
    """The bytes of every tensor, whatever it is called."""
    return sorted(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors.values())


def test_no_cut_and_no_flipped_bit_passes(saved, weights):
    data, rng = saved.read_bytes(), random.Random(0)
    for end in (len(data) * i // 50 for i in range(50)):
        saved.write_bytes(data[:end])
        with pytest.raises(InputError):
            read_weights(saved)
    for _ in range(300):
        mutant = bytearray(data)
        mutant[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        saved.write_bytes(mutant)
        try:
            tensors, _ = read_weights(saved)
        except InputError:
            continue
        assert numbers(tensors) == numbers(weights)  # a letter of a name or note, which no hash covers


def handmade(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def tensor(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        (b"{", b"", "damaged .*invalid JSON in header"),
        (b"[1]", b"", "damaged .*invalid JSON in header"),
        (b"[" * 5000, b"", "damaged .*invalid JSON in header"),
        ({"a": tensor(0, 4, dtype="PYOBJ")}, bytes(4), "damaged .*unknown variant `PYOBJ`"),
        ({"a": tensor(0, 4, shape=(-1,))}, bytes(4), "damaged .*integer `-1`"),
        ({"a": tensor(0, 4, shape=(1.5,))}, bytes(4), "damaged .*floating point `1.5`"),
        ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), "damaged .*missing field `data_offsets`"),
        ({"a": tensor(0, 4, shape=(1,) * 65)}, bytes(4), "more than 64 axes"),
        ({"a": tensor(0, 4, shape=(2**53 - 1,) * 60_000)}, bytes(4), "damaged .*overflow"),
        ({"a": tensor(0, 0, shape=(0, 2**52, 2**52))}, b"", "damaged .*overflow"),
        ({"a": tensor(0, 8)}, bytes(8), "damaged .*invalid shape"),
        ({"a": tensor(0, 4)}, bytes(3), "damaged .*not fully covered"),
        ({"a": tensor(0, 4), "b": tensor(0, 4)}, bytes(4), "damaged .*invalid offset for tensor `[ab]`"),
        ({"a": tensor(4, 8)}, bytes(8), "damaged .*invalid offset for tensor `a`"),
        ({"a": tensor(0, 4, shape=(2**31, 2**31))}, bytes(4), "damaged .*overflow"),
        ({"a": tensor(0, 4)}, bytes(8), "damaged .*not fully covered"),
        ({"a": tensor(0, 4), "__metadata__": {"x": 1}}, bytes(4), "damaged .*expected a string"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, body, message):
    with pytest.raises(InputError, match=message):
        read_weights(handmade(tmp_path / "a.safetensors", header, body))


def test_what_is_not_there_or_no_such_file_is_told(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_weights(tmp_path / "a.safetensors")
    for data in (b"", b"1234567", b"\xff" * 8, b"PK\3\4 not at all"):
        (tmp_path / "a.safetensors").write_bytes(data)
        with pytest.raises(InputError, match="not a safetensors file, or was cut"):
            read_weights(tmp_path / "a.safetensors")


def test_a_file_is_replaced_on_request_only(saved, weights):
    with pytest.raises(RefusedError, match="exists already"):
        write_weights(saved, weights)
    write_weights(saved, {"a": torch.ones(1)}, overwrite=True)
    assert list(read_weights(saved)[0]) == ["a"]


def test_what_the_format_does_not_have_is_told(tmp_path):
    with pytest.raises(
        ValueError, match="a tensor of type torch.complex128, which safetensors does not have"
    ):
        write_weights(tmp_path / "a.safetensors", {"a": torch.zeros(1, dtype=torch.complex128)})
    assert list(tmp_path.iterdir()) == []


def test_weights_of_one_memory_are_both_written(tmp_path):
    tied = torch.arange(6.0).reshape(2, 3)
    write_weights(tmp_path / "a.safetensors", {"a": tied, "b": tied, "c": tied.T})
    back, _ = read_weights(tmp_path / "a.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in (("a", tied), ("b", tied), ("c", tied.T)))


def test_a_file_written_before_the_library_did_it_is_read(tmp_path):
    """Tensors by name, the digest among the notes, spaces up to a multiple of eight."""
    body = struct.pack("<3f", 1, 2, 3) + struct.pack("<q", 7)
    notes = {"bundle": "cells", "sha256 of the numbers": hashlib.sha256(body).hexdigest()}
    header = {"a": tensor(0, 12, (3,)), "b": tensor(12, 20, (), "I64"), "__metadata__": notes}
    text = json.dumps(header).encode()
    path = handmade(tmp_path / "a.safetensors", text + b" " * (-len(text) % 8), body)
    tensors, found = read_weights(path)
    assert (tensors["a"].tolist(), int(tensors["b"]), found) == ([1, 2, 3], 7, {"bundle": "cells"})
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError, match="checksum of the weights is wrong"):
        read_weights(path)
