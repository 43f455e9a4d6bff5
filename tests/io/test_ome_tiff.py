"""What is written as OME-TIFF is OME-TIFF: ome-types, whose model is OME's schema, is the witness."""

import numpy as np
import pytest
import tifffile

from volseg.io import Volume, read_volume, write_volume

pytest.importorskip("ome_types")
from ome_types import from_xml

WORDS = {"um": "µm", "mm": "mm", "m": "m", "": "pixel"}
IN_METRES = {"nm": 1e-9, "Å": 1e-10, "pm": 1e-12, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "in": 0.0254}


def model(path):
    with tifffile.TiffFile(path) as tif:
        (image,) = from_xml(tif.ome_metadata).images
    return image.pixels


@pytest.mark.parametrize("unit", WORDS)
@pytest.mark.parametrize("size", [(6, 5), (6, 5, 4)], ids=["2d", "3d"])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_is_valid_and_says_how_large_a_voxel_is(tmp_path, unit, size, channels):
    array = np.random.default_rng(0).integers(0, 9, (channels, *size)).astype(np.uint8)
    sizes = (0.5, 0.25, 2.0)[: len(size)]
    write_volume(tmp_path / "a.ome.tif", array, Volume(array, np.diag([*sizes, 1.0]), unit))
    pixels = model(tmp_path / "a.ome.tif")
    assert (pixels.size_x, pixels.size_y, pixels.size_z, pixels.size_c) == (6, 5, (*size, 1)[2], channels)
    for axis, length in zip("xyz", sizes, strict=False):
        assert getattr(pixels, f"physical_size_{axis}") == pytest.approx(length)
        assert getattr(pixels, f"physical_size_{axis}_unit").value == WORDS[unit]


@pytest.mark.parametrize(
    "unit", ["nm", "Å", "pm", "µm", "mm", "cm", "m", "in", "ft", "pixel", "reference frame"]
)
def test_a_result_of_an_ome_tiff_is_valid_whatever_its_units_are(tmp_path, unit):
    """Of every unit that OME knows, the voxel of the result is as long as that of its image."""
    metadata = {"axes": "CZYX", "Channel": {"Name": ["DAPI", "β-actin & co"]}}
    for axis in "XYZ":
        metadata |= {f"PhysicalSize{axis}": 3.0, f"PhysicalSize{axis}Unit": unit}
    array = np.zeros((2, 4, 5, 6), np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", array, metadata=metadata)
    image = read_volume(tmp_path / "a.ome.tif")
    write_volume(tmp_path / "b.ome.tif", image.array, image)
    write_volume(tmp_path / "c.ome.tif", image.array[:1], image)
    before, after = model(tmp_path / "a.ome.tif"), model(tmp_path / "b.ome.tif")
    assert [channel.name for channel in after.channels] == [channel.name for channel in before.channels]
    assert len(model(tmp_path / "c.ome.tif").channels) == 1
    if unit in IN_METRES:
        lengths = [p.physical_size_x * IN_METRES[p.physical_size_x_unit.value] for p in (before, after)]
        assert lengths[1] == pytest.approx(lengths[0])
    assert read_volume(tmp_path / "b.ome.tif").spacing == pytest.approx(image.spacing)
