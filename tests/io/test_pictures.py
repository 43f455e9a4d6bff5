"""PNG and JPEG: the second opinion is Pillow on PNG and imagecodecs on JPEG."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from volseg.errors import InputError
from volseg.io import Volume, output_suffix, read_volume, write_volume

RNG = np.random.default_rng(0)
MODES = {
    "L": RNG.integers(0, 256, (5, 7), dtype=np.uint8),
    "I;16": RNG.integers(0, 65536, (5, 7), dtype=np.uint16),
    "1": RNG.integers(0, 2, (5, 7)).astype(bool),
    "LA": RNG.integers(0, 256, (5, 7, 2), dtype=np.uint8),
    "RGB": RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8),
    "RGBA": RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8),
}


def x_first(array):
    """``(C, X, Y)`` of rows of pixels."""
    return array.T[None] if array.ndim == 2 else array.transpose(2, 1, 0)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, depth, colour, *parts, data=None):
    """A PNG made by hand; every row is preceded by the filter type 0."""
    rows = zlib.compress(bytes(height * (1 + 8 * width))) if data is None else data
    size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size)
        + b"".join(parts)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_png_holds_what_pillow_wrote(tmp_path, mode):
    Image.fromarray(MODES[mode]).save(tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png")
    np.testing.assert_array_equal(volume.array, x_first(MODES[mode]))
    assert volume.array.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert (volume.spatial_dims, volume.spacing, volume.unit) == (2, (1.0, 1.0), "")


def test_sixteen_bit_colours_are_not_cut_to_eight(tmp_path):
    """As Pillow would."""
    colours = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colours))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array, x_first(colours))


def test_a_colour_table_gives_colours_to_an_image_and_numbers_to_a_label(tmp_path):
    numbers = RNG.integers(0, 3, (5, 7), dtype=np.uint8)
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for bits in (2, 8):
        picture.save(tmp_path / "a.png", bits=bits)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.png", labels=True).array, x_first(numbers))
        wanted = x_first(np.asarray(picture.convert("RGB")))
        np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array, wanted)
    data = png(7, 5, 8, 3, chunk(b"PLTE", bytes(6)), data=zlib.compress(b"\0\1\1\1\1\1\1\2" * 5))
    (tmp_path / "b.png").write_bytes(data)
    with pytest.raises(InputError, match="table has 2 entries, but a pixel has number 2"):
        read_volume(tmp_path / "b.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_come_back_as_stored(tmp_path, bits):
    """Decoders spread them over 0..255."""
    numbers = np.arange(16).reshape(2, 8) % 2**bits
    packed = np.packbits((numbers[..., None] >> np.arange(bits)[::-1]) & 1, axis=None).reshape(2, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    (tmp_path / "a.png").write_bytes(png(8, 2, bits, 0, data=zlib.compress(rows)))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png", labels=True).array, x_first(numbers))


def test_an_opaque_picture_has_no_transparency(tmp_path):
    array = MODES["RGBA"].copy()
    array[..., 3] = 255
    Image.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array, x_first(array[..., :3]))


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB"])
def test_pillow_reads_what_is_written(tmp_path, mode):
    Image.fromarray(MODES[mode]).save(tmp_path / "a.png", dpi=(254, 508))
    volume = read_volume(tmp_path / "a.png")
    write_volume(tmp_path / "o.png", volume.array, volume)
    with Image.open(tmp_path / "o.png") as theirs:
        np.testing.assert_array_equal(np.asarray(theirs), MODES[mode])
        assert theirs.info["dpi"] == pytest.approx((254, 508), abs=0.1)


def test_what_a_png_cannot_hold_is_told(tmp_path):
    for array in (np.zeros((3, 4), np.float32), np.zeros((3, 4, 5), np.uint8), np.zeros((2, 3, 4), np.uint8)):
        like = Volume(array[None], np.eye(array.ndim + 1)) if len(array) == 3 else Volume(array, np.eye(3))
        with pytest.raises(ValueError, match="PNG holds 2D images of one or three channels in 8 or 16 bits"):
            write_volume(tmp_path / "a.png", array, like)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_holds_what_another_decoder_reads(tmp_path, mode, progressive):
    array = np.kron(MODES[mode], np.ones((8, 8, *[1] * (MODES[mode].ndim - 2)), np.uint8))
    Image.fromarray(array).save(tmp_path / "a.jpg", progressive=progressive, comment=b"\xff\xd9")
    theirs = imagecodecs.jpeg8_decode((tmp_path / "a.jpg").read_bytes())
    np.testing.assert_array_equal(read_volume(tmp_path / "a.jpg").array, x_first(theirs))
    with pytest.raises(InputError, match="JPEG changes the numbers"):
        read_volume(tmp_path / "a.jpg", labels=True)


def jpeg(mode="L"):
    buffer = io.BytesIO()
    Image.fromarray(MODES["RGB"]).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


def with_length(mark, length):
    """A JPEG whose segment with this mark gives this length."""
    data = bytearray(jpeg())
    at = data.index(mark)
    data[at + 2 : at + 4] = struct.pack(">H", length)
    return bytes(data)


START = b"\xff\xd8"
DAMAGED = "the JPEG was cut, is damaged or of an unknown kind"


@pytest.mark.parametrize(
    ("suffix", "data", "message"),
    [
        ("png", b"", "empty"),
        ("png", b"GIF89a..", "not a PNG file"),
        ("png", png(7, 5, 8, 0)[:-13], "ends early"),
        ("png", png(7, 5, 8, 0)[:40], "ends early"),
        ("png", png(7, 5, 8, 0).replace(b"IEND", b"IENX"), "part b'IENX' is wrong"),
        ("png", b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "does not begin with its size"),
        ("png", png(7, 5, 8, 0, chunk(b"acTL", bytes(8))), "is an animation"),
        ("png", png(0, 5, 8, 0), "0 x 5 pixels"),
        ("png", png(7, 5, 3, 0), "of 3 bits in colour type 0"),
        ("png", png(7, 5, 8, 5), "colour type 5"),
        ("png", png(2**31 - 1, 2**31 - 1, 8, 0, data=b"x"), "more than its \\d+ bytes can hold"),
        ("png", png(7, 5, 8, 0, data=zlib.compress(bytes(99))[:-5]), "ends early"),
        ("png", png(7, 5, 8, 0, data=zlib.compress(bytes(99))[:-1] + b"x"), "PNG data are damaged"),
        ("png", png(7, 5, 8, 0, data=zlib.compress(b"\7" * 99)), "PNG data are damaged"),
        ("jpg", b"", "empty"),
        ("jpg", b"GIF89a..", "not a JPEG file"),
        ("jpg", START + b"\xff\xd9", DAMAGED),
        ("jpg", jpeg()[:-2], DAMAGED),
        ("jpg", START + b"\xff\xe0", DAMAGED),
        ("jpg", START + b"\xff\xe0\0\x04abcd", DAMAGED),
        ("jpg", START + b"\xff\x01", DAMAGED),
        ("jpg", with_length(b"\xff\xdb", 60000), DAMAGED),
        ("jpg", with_length(b"\xff\xdb", 1), DAMAGED),
        ("jpg", jpeg("CMYK"), "JPEG in CMYK is not read"),
        ("jpg", jpeg().replace(b"\xff\xc0", b"\xff\xc3"), DAMAGED),
        ("jpg", jpeg().replace(b"\x08\0\x05\0\x07", b"\x08\xff\xff\xff\xff"), "can hold"),
        ("jpg", jpeg().replace(b"\xff\xdb", b"\xff\xfe"), DAMAGED),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path, suffix, data, message):
    (tmp_path / f"a.{suffix}").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("progressive", [False, True])
def test_no_cut_of_a_jpeg_is_read(tmp_path, progressive):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 80), dtype=np.uint8)).save(
        buffer, "JPEG", progressive=progressive
    )
    data = buffer.getvalue()
    for end in (len(data) * i // 50 for i in range(1, 50)):
        (tmp_path / "a.jpg").write_bytes(data[:end])
        with pytest.raises(InputError, match=f"not a JPEG file|{DAMAGED}"):
            read_volume(tmp_path / "a.jpg")


def test_a_jpeg_may_have_more_pixels_than_pillow_opens_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    (tmp_path / "a.jpg").write_bytes(jpeg())
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.jpg")
    assert read_volume(tmp_path / "a.jpg").spatial_shape == (7, 5)


def test_two_frames_in_one_jpeg_are_refused(tmp_path):
    data = jpeg()
    at = data.index(b"\xff\xc0")
    (tmp_path / "a.jpg").write_bytes(data[:at] + data[at : at + 13] + data[at:])
    with pytest.raises(InputError, match=DAMAGED):
        read_volume(tmp_path / "a.jpg")


def test_a_picture_is_2d(tmp_path):
    Image.fromarray(MODES["L"]).save(tmp_path / "a.png")
    assert read_volume(tmp_path / "a.png", axes="XY").spatial_dims == 2
    with pytest.raises(ValueError, match="a picture is 2D"):
        read_volume(tmp_path / "a.png", axes="XYZ")


@pytest.mark.parametrize(
    ("name", "classes", "fractions"),
    [
        ("a.tif", ".tif", ".tif"), ("a.NII.GZ", ".nii.gz", ".nii.gz"), ("a.png", ".png", ".tif"),
        ("a.jpeg", ".png", ".tif"), ("a.mhd", ".mha", ".mha"), ("a.nhdr", ".nrrd", ".nrrd"),
        ("a.seg.nrrd", ".seg.nrrd", ".seg.nrrd"),
    ],
)  # fmt: skip
def test_a_result_has_its_images_format_where_that_can_hold_it(name, classes, fractions):
    assert (output_suffix(name), output_suffix(name, fractions=True)) == (classes, fractions)
