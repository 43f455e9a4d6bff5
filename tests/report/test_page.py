"""The page about a result: what stands on it, that it is whole in itself, and that names stay names."""

import base64
import dataclasses
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser

import imagecodecs
import numpy as np
import pytest
from matplotlib.figure import Figure

from volseg.annotation import Finding
from volseg.errors import RefusedError
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.report import (
    Amount,
    Calibration,
    CaseRow,
    ClassScore,
    LearningCurve,
    MethodScores,
    Report,
    Suggestion,
    class_colours,
    embedding,
    write_figures,
    write_report,
)
from volseg.report.charts import calibration_chart, curve_charts, scores_chart
from volseg.report.colours import SERIES
from volseg.report.figures import draw, slice_picture
from volseg.report.picture import planes_of
from volseg.report.rendering import svg

SCHEME = LabelScheme(["lumen", "wall", "background"], [0, 1, 2], 3)
VOID = {"meta", "link", "img", "input", "br", "line", "circle", "rect", "polygon", "polyline"}
HOSTILE = "</script><script>hacked=1</script><img src=x onerror=hacked=1>\" onclick='hacked=1' & $title {0} ü"


class Page(HTMLParser):
    """The elements of a page with their texts; every element must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag, **wanted):
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]

    def scripts(self):
        return dict(zip((a.get("id", "code") for a in self.all("script")), self.texts["script"], strict=True))


def report_of(size, seed=0, **changes):
    """A report with every part filled in."""
    rng = np.random.default_rng(seed)
    result = rng.integers(0, 3, size).astype(np.uint8)
    paint = np.full(size, IGNORE_INDEX, np.uint8)
    paint[..., 2] = result[..., 2]
    score = ClassScore(0.75, 0.857, (0.7, 0.8), 0.931)
    parts = {
        "title": "kidney.tif",
        "image": rng.normal(size=(1, *size)),
        "labels": SCHEME,
        "result": result,
        "spacing": (0.5, 0.5, 2.0)[: len(size)],
        "unit": "um",
        "paint": paint,
        "confidence": rng.random(size),
        "truth": result,
        "scores": [
            MethodScores("network", [score] * 3, score),
            MethodScores("interpolation", [ClassScore(0.5), ClassScore(None), ClassScore(0.9)]),
        ],
        "scores_note": "On two slices.",
        "curves": [LearningCurve([1, 2, 3], [0.9, float("nan"), 0.2], [2], [0.6])],
        "findings": [
            Finding("speck", "warning", "Three voxels only", slices=(("x", 1),), voxel=(1, 2, 2)[: len(size)])
        ],
        "suggestion": Suggestion("y", 3, 0.0213, "Nothing is painted there."),
        "calibration": Calibration([0, 0.5, 1], [0.3, None], [0.4, 0.9], 0.08, 0.02),
        "facts": {"mean IoU": "0.75"},
        "warnings": ["Few slices."],
        "versions": {"volseg": "0.1.0"},
        "command": "volseg densify kidney.tif",
    }
    return Report(**parts | changes)


@pytest.fixture(params=[(7, 6), (7, 6, 5)], ids=["2d", "3d"])
def report(request):
    return report_of(request.param)


def page_of(report, tmp_path, **options):
    return Page(write_report(tmp_path / "page.html", report, **options).read_text(encoding="utf-8"))


def labels_of(page, name):
    meta = json.loads(page.scripts()["meta"])
    data = zlib.decompress(base64.b64decode(page.scripts()[f"data-{name}"]))
    return np.frombuffer(data, np.uint8).reshape(meta["shape"][::-1]).T


def picture_of(page, name, channels=1):
    """The image or the confidence, put together from its sheets."""
    meta = json.loads(page.scripts()["meta"])
    width, height, depth = meta["shape"]
    volume = np.zeros((depth, height, width, channels))
    for number, sheet in enumerate(meta["sheets"][name]):
        data = imagecodecs.jpeg8_decode(base64.b64decode(page.scripts()[f"data-{name}-{number}"]))
        data = data.reshape(*data.shape[:2], channels)
        for i in range(sheet["count"]):
            row, column = divmod(i, sheet["columns"])
            top, left = row * sheet["tile"][1], column * sheet["tile"][0]
            volume[sheet["first"] + i] = data[top : top + height, left : left + width]
    return volume.transpose(3, 2, 1, 0)


# --- content ----------------------------------------------------------------------------------------------


def test_a_page_shows_every_part(report, tmp_path):
    page = page_of(report, tmp_path)
    text = " ".join(page.texts["body"][0].split())
    for words in (
        "kidney.tif", "0.5 × 0.5", "µm", "lumen", "interpolation", "0.750 (0.700 – 0.800)", "On two slices.",
        "mean IoU, held out", "Three voxels only.", "x = 1", "slice y = 3", "+2.1 points", "Few slices.",
        "volseg densify kidney.tif", "0.1.0", "0.020",
    ):  # fmt: skip
        assert words in text
    dims = len(report.size)
    assert [a["data-view"] for a in page.all("figure")] == ["xy", "xz", "yz"][: 3 if dims == 3 else 1]
    assert [a["data-layer"] for a in page.all("div", **{"class": "layer"})] == [
        "image", "result", "truth", "paint", "confidence", "errors",
    ]  # fmt: skip
    sliders = [a for a in page.all("input", type="range") if a["aria-label"].startswith("slice along")]
    assert [int(a["max"]) + 1 for a in sliders] == ([5, 6, 7] if dims == 3 else [])


def test_parts_that_are_missing_are_left_out(tmp_path):
    full = report_of((5, 4, 3))
    page = page_of(Report("bare", full.image, SCHEME, full.result), tmp_path)
    assert {a.get("id") for a in page.all("section")} == {"viewer"}
    assert len(page.all("div", **{"class": "layer"})) == 2
    assert "Nothing was found" in page_of_again(full, tmp_path, findings=()).texts["body"][0]


def page_of_again(report, tmp_path, **changes):
    return page_of(dataclasses.replace(report, **changes), tmp_path, overwrite=True)


def test_labels_are_embedded_exactly_and_pictures_nearly(report, tmp_path):
    page = page_of(report, tmp_path)
    for name in ("result", "paint", "truth"):
        np.testing.assert_array_equal(labels_of(page, name).reshape(report.size), getattr(report, name))
    found = picture_of(page, "confidence").reshape(report.size) / 255
    assert np.abs(found - report.confidence).mean() < 0.05


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_channels_become_grey_or_red_green_and_blue(channels, tmp_path):
    x = np.linspace(0, 1, 64, dtype=np.float32)
    image = np.stack([np.tile(x, (8, 3, 1)).transpose(2, 0, 1) * (i + 1) + i for i in range(channels)])
    result = np.zeros(image.shape[1:], np.uint8)
    page = page_of(Report("ramp", image, SCHEME, result), tmp_path)
    shown = picture_of(page, "image", 1 if channels == 1 else 3)
    for channel in shown[: min(channels, 3)]:
        assert np.abs(channel[:, 4, 1] - np.clip(255 * (x - 0.01) / 0.987, 0, 255)).max() < 8
    assert channels != 2 or shown[2].max() < 8
    assert ("Channels 1 to 3 of 5" in page.texts["body"][0]) == (channels == 5)


def test_marks_show_the_painted_slices_and_the_next_one(tmp_path):
    page = page_of(report_of((7, 6, 5)), tmp_path)
    assert json.loads(page.scripts()["meta"])["painted"] == [[], [], [2]]
    assert [a["title"] for a in page.all("span", **{"class": "mark"})] == ["painted: z = 2 (3 of 5)"]
    assert [a["title"] for a in page.all("span", **{"class": "mark next"})] == ["paint next: y = 3 (4 of 6)"]


def test_a_finding_offers_its_first_slices(tmp_path):
    slices = tuple(("z", i) for i in range(9))
    report = report_of((4, 4, 9), findings=[Finding("bunched", "note", "Spread them", slices=slices)])
    page = page_of(report, tmp_path)
    jumps = [json.loads(a["data-to"]) for a in page.all("button", **{"class": "jump"})]
    assert jumps == [[[2, i]] for i in range(6)]
    assert "and 3 more" in page.texts["body"][0]


# --- whole in itself --------------------------------------------------------------------------------------


def test_a_page_refers_to_nothing_outside(report, tmp_path):
    page = page_of(report, tmp_path)
    links = [a[k] for _, a in page.elements for k in ("src", "href", "data", "srcset", "action") if a.get(k)]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    styles = "".join(page.texts["style"]) + "".join(a.get("style") or "" for _, a in page.elements)
    assert not re.search(r"url\(|@import", styles)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")
    code = base64.b64encode(hashlib.sha256(page.scripts()["code"].encode()).digest()).decode()
    assert f"script-src 'sha256-{code}'" in policy["content"]


NO_TEXT = {"image", "result", "paint", "confidence", "truth", "painted"}  # arrays and numbers
NO_TEXT |= {"spacing", "orientation", "background", "calibration"}


def with_text_everywhere(report, text):
    """Every part that can hold a text that somebody wrote."""
    return {
        "title": text,
        "unit": text,
        "labels": LabelScheme([text, text + "1", "background"], [0, 1, 2]),
        "understood": [text],
        "scores": [dataclasses.replace(scores, method=text) for scores in report.scores],
        "scores_note": text,
        "cases": [CaseRow(text, [None] * 6, text, text)],
        "curves": [dataclasses.replace(report.curves[0], validation_name=text, name=text)] * 2,
        "findings": [Finding(text, text, text, text, text, file=text)],
        "suggestion": dataclasses.replace(report.suggestion, text=text, todo=text, command=text),
        "amounts": [Amount(text, 1, 2.0, text)],
        "changes": [text],
        "figures": [text],
        "facts": {text: text},
        "warnings": [text],
        "versions": {text: text},
        "command": text,
        "methods": text,
        "sources": [text],
    }


def test_hostile_names_stay_text_in_every_field(report, tmp_path):
    hostile = with_text_everywhere(report, HOSTILE)
    assert set(hostile) | NO_TEXT == {field.name for field in dataclasses.fields(Report)}
    harmless = page_of_again(report, tmp_path, **with_text_everywhere(report, "text"))
    page = page_of_again(report, tmp_path, **hostile)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert [sorted(a) for _, a in page.elements] == [sorted(a) for _, a in harmless.elements]
    assert page.texts["title"][0] == page.texts["h1"][0] == page.texts["pre"][0] == HOSTILE
    assert [a["href"] for a in page.all("a")][-1] == HOSTILE
    assert json.loads(page.scripts()["meta"])["classes"][0]["name"] == HOSTILE
    assert not set("<>&'") & set(page.scripts()["meta"])


def test_a_lone_surrogate_in_a_name_does_not_stop_the_page(tmp_path):
    page = page_of(report_of((5, 4, 3), title="bad\udcffname.tif"), tmp_path)
    assert page.texts["title"][0] == "bad?name.tif"


def test_everything_has_a_name_for_those_who_do_not_see_it(report, tmp_path):
    page = page_of(report, tmp_path)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("canvas") + page.all("svg", role="img"))
    for attributes in page.all("input", type="range") + page.all("select"):
        assert attributes.get("aria-label")
    boxes = len(page.all("input", type="checkbox"))
    assert len(re.findall(r'<label><input type="checkbox"', html)) == boxes
    assert all(a.get("scope") for a in page.all("th"))
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    assert {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a} <= set(identifiers)
    assert page.all("html")[0]["lang"] == "en"


# --- size -------------------------------------------------------------------------------------------------


def test_a_large_volume_is_shown_more_coarsely_and_says_so(tmp_path):
    size = (60, 50, 40)
    report = report_of(size)
    path = tmp_path / "page.html"
    fine = write_report(path, report).stat().st_size
    limit = fine - 60_000
    page = page_of(report, tmp_path, max_bytes=limit, overwrite=True)
    assert path.stat().st_size <= limit
    meta = json.loads(page.scripts()["meta"])
    assert meta["size"] == list(size)
    assert max(meta["steps"]) > 1
    assert meta["steps"][0] > 1  # x is finer than z here
    assert "every 2nd voxel along x" in page.texts["body"][0]
    x, y, z = (slice(None, None, step) for step in meta["steps"])
    np.testing.assert_array_equal(labels_of(page, "result"), report.result[x, y, z])


def test_paint_survives_and_the_image_is_averaged(monkeypatch):
    size = (9, 6, 5)
    monkeypatch.setattr(embedding, "_MAX_SIDE", 3)
    report = report_of(size)
    report.paint[:] = IGNORE_INDEX
    report.paint[2::3, 1:4, 3] = [0, 1, 2]  # none of it at the start of a block
    embedded = embedding.embed(report, max_bytes=10**6)
    assert embedded.steps == (3, 2, 2)
    paint = np.frombuffer(zlib.decompress(base64.b64decode(embedded.labels["paint"])), np.uint8)
    paint = paint.reshape(embedded.shape[::-1]).T
    mean = embedding._mean(report.image[0], embedded.steps)
    for i, j, k in np.ndindex(embedded.shape):
        block = slice(3 * i, 3 * i + 3), slice(2 * j, 2 * j + 2), slice(2 * k, 2 * k + 2)
        here = report.paint[block].ravel()
        painted = here[here != IGNORE_INDEX]
        assert paint[i, j, k] == (painted[0] if painted.size else IGNORE_INDEX)
        assert mean[i, j, k] == pytest.approx(report.image[0][block].mean(), abs=1e-5)


def test_no_room_for_pictures_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="max_bytes = 20000 leaves no room .* Allow [0-9]+ or more"):
        write_report(tmp_path / "page.html", report_of((5, 4, 3)), max_bytes=20_000)
    assert not list(tmp_path.iterdir())


def test_an_existing_page_is_kept(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(RefusedError, match="exists already"):
        write_report(path, report_of((5, 4, 3)))
    assert path.read_text() == "mine"


# --- parts ------------------------------------------------------------------------------------------------

SIZE = (5, 4, 3)
ZEROS = np.zeros(SIZE, np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": ZEROS[0]}, r"image has shape \(4, 3\).*image\[None\]"),
        ({"result": ZEROS[1:]}, r"result has shape \(4, 4, 3\), but the image has \(5, 4, 3\)"),
        ({"paint": ZEROS + 7}, "paint holds 7; class indices are 0 to 2"),
        ({"truth": ZEROS - 0.5}, "truth is of type float64"),
        ({"confidence": ZEROS + 1.5}, "confidence goes from 1.5 to 1.5"),
        ({"confidence": ZEROS * np.nan}, "confidence goes from nan to nan"),
        ({"spacing": (1, 2)}, r"spacing = \(1, 2\); a positive voxel size for each of 3 axes"),
        ({"spacing": (1, 2, 0)}, "a positive voxel size"),
        ({"orientation": "RAR"}, "orientation = 'RAR'; one letter of L or R"),
        ({"orientation": "RAX"}, "orientation = 'RAX'"),
        ({"suggestion": Suggestion("z", 3)}, r"there is no slice z = 3 in an image of \(5, 4, 3\)"),
        ({"findings": [Finding("a", "note", "b", slices=(("t", 0),))]}, "there is no slice t = 0"),
        ({"findings": [Finding("a", "note", "b", voxel=(0, 4, 0))]}, r"there is no voxel \(0, 4, 0\)"),
        ({"scores": [MethodScores("m", [ClassScore(1.0)])]}, "scores of 'm' are for 1 classes, but .* 3"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        report_of(SIZE, **changes)


def test_figures_without_partners_are_refused():
    with pytest.raises(ValueError, match="loss has 1 values for 2 iterations"):
        LearningCurve([1, 2], [0.5])
    with pytest.raises(ValueError, match="before has 3 values, but 3 edges make 2 bins"):
        Calibration([0, 0.5, 1], [0, 0, 0], [0, 0], 0, 0)


@pytest.mark.parametrize(
    ("loss", "points"), [([0.5], 1), ([0.5, 0.5], 2), ([1e-9, 2e-9], 2), (list(range(1000)), 250)]
)
def test_a_learning_curve_is_drawn_inside_its_frame(loss, points):
    (chart,) = curve_charts([LearningCurve(range(len(loss)), loss)])
    (line,) = re.findall(r'points="([^"]+)"', svg(chart))
    xs, ys = zip(*(map(float, point.split(",")) for point in line.split()), strict=True)
    assert len(xs) == points
    assert 0 <= min(xs) <= max(xs) <= 380
    assert 0 <= min(ys) <= max(ys) <= 230


def test_curves_of_several_models_are_lines_of_their_own_and_break_where_something_new_begins():
    curves = [
        LearningCurve([1, 50, 100, 150], [0.7, 0.1, 0.6, 0.05], [1], [0.6], name=f"fold {i}", breaks=[2])
        for i in range(1, 8)
    ]
    loss, held = map(svg, curve_charts(curves))
    lines = re.findall(r'<polyline class="([^"]*)" points="([^"]*)"><title>(fold \d)</title>', loss)
    assert len(lines) == 14
    assert all(len(points.split()) == 2 for _, points, _ in lines)
    assert len({(style, name) for style, _, name in lines}) == 7
    assert len({style for style, _, _ in lines}) == 7  # the sixth has the first one's colour, dashed
    assert held.count("<circle") == 7


def test_a_curve_without_a_finite_figure_says_so():
    (chart,) = curve_charts([LearningCurve([1, 2], [float("nan"), float("inf")])])
    assert "loss: no figure that is finite" in svg(chart)


@pytest.mark.parametrize("count", [7, 8, 21])
def test_classes_differ_in_colour(count):
    assert len({tuple(colour) for colour in class_colours(count)}) == count


# --- orientation and still pictures -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "flips", "letters"),
    [
        ("", [(False, False)] * 3, [()] * 3),
        ("LPI", [(False, False)] * 3, ["RLAP", "RLSI", "APSI"]),
        ("RAS", [(True, True)] * 3, ["RLAP", "RLSI", "APSI"]),
        ("PIR", [(False, False), (False, False), (False, False)], ["APSI", "APLR", "SILR"]),
    ],
)
def test_the_head_is_up_and_the_left_side_on_the_right(orientation, flips, letters):
    planes = planes_of(SIZE, orientation)
    assert [plane.flipped for plane in planes] == flips
    assert [plane.letters for plane in planes] == [tuple(group) for group in letters]


@pytest.mark.parametrize("orientation", ["", "RAS"])
def test_a_still_picture_shows_the_classes_over_the_image(orientation):
    report = report_of(SIZE, orientation=orientation)
    for plane in planes_of(report.size, report.orientation):
        plain = slice_picture(report, plane, 1, layer="image").astype(float)
        shown = slice_picture(report, plane, 1).astype(float)
        sign = -1 if orientation else 1
        classes = np.moveaxis(report.result, (plane.down, plane.across), (0, 1))[::sign, ::sign, 1]
        assert shown.shape == (*classes.shape, 3)
        expected = np.where(
            (classes == 2)[..., None], plain, plain / 2 + class_colours(3)[classes].astype(float) / 2
        )
        np.testing.assert_allclose(shown, expected, atol=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(7, 6), (7, 6, 5)], ids=["2d", "3d"])
def test_figures_are_written_and_kept(size, tmp_path):
    report = report_of(size, title="50 $ and $ more_", labels=LabelScheme(["$a", "_b", "c$"], [0, 1, 2]))
    paths = write_figures(tmp_path / "figures", report)
    names = ["overview.png", "scores.png", "curve.png", "calibration.png"]
    assert [path.name for path in paths] == names
    for path in paths:
        picture = imagecodecs.png_decode(path.read_bytes())
        assert min(picture.shape[:2]) > 150
        assert picture.std() > 5
    paths[0].unlink()
    with pytest.raises(RefusedError, match="scores.png exists already"):
        write_figures(tmp_path / "figures", report)
    assert not paths[0].exists()
    bare = Report("bare", report.image, report.labels, report.result)
    assert [path.name for path in write_figures(tmp_path / "figures", bare)] == ["overview.png"]


def test_a_class_that_was_never_painted_has_no_row_of_scores(tmp_path):
    """Of finished slices without any background there is nothing to say of it. What was painted has a row."""
    score = ClassScore(0.75, 0.857, (0.7, 0.8))
    scores = [MethodScores("network", [score, ClassScore(None), ClassScore(None)], score)]
    painted = report_of((7, 6, 5)).paint % 2 + 254 * (report_of((7, 6, 5)).paint == IGNORE_INDEX)
    assert set(np.unique(painted)) == {0, 1, IGNORE_INDEX}
    report = report_of((7, 6, 5), scores=scores, paint=painted.astype(np.uint8))
    assert report.score_rows()[0] == ["lumen", "wall"]
    assert [len(method.classes) for method in report.score_rows()[1]] == [2]
    rows = page_of(report, tmp_path).texts["th"]
    assert "wall" in rows
    assert "background" not in rows


def test_units_are_written_as_people_do(tmp_path):
    report = report_of((7, 6, 5), amounts=[Amount("wall", 3, 1.5, "um^3"), Amount("lumen", 2, 1.0, "um^3")])
    heads = page_of(report, tmp_path).texts["th"]
    assert "µm³" in heads
    assert "um^3" not in heads
    assert Amount("wall", 3, 1.5, "mm^2").unit_in_words == "mm²"


# --- charts and colours -----------------------------------------------------------------------------------


def lines_drawn(chart):
    """Of a chart drawn by matplotlib, the points of every line that has them."""
    axes = Figure().subplots()
    draw(chart, axes)
    return [line.get_xydata() for line in axes.lines]


def test_page_and_picture_show_the_same_points(report):
    names, methods = report.score_rows()
    charts = [
        scores_chart(names, methods),
        calibration_chart(report.calibration),
        *curve_charts(report.curves),
    ]
    for chart in charts:
        known = np.array([point for line in chart.lines for part in line.parts() for point in part])
        drawn = np.concatenate([points for points in lines_drawn(chart) if len(points)])
        assert all((np.abs(drawn - point) < 1e-9).all(1).any() for point in known)
        page = Page(svg(chart))
        marks = [tag for tag, a in page.elements if (a.get("class") or "").startswith("dot")]
        paths = [a["points"].split() for a in page.all("polyline")]
        assert max(len(marks), sum(map(len, paths))) == len(known)


def test_a_mark_of_the_page_says_what_it_marks(report):
    names, methods = report.score_rows()
    titles = Page(svg(scores_chart(names, methods))).texts["title"]
    assert "network, lumen: 0.750" in titles
    assert "interpolation, background: 0.900" in titles


def test_the_colours_of_the_page_are_those_of_the_pictures(report, tmp_path):
    style = page_of(report, tmp_path).texts["style"][0]
    for j, colour in enumerate(SERIES):
        assert f"--series-{j}: {colour};" in style
        assert f".dot.line-{j} {{ fill: var(--series-{j}); }}" in style
    used = set(re.findall(r"var\((--[\w-]+)", style)) - {"--ratio"}
    assert used <= set(re.findall(r"(--[\w-]+):", style))
    drawn = Figure().subplots()
    draw(curve_charts([dataclasses.replace(report.curves[0], name=str(i)) for i in range(6)])[1], drawn)
    assert [line.get_color() for line in drawn.lines] == [*SERIES, SERIES[0]]
