"""What was understood of paint is shown: on a page, and as a picture."""

import re

import numpy as np
import pytest
from PIL import Image

from volseg.annotation import understand_paint
from volseg.cli import main
from volseg.io import Volume, write_volume
from volseg.labels import IGNORE_INDEX
from volseg.report import Report, class_colours, write_gallery, write_report
from volseg.report.gallery import paint_picture
from volseg.report.picture import planes_of

SIZES = {"2d": (40, 30), "3d": (40, 30, 20)}


@pytest.fixture(params=SIZES)
def report(request):
    """Paint of two classes: on xy slices 4 and 15 and yz slice 8, or in a corner of an image."""
    size = SIZES[request.param]
    raw = np.zeros(size, np.uint8)
    if len(size) == 3:
        for plane in (raw[..., 4], raw[..., 15], raw[8]):
            plane[2:18, 2:18], plane[5:9, 5:9] = 1, 2
        paint = understand_paint(raw)
    else:
        raw[2:18, 2:18], raw[5:9, 5:9] = 1, 2
        paint = understand_paint(np.where(np.indices(size)[0] < 30, raw, 9), unlabelled=9)
    return Report(
        "paint", np.zeros((1, *size), np.float32), paint.scheme({1: "a<b", 2: "lumen"}), None,
        paint=paint.labels, painted=paint.slices, understood=[paint.describe(), paint.counted()],
        background=paint.background, findings=(),
    )  # fmt: skip


def pixels(report, plane, index):
    """The picture taken apart by what was painted: of each class, and of what is unlabelled."""
    picture = paint_picture(report, plane, index)
    paint = report.paint if plane.normal is None else np.take(report.paint, index, plane.normal)
    rows, columns = (np.arange(n) * m // n for n, m in zip(picture.shape, paint.T.shape, strict=False))
    labels = paint.T[rows[:, None], columns]
    return {int(value): picture[labels == value].astype(int) for value in np.unique(labels)}


def test_each_class_has_its_colour_background_a_weak_one_and_unlabelled_stripes(report):
    colours = class_colours(3)
    plane = planes_of(report.size, report.orientation)[-1]  # yz: a slice of it crosses the others
    found = pixels(report, plane, 20)
    assert IGNORE_INDEX in found
    stripes = np.unique(found[IGNORE_INDEX], axis=0)
    assert len(stripes) == 2
    assert np.all(np.ptp(stripes, axis=1) == 0)  # grey, which no class is
    for value in set(found) - {IGNORE_INDEX}:
        (colour,) = np.unique(found[value], axis=0)
        weak = report.background == value
        np.testing.assert_allclose(colour, colours[value] * (0.18 if weak else 0.45), atol=1)


def test_the_page_shows_every_painted_slice_named_both_ways(report, tmp_path):
    page = write_report(tmp_path / "page.html", report).read_text()
    names = re.findall(r'alt="([^"]*), as painted"', page)
    if len(report.size) == 2:
        assert names == ["image"]
    else:
        assert names == ["z = 4 (5 of 20)", "z = 15 (16 of 20)", "x = 8 (9 of 40)"]
        assert "data-to='[[2, 15]]'" in page
    assert page.count('<img src="data:image/jpeg;base64,') == len(names)
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert 'data-layer="paint"' in page
    assert 'data-layer="result"' not in page
    assert page.index('id="understood"') < page.index('id="findings"') < page.index('id="viewer"')
    assert "swatch hatched" in page


def test_of_many_slices_a_few_are_shown_and_that_is_said(tmp_path):
    raw = np.zeros((24, 20, 40), np.uint8)
    raw[2:22, 2:18, ::2] = 1
    paint = understand_paint(raw)
    report = Report(
        "many", np.zeros((1, *raw.shape)), paint.scheme({}), None, paint=paint.labels, painted=paint.slices,
        understood=["."],
    )  # fmt: skip
    page = write_report(tmp_path / "page.html", report).read_text()
    assert "xy slices (8 of 20 are shown)" in page
    assert page.count("as painted") == 8


def test_a_report_of_a_result_has_no_such_part(report, tmp_path):
    whole = Report("r", report.image, report.labels, np.zeros(report.size, np.uint8), paint=report.paint)
    assert 'id="understood"' not in write_report(tmp_path / "page.html", whole).read_text()


def test_the_picture_is_a_png_of_them_all(report, tmp_path):
    with Image.open(write_gallery(tmp_path / "page.png", report)) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


@pytest.fixture
def files(tmp_path):
    """Paint with NAME-less classes over a TIFF, as paths."""
    image = np.random.default_rng(0).normal(0, 1, (1, 30, 28, 26)).astype(np.float32)
    raw = np.zeros(image.shape[1:], np.uint8)
    for z in (4, 12, 20):
        raw[4:20, 4:20, z], raw[8:15, 8:15, z] = 1, 2
    like = Volume(image, np.eye(4), "um")
    write_volume(tmp_path / "image.tif", image, like)
    write_volume(tmp_path / "paint.tif", raw, like)
    return [str(tmp_path / name) for name in ("image.tif", "paint.tif")]


@pytest.mark.usefixtures("clean_process")
@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_the_command_writes_it_and_keeps_what_is_there(files, suffix, tmp_path, capsys):
    page = tmp_path / f"page{suffix}"
    plain = main(["audit", *files])
    capsys.readouterr()
    assert main(["audit", *files, "-o", str(page)]) == plain
    assert f"To look at: {page}" in capsys.readouterr().out
    before = page.read_bytes()
    assert main(["audit", *files, "-o", str(page)]) == 5
    assert "add --overwrite" in capsys.readouterr().err
    assert page.read_bytes() == before
    assert main(["audit", *files, "-o", str(page), "--overwrite"]) == plain


@pytest.mark.usefixtures("clean_process")
def test_another_suffix_is_refused(files, tmp_path, capsys):
    assert main(["audit", *files, "-o", str(tmp_path / "page.pdf")]) != 0
    assert "is shown as a page, .html, or picture, .png" in capsys.readouterr().err


@pytest.mark.usefixtures("clean_process")
def test_what_is_nothing_but_an_error_is_shown_as_well(files, tmp_path, capsys):
    """Nothing painted, and an image for a label: the page is for finding out why."""
    empty = np.zeros((30, 28, 26), np.uint8)
    write_volume(tmp_path / "empty.tif", empty, Volume(empty[None], np.eye(4), "um"))
    assert main(["audit", files[0], str(tmp_path / "empty.tif"), "-o", str(tmp_path / "a.html")]) == 3
    assert "No slice is painted." in (tmp_path / "a.html").read_text()
    grey = np.random.default_rng(0).integers(1, 200, empty.shape).astype(np.uint8)
    write_volume(tmp_path / "grey.tif", grey, Volume(grey[None], np.eye(4), "um"))
    assert main(["audit", files[0], str(tmp_path / "grey.tif"), "-o", str(tmp_path / "b.html")]) == 3
    assert "grey_values" in (tmp_path / "b.html").read_text()
    capsys.readouterr()
