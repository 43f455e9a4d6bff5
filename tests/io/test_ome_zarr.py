"""OME-Zarr: what is written is what others read, what others write is read, and nothing missing is zeros."""

import gzip
import json
import logging
import shutil
import tracemalloc

import imagecodecs
import numpy as np
import pytest
import torch

from volseg.data import find_images
from volseg.data.verification import verify
from volseg.errors import InputError, RefusedError, ResourceError
from volseg.io import Volume, digest, read_volume, write_volume
from volseg.io.blocks import create_blocks, open_blocks
from volseg.io.ome_zarr import add_levels

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")

CHECKED = {3: [zarr.codecs.ZstdCodec(checksum=True)], 2: numcodecs.Zstd(checksum=True)}
SPACE = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]


@pytest.fixture(params=[(33, 29), (19, 23, 14)], ids=["2d", "3d"])
def volume(request):
    size = request.param
    array = np.random.default_rng(0).integers(0, 999, (2, *size)).astype(np.uint16)
    affine = np.diag([0.5, 0.25, 2.0][: len(size)] + [1.0])
    affine[:-1, -1] = range(3, 3 + len(size))
    return Volume(array, affine, "um")


def by_others(path, array, version=3, axes=SPACE, scale=None, more=(), whole=(), name="0", **options):
    """An image as another program would write it, by zarr-python itself."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    steps = [{"type": "scale", "scale": scale or [1.0] * array.ndim}, *more]
    content = {"axes": list(axes), "datasets": [{"path": name, "coordinateTransformations": steps}]}
    content |= {"coordinateTransformations": list(whole)} if whole else {}
    number = {3: "0.5", 2: "0.4"}[version]
    inside = {"multiscales": [content | ({"version": number} if version == 2 else {})]}
    group.attrs.put({"ome": inside | {"version": number}} if version == 3 else inside)
    options = {"chunks": tuple(min(n, 8) for n in array.shape), "compressors": CHECKED[version]} | options
    made = group.create_array(
        name, shape=array.shape, dtype=array.dtype, config={"write_empty_chunks": True}, **options
    )
    made[...] = array
    return path


def described(path):
    content = json.loads((path / "zarr.json").read_text())
    return content["attributes"]["ome"]["multiscales"][0]


def test_what_is_written_is_read(tmp_path, volume):
    path = tmp_path / "a.ome.zarr"
    write_volume(path, volume.array, volume)
    found = read_volume(path)
    np.testing.assert_array_equal(found.array, volume.array)
    np.testing.assert_allclose(found.affine, volume.affine)
    assert found.unit == "um"
    assert found.array.dtype == np.uint16
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.zarr"]
    assert find_images(path)[0].name == "a"
    assert verify(tmp_path) == []


def test_what_is_written_says_axes_units_and_scales_as_the_standard_has_it(tmp_path):
    like = Volume(np.zeros((2, 20, 30, 9), np.float32), np.diag([0.5, 0.25, 2.0, 1.0]), "um")
    write_volume(tmp_path / "a.zarr", like.array, like)
    content = described(tmp_path / "a.zarr")
    assert content["axes"] == [{"name": "c", "type": "channel"}, *SPACE]
    assert content["datasets"] == [
        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 2.0, 0.25, 0.5]}]}
    ]
    array = zarr.open_array(str(tmp_path / "a.zarr" / "0"), mode="r")
    assert array.shape == (2, 9, 30, 20)
    assert array.metadata.dimension_names == ("c", "z", "y", "x")


@pytest.mark.parametrize("version", [2, 3])
def test_a_result_describes_its_grid_in_the_words_of_its_image(tmp_path, version):
    array = np.random.default_rng(0).integers(0, 9, (1, 2, 7, 12, 10)).astype(np.uint8)
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *SPACE]
    scale, moved = [1.0, 1.0, 2.0, 0.3, 0.3], [0.0, 0.0, 5.0, 0.0, 1.0]
    more = [{"type": "translation", "translation": moved}]
    whole = [{"type": "scale", "scale": [0.1, 1.0, 2.0, 2.0, 2.0]}]
    image = read_volume(by_others(tmp_path / "a.zarr", array, version, axes, scale, more, whole))
    np.testing.assert_array_equal(image.array, array[0].transpose(0, 3, 2, 1))
    assert image.spacing == pytest.approx((0.6, 0.6, 4.0))
    assert image.affine[:3, 3].tolist() == [2.0, 0.0, 10.0]
    write_volume(tmp_path / "b.zarr", image.array[:1], image)
    again = read_volume(tmp_path / "b.zarr", labels=True)
    np.testing.assert_allclose(again.affine, image.affine)
    assert [axis["name"] for axis in again.header.multiscale.axes] == ["z", "y", "x"]
    assert again.header.version == version
    assert (tmp_path / "b.zarr" / {2: ".zattrs", 3: "zarr.json"}[version]).is_file()


def test_units_are_made_one(tmp_path):
    axes = [dict(SPACE[0], unit="millimeter"), dict(SPACE[1], unit="nanometer"), SPACE[2]]
    array = np.zeros((4, 5, 6), np.uint8)
    found = read_volume(by_others(tmp_path / "a.zarr", array, axes=axes, scale=[0.002, 500.0, 0.5]))
    assert (found.unit, found.spacing) == ("um", pytest.approx((0.5, 0.5, 2.0)))
    bare = [{"name": "z", "type": "space"}, *SPACE[1:]]
    with pytest.raises(InputError, match="some axes have a unit and some have none"):
        read_volume(by_others(tmp_path / "b.zarr", array, axes=bare))


def test_a_slice_is_an_image_and_stays_one(tmp_path):
    array = np.arange(30, dtype=np.uint8).reshape(1, 5, 6)
    image = read_volume(by_others(tmp_path / "a.zarr", array))
    assert image.spatial_shape == (6, 5)
    write_volume(tmp_path / "b.zarr", image.array, image)
    assert zarr.open_array(str(tmp_path / "b.zarr" / "0"), mode="r").shape == (1, 5, 6)


def test_orientation_is_lost_and_that_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    turned = Volume(np.zeros((1, 4, 5, 6), np.uint8), np.diag([-1.0, 2.0, 3.0, 1.0]), "mm")
    write_volume(tmp_path / "a.zarr", turned.array, turned)
    assert "cannot store the orientation" in caplog.text
    assert read_volume(tmp_path / "a.zarr").spacing == (1.0, 2.0, 3.0)


# --- smaller copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_smaller_copies_lie_where_the_image_lies(tmp_path, dtype, monkeypatch):
    """A ramp: at its world position every copy holds the world position."""
    monkeypatch.setattr("volseg.io.ome_zarr._LAST", 12)
    monkeypatch.setattr("volseg.io.ome_zarr._CHUNK", {3: 8})
    spacing = np.array([1.0, 1.0, 4.0])
    ramp = np.broadcast_to(np.arange(48)[:, None, None], (48, 31, 7)).astype(dtype)
    write_volume(tmp_path / "a.zarr", ramp, Volume(ramp[None], np.diag([*spacing, 1.0]), "um"))
    levels = described(tmp_path / "a.zarr")["datasets"]
    assert len(levels) == 3
    assert zarr.open_array(str(tmp_path / "a.zarr" / "2"), mode="r").shape == (7, 8, 12), (
        "z is coarse already"
    )
    for level in levels:
        steps = {step["type"]: step[step["type"]] for step in level["coordinateTransformations"]}
        scale, moved = steps["scale"], steps.get("translation", [0.0] * 3)
        array = zarr.open_array(str(tmp_path / "a.zarr" / level["path"]), mode="r")[...]
        x = np.arange(array.shape[2]) * scale[2] + moved[2]
        np.testing.assert_allclose(array[3, 3], x)
    if dtype == np.uint8:
        np.testing.assert_array_equal(array, ramp.transpose(2, 1, 0)[:, ::4, ::4])


def test_the_last_voxel_of_an_odd_axis_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("volseg.io.ome_zarr._LAST", 4)
    array = np.arange(7 * 5, dtype=np.float32).reshape(7, 5)
    write_volume(tmp_path / "a.zarr", array, Volume(array[None], np.eye(3)))
    small = zarr.open_array(str(tmp_path / "a.zarr" / "1"), mode="r")[...].T
    padded = np.pad(array, ((0, 1), (0, 1)), mode="edge")
    np.testing.assert_allclose(small, padded.reshape(4, 2, 3, 2).mean((1, 3)))


def test_leftovers_of_a_killed_process_go(tmp_path):
    like = Volume(np.zeros((1, 9, 9), np.uint8), np.eye(3))
    volume = create_blocks(tmp_path / "a.zarr", like.array.shape, np.dtype(np.uint8), like)
    volume[(slice(0, 1), slice(0, 9), slice(0, 9))] = like.array
    leftover = tmp_path / "a.zarr" / "0" / "c" / "0" / "0.abc.partial"
    leftover.write_bytes(b"")
    add_levels(tmp_path / "a.zarr")
    assert not leftover.exists()


# --- damage ------------------------------------------------------------------------------------------


def refused(path, words, error=InputError):
    with pytest.raises(error, match=words) as caught:
        read_volume(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("version", [2, 3])
def test_no_cut_and_no_flipped_bit_is_read(tmp_path, version):
    """Of both versions, as volseg writes them."""
    array = np.random.default_rng(0).integers(0, 9, (20, 20)).astype(np.uint16)
    source = read_volume(by_others(tmp_path / "source.zarr", array, version, SPACE[1:]))
    path = tmp_path / "a.zarr"
    write_volume(path, source.array, source)
    (chunk,) = [file for file in (path / "0").rglob("*") if file.is_file() and file.name == "0"]
    whole = chunk.read_bytes()
    random = np.random.default_rng(1)
    for cut in random.integers(0, len(whole), 20):
        chunk.write_bytes(whole[:cut])
        refused(path, "chunks cannot be read")
    for bit in random.integers(0, 8 * len(whole), 100):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << (bit % 8)
        chunk.write_bytes(data)
        try:
            found = read_volume(path).array
        except InputError:
            continue
        np.testing.assert_array_equal(found, source.array, err_msg="what is read is right")


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_are_missing_are_counted(tmp_path, version):
    """Of an image that volseg wrote, every chunk was there; of any other, one at least must be."""
    array = np.zeros((16, 16, 16), np.uint8)
    source = read_volume(by_others(tmp_path / "a.zarr", np.zeros((16, 150, 16), np.uint8), version))
    write_volume(tmp_path / "b.zarr", source.array, source)
    chunks = sorted(
        file for file in (tmp_path / "b.zarr" / "0").rglob("*") if file.is_file() and file.name.isdigit()
    )
    chunks[0].unlink()
    refused(tmp_path / "b.zarr", f"1 of {len(chunks)} chunks are missing.* but volseg wrote all of them")
    path = by_others(tmp_path / "c.zarr", array, version)
    for file in (path / "0").rglob("*"):
        if file.is_file() and not file.name.startswith((".z", "zarr")):
            file.unlink()
    refused(path, "8 of 8 chunks are missing.* but nothing of the image is there")


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", [0, 7])
def test_chunks_that_were_left_out_as_empty_hold_the_fill_value(tmp_path, caplog, version, fill, labels):
    """As the format has it, and zarr-python's default writes it; read whole and in blocks, and said."""
    array = np.full((16, 16, 24), fill, np.uint8)
    array[3, 4, 5] = 9
    path = by_others(tmp_path / "a.zarr", array, version, fill_value=fill)
    with zarr.config.set({"array.write_empty_chunks": False}):
        zarr.open_array(str(path / "0"), mode="r+")[:] = array
    np.testing.assert_array_equal(read_volume(path, labels=labels).array[0], array.T)
    assert "11 of 12 chunks are absent" in caplog.text
    assert f"read as the fill value {fill}" in caplog.text
    blocks = open_blocks(path)
    np.testing.assert_array_equal(blocks[tuple(slice(0, n) for n in blocks.shape)][0], array.T)
    assert blocks.stamp


@pytest.mark.parametrize("shards", [(24, 16, 24), (16, 16, 24), (8, 8, 24)])
def test_shards_that_hold_only_what_is_not_empty_are_read(tmp_path, caplog, shards):
    """One file for the whole volume, the rest of which was left out: it is there."""
    array = np.zeros((24, 16, 24), np.uint8)
    array[9, 4, 5] = 9
    path = by_others(tmp_path / "a.zarr", array, shards=shards, chunks=(8, 8, 8))
    with zarr.config.set({"array.write_empty_chunks": False}):
        zarr.open_array(str(path / "0"), mode="r+")[:] = array
    np.testing.assert_array_equal(read_volume(path, labels=True).array[0], array.T)
    assert "absent" in caplog.text


def test_chunks_that_are_missing_inside_a_shard_are_noticed(tmp_path, caplog):
    array = np.ones((20, 16, 12), np.uint8)
    path = by_others(tmp_path / "a.zarr", array, shards=(16, 16, 8), chunks=(8, 8, 8))
    np.testing.assert_array_equal(read_volume(path).array[0], array.T)
    with zarr.config.set({"array.write_empty_chunks": False}):
        zarr.open_array(str(path / "0"), mode="r+")[8:16, :8, :8] = 0
    with caplog.at_level(logging.WARNING):
        found = read_volume(path)
    assert "1 of 4 shards, or chunks in them, are absent" in caplog.text
    array[8:16, :8, :8] = 0
    np.testing.assert_array_equal(found.array[0], array.T)
    cut = by_others(tmp_path / "b.zarr", array, shards=(16, 16, 8), chunks=(8, 8, 8))
    (cut / "0" / "c" / "0" / "0" / "0").write_bytes(b"short")
    refused(cut, "chunks cannot be read")


BOMBS = {
    "gzip": ({"name": "gzip", "configuration": {"level": 1}}, lambda data: gzip.compress(data, 6)),
    "two members": (
        {"name": "gzip", "configuration": {"level": 1}},
        lambda data: gzip.compress(data) + gzip.compress(bytes(8)),
    ),
    "zstd": (
        {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        lambda data: imagecodecs.zstd_encode(data),
    ),
    "blosc": (
        {
            "name": "blosc",
            "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0},
        },
        lambda data: imagecodecs.blosc_encode(data),
    ),
}


@pytest.mark.parametrize(("codec", "pack"), BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("sharded", [False, True], ids=["chunk", "in a shard"])
def test_a_chunk_that_asks_for_more_than_its_voxels_is_refused_before_it_is_unpacked(
    tmp_path, codec, pack, sharded
):
    path = by_others(tmp_path / "a.zarr", np.zeros((2, 2, 2), np.uint8), compressors=None)
    codecs = [{"name": "bytes"}, codec]
    data = pack(bytes(64 << 20))
    if sharded:
        index = np.array([0, len(data)], "<u8").tobytes()
        inner = {"chunk_shape": [2, 2, 2], "codecs": codecs, "index_location": "end"}
        inner["index_codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        data += index + bytes(4)
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    edited(path, "0/zarr.json", lambda content: content.update(codecs=codecs))
    (path / "0" / "c" / "0" / "0" / "0").write_bytes(data)
    tracemalloc.start()
    refused(path, "unpacks to more than the 8 that its voxels take")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("packer", ["zlib", "bz2", "lzma", "lz4", "zstd", "gzip"])
def test_version_2_is_guarded_alike(tmp_path, packer):
    path = by_others(tmp_path / "a.zarr", np.zeros((2, 2, 2), np.uint8), 2, compressors=None)
    codec = numcodecs.get_codec({"id": packer})
    edited(path, "0/.zarray", lambda content: content.update(compressor=codec.get_config()))
    chunk = path / "0" / "0.0.0"
    chunk.write_bytes(codec.encode(bytes(16 << 20)))
    refused(path, "unpacks to more than the 8 that its voxels take")
    chunk.write_bytes(codec.encode(bytes(range(8))))
    np.testing.assert_array_equal(read_volume(path).array[0], np.arange(8).reshape(2, 2, 2).T)


def test_chunks_are_packed_once_at_most(tmp_path):
    path = by_others(tmp_path / "a.zarr", np.zeros((2, 2, 2), np.uint8))
    again = {"name": "gzip", "configuration": {"level": 1}}
    refused(edited(path, "0/zarr.json", lambda content: content["codecs"].append(again)), "packed twice")


def edited(path, file, change):
    content = json.loads((path / file).read_text())
    change(content)
    (path / file).write_text(json.dumps(content))
    return path


def test_a_description_is_data(tmp_path):
    """It leads nowhere outside, runs nothing and asks for no memory that is not there."""
    array = np.zeros((4, 5, 6), np.uint8)
    (tmp_path / "secret").mkdir()
    by_others(tmp_path / "secret" / "b.zarr", array)

    def fresh(version=3):
        return by_others(tmp_path / "a.zarr", array, version)

    def path_to(place):
        def change(content):
            content["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = place

        return change

    for place in ("../secret/b.zarr/0", str(tmp_path / "secret" / "b.zarr" / "0"), "0/../../secret"):
        refused(edited(fresh(), "zarr.json", path_to(place)), "which is not inside it", RefusedError)
    (fresh() / "link").symlink_to(tmp_path / "secret" / "b.zarr" / "0")
    refused(
        edited(tmp_path / "a.zarr", "zarr.json", path_to("link")), "link that leads elsewhere", RefusedError
    )
    chunk = fresh() / "0" / "c" / "0" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to(tmp_path / "secret" / "b.zarr" / "0" / "c" / "0" / "0" / "0")
    refused(tmp_path / "a.zarr", "is a link, so it is not opened", RefusedError)
    for folder in ("0/c", "0/c/0", "0/c/0/0"):
        inside = fresh() / folder
        shutil.rmtree(inside)
        inside.symlink_to(tmp_path / "secret" / "b.zarr" / folder)
        refused(tmp_path / "a.zarr", "is a link, so it is not opened", RefusedError)
    refused(edited(fresh(), "zarr.json", path_to("0\0")), "which is not inside it", RefusedError)
    refused(
        edited(fresh(2), "0/.zarray", lambda c: c.update(filters=[{"id": "pickle"}])), "packed with 'pickle'"
    )
    refused(edited(fresh(2), "0/.zarray", lambda c: c.update(dtype="|O")), "object voxels are not supported")
    codec = {"name": "numcodecs.pickle"}
    refused(edited(fresh(), "0/zarr.json", lambda c: c["codecs"].append(codec)), "packed with 'numcodecs.pic")
    huge = {"name": "regular", "configuration": {"chunk_shape": [2**20, 2**20, 2**20]}}
    asks = edited(fresh(), "0/zarr.json", lambda content: content.update(chunk_grid=huge))
    refused(asks, "GB of memory", ResourceError)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("zarr.json", "{", "is not valid JSON"),
        ("zarr.json", "[]", "holds a list, but an object is needed"),
        ("zarr.json", '{"node_type": "group"}', "is not a group of arrays"),
        ("zarr.json", '{"node_type": "array"}', "is not a group of arrays"),
        ("0/zarr.json", "{}", "description is damaged or of an unknown kind .'shape'"),
    ],
)
def test_a_damaged_description_is_told(tmp_path, file, text, words):
    path = by_others(tmp_path / "a.zarr", np.zeros((4, 5, 6), np.uint8))
    (path / file).write_text(text)
    refused(path, words)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("shape", [4, -5, 6], "damaged or of an unknown kind"),
        ("shape", [4, 5], "damaged or of an unknown kind"),
        ("data_type", "complex64", "complex64 voxels are not supported"),
        ("data_type", {"name": "struct"}, "voxels are not supported"),
        ("data_type", "none", "data type 'none'"),
        ("chunk_key_encoding", {"name": "other"}, "chunk keys 'other'"),
        ("chunk_grid", {"name": "rectilinear"}, "no array of regular chunks"),
    ],
)
def test_a_damaged_array_is_told(tmp_path, entry, value, words):
    path = by_others(tmp_path / "a.zarr", np.zeros((4, 5, 6), np.uint8))
    refused(edited(path, "0/zarr.json", lambda content: content.update({entry: value})), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(axes=["z", "y", "x"]), "before 0.4"),
        (
            lambda m: m.update(axes=[dict(a, name=n) for a, n in zip(SPACE, "qyx", strict=True)]),
            "axes q, y, x",
        ),
        (lambda m: m.update(axes=SPACE[1:]), "scale of 2 axes"),
        (lambda m: m.update(datasets=[]), "no datasets"),
        (lambda m: m["datasets"][0].update(path="9"), "an array '9', which is not there"),
        (lambda m: m["datasets"][0].pop("coordinateTransformations"), "not those of OME-Zarr"),
        (
            lambda m: m["datasets"][0].update(coordinateTransformations=[{"type": "rotation"}]),
            "transformation 'rotation'",
        ),
        (
            lambda m: m["datasets"][0].update(
                coordinateTransformations=[{"type": "scale", "scale": [1, 0, 1]}]
            ),
            r"voxel size \[1.0, 0.0, 1.0\] is not positive",
        ),
        (
            lambda m: m["datasets"][0].update(
                coordinateTransformations=[{"type": "scale", "scale": [1, 1, 1e-300]}]
            ),
            "voxel size .* is not positive",
        ),
    ],
)
def test_a_description_that_makes_no_sense_is_told(tmp_path, change, words):
    path = by_others(tmp_path / "a.zarr", np.zeros((4, 5, 6), np.uint8))
    refused(edited(path, "zarr.json", lambda c: change(c["attributes"]["ome"]["multiscales"][0])), words)


def test_what_cannot_be_one_image_is_told(tmp_path):
    array = np.zeros((2, 4, 5, 6), np.uint8)
    moments = [{"name": "t", "type": "time"}, *SPACE]
    refused(by_others(tmp_path / "a.zarr", array, axes=moments), "has 2 moments in time")
    path = by_others(tmp_path / "b.zarr", array[0])
    two = edited(path, "zarr.json", lambda c: c["attributes"]["ome"]["multiscales"].append({}))
    refused(two, "describes 2 images")
    grid = {"name": "regular", "configuration": {"chunk_shape": [4, 5]}}
    flat = by_others(tmp_path / "c.zarr", array[0])
    edited(flat, "0/zarr.json", lambda content: content.update(shape=[4, 5], chunk_grid=grid))
    refused(flat, "names 3 axes, but its array has 2")
    with pytest.raises(InputError, match="axes='XYZ' does not fit"):
        read_volume(by_others(tmp_path / "d.zarr", array[0]), axes="XYZ")
    like = Volume(np.zeros((1, 4, 5), np.complex64), np.eye(3))
    with pytest.raises(ValueError, match="OME-Zarr cannot hold"):
        write_volume(tmp_path / "e.zarr", like.array, like)
    (tmp_path / "f.zarr").write_bytes(b"")
    refused(tmp_path / "f.zarr", "is a file, but an image in Zarr is a folder")


def test_the_one_image_inside_is_found(tmp_path):
    """bioformats2raw puts it into a group called 0."""
    array = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w").attrs.put({"ome": {"bioformats2raw.layout": 3}})
    by_others(tmp_path / "a.zarr" / "0", array)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zarr").array[0], array.T)
    by_others(tmp_path / "a.zarr" / "1", array)
    refused(tmp_path / "a.zarr", "describes no OME-Zarr image .it holds 0, 1")


def test_without_zarr_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    path = by_others(tmp_path / "a.zarr", np.zeros((4, 5, 6), np.uint8))
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(InputError, match="Install it with: pip install 'zarr"):
        read_volume(path)


# --- folders as files --------------------------------------------------------------------------------


def test_a_folder_is_replaced_only_if_asked_and_only_if_it_is_an_image(tmp_path):
    like = Volume(np.ones((1, 4, 5), np.uint8), np.eye(3))
    path = tmp_path / "a.zarr"
    write_volume(path, like.array, like)
    before = digest(path)
    with pytest.raises(RefusedError, match="exists already"):
        write_volume(path, 2 * like.array, like)
    assert digest(path) == before
    write_volume(path, 2 * like.array, like, overwrite=True)
    assert read_volume(path).array.max() == 2
    assert digest(path) != before
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    shutil.rmtree(path)
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(RefusedError, match="what stands there is no image in Zarr"):
        write_volume(path, like.array, like, overwrite=True)
    assert (path / "thesis.txt").exists()


@pytest.mark.parametrize("tile", [(16, 24, 8), (296, 40, 64), (200, 1000, 72)])
def test_chunks_do_not_cross_tiles(tmp_path, tile):
    """So several processes can write: none of them ever reads what another is writing."""
    like = Volume(np.broadcast_to(np.uint8(0), (1, 600, 130, 200)), np.eye(4))
    array = create_blocks(tmp_path / "a.zarr", like.array.shape, np.dtype(np.uint8), like, tile=tile).array
    for step, chunk, size in zip(tile, reversed(array.chunks), (600, 130, 200), strict=True):
        assert step >= size or step % chunk == 0
        assert chunk <= 512


def test_blocks_travel_between_processes(tmp_path):
    import pickle

    array = np.random.default_rng(0).integers(0, 9, (9, 8, 7)).astype(np.uint8)
    volume = open_blocks(by_others(tmp_path / "a.zarr", array))
    index = (slice(0, 1), slice(1, 5), slice(2, 7), slice(0, 9))
    before = volume[index]
    again = pickle.loads(pickle.dumps(volume))
    np.testing.assert_array_equal(again[index], before)
    np.testing.assert_array_equal(before[0], array.T[1:5, 2:7])
    assert torch.from_numpy(before).shape == (1, 4, 5, 9)
