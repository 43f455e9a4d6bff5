"""The parts of the page that need no script, as HTML.

Whatever a person named or wrote passes through ``escape``.
"""

import json
import math
from html import escape

from volseg.annotation import numbered
from volseg.findings import Finding
from volseg.report.charts import SERIES, calibration_chart, curve_charts, line_style, scores_chart
from volseg.report.parts import AXES, ClassScore, Report

__all__ = ["sections", "unit_of"]

_MAX_SLICES = 6  # that a finding offers to jump to


def sections(report: Report) -> dict[str, str]:
    """Every part but the views, by its place in ``page.html``."""
    return {
        "title": escape(report.title),
        "subtitle": _subtitle(report),
        "facts": _facts(report),
        "warnings": "\n".join(
            f'<p class="warning"><b>Mind:</b> {escape(text)}</p>' for text in report.warnings
        ),
        "suggestion": _suggestion(report) + _changes(report),
        "scores": _scores(report) + _amounts(report) + _cases(report),
        "learning": _beside(_curve(report), _calibration(report)),
        "findings": _findings(report),
        "provenance": _provenance(report),
    }


def unit_of(report: Report) -> str:
    """The unit as people write it; empty where the voxel size is unknown."""
    return "" if report.spacing is None else {"um": "µm", "micron": "µm"}.get(report.unit, report.unit)


def _beside(*parts: str) -> str:
    return f'<div class="pair">{"".join(parts)}</div>' if any(parts) else ""


def _subtitle(report: Report) -> str:
    size = " × ".join(map(str, report.size))
    text = [f"{size} {'voxels' if len(report.size) == 3 else 'pixels'}"]
    if report.spacing is not None:
        text[0] += f" of {' × '.join(f'{s:.4g}' for s in report.spacing)} {escape(unit_of(report))}".rstrip()
    text.append(_several(report.image.shape[0], "channel"))
    text.append(_several(len(report.labels), "class", "classes"))
    return " · ".join(text)


def _facts(report: Report) -> str:
    if not report.facts:
        return ""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts.items()
    )
    return f'<dl class="facts">{items}</dl>'


def _section(identifier: str, title: str, body: str) -> str:
    return (
        f'<section id="{identifier}" aria-labelledby="{identifier}-title">'
        f'<h2 id="{identifier}-title">{title}</h2>\n{body}\n</section>'
    )


def _suggestion(report: Report) -> str:
    suggestion = report.suggestion
    if suggestion is None:
        return ""
    gain = (
        ""
        if suggestion.gain is None
        else (f" Expected gain: at most {100 * suggestion.gain:+.1f} points of mean IoU.")
    )
    where = numbered(suggestion.axis, suggestion.index, report.size[AXES.index(suggestion.axis)])
    body = (
        f'<div class="suggestion"><span class="what">slice {where}</span>'
        f"<p>{escape(suggestion.text)}{gain}</p>"
        + _jump([(AXES.index(suggestion.axis), int(suggestion.index))], "Go to this slice", "jump primary")
        + "</div>"
    )
    if suggestion.todo:
        body += f"<p>{escape(suggestion.todo)}</p>"
    if suggestion.command:
        body += _command("go-on", suggestion.command)
    return _section("next", "Paint this next", body)


def _jump(to: list[tuple[int, int]], label: str, kind: str = "jump") -> str:
    return f'<button type="button" class="{kind}" data-to="{json.dumps(to)}">{label}</button>'


def _scores(report: Report) -> str:
    note = f"<p>{escape(report.scores_note)}</p>" if report.scores_note else ""
    if not report.scores:
        return _section("scores", "Scores", note) if note else ""
    names, methods = report.score_rows()
    with_dice = any(score.dice is not None for score in methods[0].classes)
    heads = "".join(
        f'<th scope="col" class="number">IoU<br>{escape(method.method)}</th>' for method in methods
    )
    if with_dice:
        heads += f'<th scope="col" class="number">Dice<br>{escape(methods[0].method)}</th>'
    rows = [
        _score_row(name, [method.classes[i] for method in methods], with_dice) for i, name in enumerate(names)
    ]
    leaves_out = report.headline.leaves_out
    if any(method.headline is not None for method in methods):
        main = [method.headline or ClassScore(None) for method in methods]
        name = "mean over foreground classes" if leaves_out else "mean over all classes"
        rows.append(_score_row(name, main, with_dice, kind="mean"))
    if any(method.mean is not None for method in methods) and (leaves_out or len(rows) == len(names)):
        means = [method.mean or ClassScore(None) for method in methods]
        name = "with background" if leaves_out else "mean over all classes"
        rows.append(_score_row(name, means, with_dice, kind="" if len(rows) > len(names) else "mean"))
    intervals = any(score.interval for method in methods for score in method.classes)
    caption = (
        "In brackets and as bars: the confidence interval over slices." if intervals else "IoU by class."
    )
    table = (
        f'<table><caption>{caption}</caption><thead><tr><th scope="col">class</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    chart = scores_chart(names, methods) + _series([method.method for method in methods])
    return _section(
        "scores",
        "Scores",
        f'{note}<div class="beside"><div class="scroll">{table}</div><div>{chart}</div></div>',
    )


def _cases(report: Report) -> str:
    """The index of all cases, with links to the pages that there are."""
    if not report.cases:
        return ""
    headline = report.headline
    of = "mean over foreground classes" if headline.leaves_out else "mean over all classes"
    heads = [
        "case",
        "",
        f"IoU<br>{of}",
        f"Dice<br>{of}",
        *(f"IoU<br>{escape(n)}" for n in report.labels.names),
    ]
    head = "".join(f'<th scope="col"{" class=number" if i > 1 else ""}>{h}</th>' for i, h in enumerate(heads))
    rows = []
    for case in report.cases:
        name = escape(case.name)
        name = f'<a href="{escape(case.link, quote=True)}">{name}</a>' if case.link else name
        figures = "".join(f'<td class="number">{_figure(value)}</td>' for value in case.figures)
        rows.append(f'<tr><th scope="row">{name}</th><td>{escape(case.what)}</td>{figures}</tr>')
    body = (
        "<p>The worst first. A page like this one was made of those that are linked.</p>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return _section("cases", "All cases", body)


def _score_row(name: str, scores: list[ClassScore], with_dice: bool, kind: str = "") -> str:
    known = [score.iou for score in scores if score.iou is not None and math.isfinite(score.iou)]
    best = max(known) if len(known) > 1 else None
    cells = []
    for score in scores:
        text = _figure(score.iou)
        if score.iou is not None and score.iou == best:
            text = f'<b class="best">{text}</b>'
        if score.interval is not None:
            low, high = score.interval
            text += f' <span class="interval">({_figure(low)} – {_figure(high)})</span>'
        cells.append(f'<td class="number">{text}</td>')
    if with_dice:
        cells.append(f'<td class="number">{_figure(scores[0].dice)}</td>')
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _series(names: list[str]) -> str:
    """Which mark of a chart is which; one alone needs no legend."""
    if len(names) < 2:
        return ""
    shapes = (
        '<circle class="dot line-{}" cx="6" cy="6" r="4.2"/>',
        '<rect class="dot line-{}" x="2" y="2" width="8" height="8"/>',
        '<polygon class="dot line-{}" points="6,1 11,10 1,10"/>',
    )
    items = [
        f'<span class="series"><svg width="12" height="12" aria-hidden="true">'
        f"{shapes[j % 3].format(j % SERIES)}</svg>{escape(name)}</span>"
        for j, name in enumerate(names)
    ]
    return f'<p class="quiet series-names">{"".join(items)}</p>'


def _curve(report: Report) -> str:
    if not report.curves:
        return ""
    charts = f'<div class="beside">{"".join(curve_charts(report.curves))}</div>'
    return _section("learning", "Learning", charts + _lines([curve.name for curve in report.curves]))


def _lines(names: list[str]) -> str:
    """Which line of a chart is which; one alone needs no legend."""
    if len(names) < 2:
        return ""
    items = [
        f'<span class="series"><svg width="22" height="12" aria-hidden="true"><line class="{line_style(j)}" '
        f'x1="1" x2="21" y1="6" y2="6"/></svg>{escape(name)}</span>'
        for j, name in enumerate(names)
    ]
    return f'<p class="quiet series-names">{"".join(items)}</p>'


def _calibration(report: Report) -> str:
    calibration = report.calibration
    if calibration is None:
        return ""
    text = (
        f"Confidence and truth are {_figure(calibration.error_after)} apart on average after calibration "
        f"({_figure(calibration.error_before)} before)."
    )
    chart = calibration_chart(calibration) + _series(["after calibration", "before"])
    return _section("calibration", "Is the confidence right?", f"<p>{text}</p>{chart}")


def _findings(report: Report) -> str:
    if report.findings is None:
        return ""
    body = "<p>Nothing was found that needs a look.</p>"
    if report.findings:
        heads = "".join(f'<th scope="col">{name}</th>' for name in ("severity", "what", "finding", "where"))
        rows = "".join(_finding(finding) for finding in report.findings)
        body = (
            f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        )
    return _section("findings", "Audit of the annotation", body)


def _finding(finding: Finding) -> str:
    kind = {"error": "error", "warning": "warning-badge"}.get(finding.severity, "note")
    places = [([(AXES.index(axis), int(i))], numbered(axis, i)) for axis, i in finding.slices[:_MAX_SLICES]]
    if finding.voxel is not None:
        voxel = [(axis, int(i)) for axis, i in enumerate(finding.voxel)]
        places.append((voxel[::-1], f"voxel {', '.join(map(str, finding.voxel))}"))
    where = " ".join(_jump(to, text) for to, text in places)
    if len(finding.slices) > _MAX_SLICES:
        where += f" and {len(finding.slices) - _MAX_SLICES} more"
    return (
        f'<tr><td><span class="badge {kind}">{escape(finding.severity)}</span></td>'
        f'<th scope="row" class="what">{escape(finding.kind)}</th>'
        f'<td class="message">{escape(finding.message)}</td>'
        f'<td class="where">{where}</td></tr>'
    )


def _provenance(report: Report) -> str:
    if not report.command and not report.versions:
        return ""
    command = _command("command", report.command) if report.command else ""
    if report.figures:
        links = ", ".join(f'<a href="{escape(path)}">{escape(path)}</a>' for path in report.figures)
        command += f"<p>The same as pictures, for slides: {links}.</p>"
    versions = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in report.versions.items()
    )
    versions = f'<dl class="versions">{versions}</dl>' if versions else ""
    return _section("again", "To repeat it", command + _methods(report) + versions)


def _methods(report: Report) -> str:
    """What to copy into a paper, and the works that it cites."""
    if not report.methods:
        return ""
    sources = "".join(f"<li>{escape(source)}</li>" for source in report.sources)
    return f"<p>For the methods section of a paper: {escape(report.methods)}</p><ul>{sources}</ul>"


def _command(identifier: str, command: str) -> str:
    return (
        f'<div class="command"><pre id="{identifier}" tabindex="0">{escape(command)}</pre>'
        f'<button type="button" class="copy" data-from="{identifier}" aria-live="polite">Copy</button></div>'
    )


def _changes(report: Report) -> str:
    if not report.changes:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in report.changes)
    return _section("changes", "What changed", f"<ul>{items}</ul>")


def _amounts(report: Report) -> str:
    if not report.amounts:
        return ""
    total = sum(amount.voxels for amount in report.amounts) or 1
    what = "voxels" if len(report.size) == 3 else "pixels"
    units = {amount.told_unit for amount in report.amounts if amount.size is not None}
    heads = "".join(
        f'<th scope="col" class="number">{head}</th>' for head in (what, "share", *map(escape, units))
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(amount.name)}</th><td class="number">{amount.voxels:,}</td>'
        f'<td class="number">{amount.voxels / total:.1%}</td>'
        + ("" if amount.size is None else f'<td class="number">{amount.size:,.6g}</td>')
        + "</tr>"
        for amount in report.amounts
    )
    note = "Of the result, every voxel counted as the class that it was given, whether that is right or not."
    table = f'<table><thead><tr><th scope="col">class</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return _section("amounts", "How much of each class", f'<p>{note}</p><div class="scroll">{table}</div>')


def _figure(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _several(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
