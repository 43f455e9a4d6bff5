"""TIFF files whose description and pages disagree: sets of files, planes too few and too many."""

import json
import logging
import tracemalloc

import numpy as np
import pytest
import tifffile

from volseg.errors import InputError, RefusedError
from volseg.io import read_volume
from volseg.io.blocks import open_blocks
from volseg.io.mapped import map_volume

STACK = np.random.default_rng(0).integers(1, 255, (12, 16, 20), dtype=np.uint8)
NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def described(data="<TiffData/>", z=12, c=1, t=1, head="", channels=""):
    """OME-XML as Bio-Formats writes it."""
    return (
        f'<?xml version="1.0"?><OME xmlns="{NAMESPACE}"{head}><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYZCT" Type="uint8" SizeX="20" SizeY="16" SizeZ="{z}" SizeC="{c}" SizeT="{t}" '
        f'PhysicalSizeX="0.5" PhysicalSizeY="0.5" PhysicalSizeZ="2">{channels}{data}</Pixels></Image></OME>'
    )


def write(path, planes, text, photometric="minisblack"):
    with tifffile.TiffWriter(path) as tif:
        for i, plane in enumerate(planes):
            tif.write(
                plane,
                description=text if i == 0 else None,
                metadata=None,
                contiguous=False,
                photometric=photometric,
            )
    return path


def part(name, first, ifd=0, count=6, uuid=None):
    return (
        f'<TiffData IFD="{ifd}" FirstZ="{first}" PlaneCount="{count}"><UUID FileName="{name}">'
        f"urn:uuid:{uuid or name}</UUID></TiffData>"
    )


@pytest.fixture
def halves(tmp_path):
    """A stack in two files, both with the whole description, as Bio-Formats writes a set."""
    data = part("a.ome.tif", 0) + part("b.ome.tif", 6)
    for name, planes in (("a.ome.tif", STACK[:6]), ("b.ome.tif", STACK[6:])):
        write(tmp_path / name, planes, described(data, head=f' UUID="urn:uuid:{name}"'))
    return tmp_path


@pytest.mark.parametrize("name", ["a.ome.tif", "b.ome.tif"])
def test_a_set_is_read_whole_whichever_of_its_files_is_named(halves, name, caplog):
    caplog.set_level(logging.INFO)
    found = read_volume(halves / name)
    np.testing.assert_array_equal(found.array[0], STACK.T)
    assert (found.spacing, found.unit) == ((0.5, 0.5, 2), "um")
    other = {"a.ome.tif": "b.ome.tif", "b.ome.tif": "a.ome.tif"}[name]
    assert f"planes are also read from {other}" in caplog.text


def test_blocks_of_a_set_are_those_of_the_whole(halves):
    np.testing.assert_array_equal(
        open_blocks(halves / "a.ome.tif")[:, 2:9, 3:9, 4:9][0], STACK.T[2:9, 3:9, 4:9]
    )


@pytest.mark.parametrize("read", [read_volume, map_volume], ids=["whole", "mapped"])
def test_a_set_without_its_other_file_is_refused_with_the_numbers(halves, read):
    (halves / "b.ome.tif").unlink()
    with pytest.raises(
        InputError, match=r"holds 6 of the 12 planes .* others are in 'b.ome.tif', which is missing"
    ):
        read(halves / "a.ome.tif")


def test_a_set_whose_other_file_was_cut_is_refused(halves):
    write(halves / "b.ome.tif", STACK[6:9], "")
    with pytest.raises(InputError, match=r"speaks of page 6 of 'b.ome.tif', which has 3"):
        read_volume(halves / "a.ome.tif")


@pytest.mark.parametrize("name", ["../secret.tif", "/etc/passwd", "sub\\\\x.tif"])
def test_a_set_reaches_no_file_elsewhere(tmp_path, name):
    write(tmp_path / "secret.tif", STACK[:6], "")
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.ome.tif", STACK[:6], described(part("a.ome.tif", 0) + part(name, 6)))
    with pytest.raises(RefusedError, match="not a name in its own folder"):
        read_volume(folder / "a.ome.tif")


def test_a_file_that_was_renamed_is_still_itself(tmp_path):
    data = "".join(part("old.ome.tif", z, z, 1, "x") for z in range(12))
    for head in (' UUID="urn:uuid:x"', ""):
        write(tmp_path / "new.ome.tif", STACK, described(data, head=head))
        found = read_volume(tmp_path / "new.ome.tif")
        np.testing.assert_array_equal(found.array[0], STACK.T)
        assert found.spacing == (0.5, 0.5, 2)


def test_a_description_in_a_companion_file_is_found(tmp_path):
    data = part("a.tif", 0) + part("b.tif", 6)
    only = (
        f'<?xml version="1.0"?><OME xmlns="{NAMESPACE}" UUID="urn:uuid:NAME"><BinaryOnly '
        'MetadataFile="set.companion.ome" UUID="urn:uuid:set"/></OME>'
    )
    for name, planes in (("a.tif", STACK[:6]), ("b.tif", STACK[6:])):
        write(tmp_path / name, planes, only.replace("NAME", name))
    with pytest.raises(InputError, match=r"described in 'set.companion.ome', which is missing"):
        read_volume(tmp_path / "b.tif")
    (tmp_path / "set.companion.ome").write_text(described(data, head=' UUID="urn:uuid:set"'))
    for name in ("a.tif", "b.tif"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array[0], STACK.T)
    (tmp_path / "set.companion.ome").write_text("<OME")
    with pytest.raises(InputError, match="no OME-XML that can be read"):
        read_volume(tmp_path / "a.tif")


def test_a_file_whose_description_lies_in_another_tiff_names_it(tmp_path):
    only = (
        f'<?xml version="1.0"?><OME xmlns="{NAMESPACE}"><BinaryOnly MetadataFile="a.ome.tif" UUID="u"/></OME>'
    )
    write(tmp_path / "a.ome.tif", STACK, described())
    write(tmp_path / "b.ome.tif", STACK[:6], only)
    with pytest.raises(InputError, match=r"described in 'a.ome.tif'. Name that file instead"):
        read_volume(tmp_path / "b.ome.tif")


# --- too few, too many -------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_volume, map_volume], ids=["whole", "mapped"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (described(z=13), "promises 13 slices, 12 found"),
        (described(z=12, c=2), "promises 24 slices, 12 found"),
        (described('<TiffData IFD="0" PlaneCount="13"/>'), "promises 13 slices, 12 found"),
        (
            described(z=6, data='<TiffData IFD="0" PlaneCount="6"/>'),
            "describes 6 planes, but 12 pages are there",
        ),
        (described(z=6), "describes 6 planes, but 12 pages are there"),
        ("ImageJ=1.54f\nimages=6\nslices=6\n", "describes 6 planes, but 12 pages are there"),
        ("ImageJ=1.54f\nimages=13\nslices=13\n", "13"),
    ],
)
def test_other_planes_than_told_are_refused_with_the_numbers(tmp_path, read, text, told):
    path = write(tmp_path / "a.ome.tif", STACK, text)
    with pytest.raises(InputError, match=told):
        read(path)


@pytest.mark.parametrize("text", [described(z=13), described(z=6), "ImageJ=1.54f\nimages=6\nslices=6\n"])
def test_who_knows_better_says_what_the_pages_are(tmp_path, text, caplog):
    path = write(tmp_path / "a.ome.tif", STACK, text)
    found = read_volume(path, axes="ZYX")
    np.testing.assert_array_equal(found.array[0], STACK.T)
    assert "found." in caplog.text or "pages are there." in caplog.text
    assert "As its axes were given, the pages that are there are read" in caplog.text
    assert "axes=" not in caplog.text  # no advice that was followed
    assert "--axes" not in caplog.text
    if "OME" in text:
        assert (found.spacing, found.unit) == ((0.5, 0.5, 2.0), "um")


def test_what_tifffile_says_of_its_own_is_not_printed_beside(tmp_path, caplog):
    path = write(tmp_path / "a.ome.tif", STACK, described(z=6))
    with pytest.raises(InputError, match="describes 6 planes"):
        read_volume(path)
    assert not [record for record in caplog.records if record.name == "tifffile"]


def test_previews_and_colours_are_no_planes_too_many(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        tif.write(STACK[0], description=described(z=1), metadata=None)
        tif.write(STACK[0, ::2, ::2], subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.ome.tif").array[0], STACK[0].T)
    channel = '<Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
    rgb = np.repeat(STACK[:3, ..., None], 3, -1)
    write(tmp_path / "b.ome.tif", rgb, described(z=3, c=3, channels=channel), "rgb")
    assert read_volume(tmp_path / "b.ome.tif").array.shape == (3, 20, 16, 3)


BOMBS = {
    "SizeZ": described(z=999_999_999),
    "SizeT": described(z=12, t=10**17),
    "SizeZ of 5,000 digits": described(z="9" * 5000),
    "PlaneCount": described('<TiffData IFD="0" PlaneCount="999999999"/>'),
    "IFD": described('<TiffData IFD="999999999"/>'),
    "ImageJ": "ImageJ=1.54f\nimages=999999999\nslices=999999999\n",
    "shape": json.dumps({"shape": [999_999_999, 16, 20]}),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("axes", [None, "YX"])
def test_a_description_of_a_thousand_million_planes_costs_nothing(tmp_path, text, axes):
    path = write(tmp_path / "a.ome.tif", STACK[:1], text)
    tracemalloc.start()
    try:
        read_volume(path, axes=axes)
    except InputError as error:
        assert "a.ome.tif" in str(error)  # noqa: PT017 - some are read as the one page that is there
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
