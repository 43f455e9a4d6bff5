"""All cases of a data set in one pass, in parallel, each remembered by the content of its files."""

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from volseg.data.cases import Case, find_cases, stem
from volseg.data.verification.cases import Expectations, Facts, check_case, files_of, reported, sha256
from volseg.errors import InputError, VolsegError
from volseg.findings import Finding, Severity, table
from volseg.instances import InstanceScheme
from volseg.io import SUFFIXES, is_volume, read_json, suffix_of, write_json
from volseg.machine import allowed_processors

__all__ = ["default_cache", "require_sound", "verify"]

logger = logging.getLogger(__name__)

RULES = 6  # goes up when the checks change, so that what was remembered is forgotten
_IMAGES = ("images", "imagesTr", "imagesTs")
_LABELS = ("labels", "labelsTr", "truth")
_BESIDE = (".raw", ".zraw", ".json", ".txt", ".md", ".csv", ".tsv", ".yaml", ".yml", ".ini", ".cff", ".pdf")
_KEPT = 90 * 24 * 3600  # seconds since it was last asked for
_ODD_SPACING = 4.0  # a voxel size so many times that of the other cases


def verify(
    path: str | os.PathLike[str],
    *,
    expected: Expectations | None = None,
    jobs: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    spacing: str | None = None,
    colours: str | None = None,
) -> list[Finding]:
    """Everything that is wrong with a data set, a folder of files or a file; empty if all is well.

    Every file is read to its end and checked as a training would; then the cases are compared.

    Args:
        expected: what a bundle expects of it.
        jobs: files that are read at the same time; ``None`` for as many as there are processors, at most 8.
        cache: folder in which the findings of each case are kept under the hash of its files, so that an
            unchanged case is not read again; ``None`` for none.
        progress: called with the number of cases done, and of all.
        spacing, colours: how the files are to be read; see `volseg.io.read_volume`.

    Raises:
        InputError: if there is nothing at ``path``.
    """
    path, expected = Path(path), expected or Expectations()
    if not path.exists():
        raise InputError(f"{path} does not exist. Name a data set, a folder of images or an image.")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs = {jobs}: at least one file has to be read at a time.")
    found, cases = _cases(path)
    cases = [
        replace(case, spacing=spacing or case.spacing, colours=colours or case.colours) for case in cases
    ]
    return sorted(
        found + _check(cases, expected, jobs, cache, progress, together=True), key=lambda one: one.rank
    )


def require_sound(
    cases: Sequence[Case], expected: Expectations, *, cache: str | os.PathLike[str] | None = None
) -> None:
    """Stop what would be done with these cases if there is an error in them; log what was found.

    Raises:
        InputError: with the first error and the number of the others, after a table of all findings.
    """
    found = sorted(_check(cases, expected, None, cache, None), key=lambda one: one.rank)
    errors = [one for one in found if one.severity == "error"]
    if errors:
        folder = os.path.commonpath([file.parent for case in cases for file in files_of(case)])
        for line in table(found, Path(folder)):
            logger.warning("%s", line)
        more = f" ({len(errors) - 1} more above)" if len(errors) > 1 else ""
        raise InputError(errors[0].message + more)
    for one in found:
        logger.warning("%s", one.message)


def default_cache() -> Path | None:
    """Where findings are remembered: a folder of volseg's own among the user's caches, if there is a home."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return place.expanduser() / "volseg" / "verified"
    except RuntimeError:  # no HOME, and a user without an entry among the users, as in a container
        return None


def _check(
    cases: Sequence[Case],
    expected: Expectations,
    jobs: int | None,
    cache: str | os.PathLike[str] | None,
    progress: Callable[[int, int], None] | None,
    *,
    together: bool = False,
) -> list[Finding]:
    """The findings of all cases and of their comparison, ``together`` of the classes of all of them, too."""
    found: list[Finding] = []
    results: list[tuple[list[Finding], Facts, str]] = []
    keep = None if cache is None else Path(cache)
    with ThreadPoolExecutor(jobs or min(8, allowed_processors())) as pool:
        for result in pool.map(lambda case: _one(case, expected, keep), cases):
            results.append(result)
            if progress is not None:
                progress(len(results), len(cases))
    for findings, _, _ in results:
        found += findings
    if keep is not None:
        _forget(keep)
    stated = {"channels": expected.in_channels, "spatial_dims": expected.spatial_dims, "unit": None}
    unsaid = [key for key, value in stated.items() if value is None]
    facts = [facts for _, facts, _ in results]
    found += _compare(cases, facts, [key for _, _, key in results], unsaid)
    if together and not any(one.severity == "error" for one in found):
        found += _never_painted(cases, facts, expected)
    return found


def _never_painted(
    cases: Sequence[Case], facts: Sequence[Facts], expected: Expectations
) -> Iterator[Finding]:
    """Classes that no label of the data set holds."""
    found = {value for fact in facts if fact for value in fact["values"]}
    where = str(next((case.label for case in cases if case.label), ""))
    labels = expected.labels
    if not found or isinstance(labels, InstanceScheme):
        return
    if labels is None and len(found) == 1:
        yield Finding(
            "one_class",
            "warning",
            f"it and all other labels hold {found.pop()} only",
            "With nothing beside it, nothing can be learnt",
            "Paint the other classes, too",
            file=where,
        )
    for name, value in zip(labels.names, labels.values, strict=True) if labels else ():
        if value not in found:
            yield Finding(
                "missing_class",
                "warning",
                f"neither it nor another label holds the class {name!r} ({value})",
                "It cannot be learnt",
                "Paint it, or take it out of the bundle's labels",
                file=where,
            )


def _forget(cache: Path) -> None:
    """Remove what no one asked for in a long time."""
    with suppress(OSError):  # another process may be doing the same
        for place in cache.glob("*.json"):
            if place.stat().st_mtime < time.time() - _KEPT:
                place.unlink()


def _cases(path: Path) -> tuple[list[Finding], list[Case]]:
    """What there is to read; what cannot be paired is read all the same."""
    if is_volume(path):
        return [], [Case(path.name, path)]
    found: list[Finding] = []
    cases: list[Case] = []
    is_dataset = (
        any((path / name).is_dir() for name in (*_IMAGES, *_LABELS)) or (path / "dataset.json").exists()
    )
    if is_dataset:
        try:
            cases = find_cases(path)
        except VolsegError as error:
            found.append(reported("unpaired", "error", path, str(error)))
    known = {file.resolve() for case in cases for file in files_of(case)}
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        hidden = any(part.startswith(".") for part in parts)
        within = any(is_volume(folder) for folder in file.parents if folder.is_relative_to(path))
        if not is_volume(file) or hidden or within or file.resolve() in known:
            continue
        if suffix_of(file):
            cases.append(Case(stem(file), file))
        elif is_dataset and parts[0] in (*_IMAGES, *_LABELS) and file.suffix.lower() not in _BESIDE:
            known_suffixes = ", ".join(SUFFIXES)
            found.append(
                Finding(
                    "format",
                    "warning",
                    "the format is not read",
                    todo=f"Convert it to one of {known_suffixes}",
                    file=str(file),
                )
            )
    if not cases:
        todo = f"Known are {', '.join(SUFFIXES)}"
        found.append(Finding("empty", "error", "there is no image", todo=todo, file=str(path)))
    return found, cases


def _one(case: Case, expected: Expectations, cache: Path | None) -> tuple[list[Finding], Facts, str]:
    """The findings and facts of one case, remembered or new, and the hash of its image."""
    hashes = {str(path): sha256(path) for path in files_of(case)}
    image = "".join(hashes[str(path)] for path in case.images)
    if cache is None or not all(hashes.values()):
        return *check_case(case, expected), image
    stated = json.dumps([RULES, hashes, repr(expected), repr(case.held_out), case.spacing, case.colours])
    place = cache / f"{hashlib.sha256(stated.encode()).hexdigest()}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # whatever is wrong with it, it is made again
        kept = read_json(place, constant=float)
        os.utime(place)  # still of use
        return [Finding(**one) for one in kept["findings"]], kept["facts"], image
    findings, facts = check_case(case, expected)
    if {str(path): sha256(path) for path in files_of(case)} == hashes:  # no one wrote meanwhile
        with suppress(OSError, ValueError):  # a cache that cannot be written is none
            cache.mkdir(parents=True, exist_ok=True)
            kept_as = [{key: value for key, value in asdict(one).items() if value} for one in findings]
            write_json(place, {"findings": kept_as, "facts": facts}, indent=None)
    return findings, facts, image


def _compare(
    cases: Sequence[Case], facts: Sequence[Facts], hashes: Sequence[str], keys: Sequence[str]
) -> Iterator[Finding]:
    """What is only wrong beside the others; of the facts ``keys``, the others have been judged already."""
    annotated = [(case, fact) for case, fact in zip(cases, facts, strict=True) if fact and case.label]
    nouns = {"channels": "channel(s)", "spatial_dims": "spatial axes", "unit": "as unit"}
    for key in keys:
        values = Counter[Any](_fact(fact, key) for _, fact in annotated)
        if len(values) < 2:
            continue
        usual = values.most_common(1)[0][0]
        severity: Severity = "warning" if key == "unit" else "error"
        for case, fact in annotated:
            if (value := _fact(fact, key)) != usual:
                yield Finding(
                    key,
                    severity,
                    f"it has {value or 'nothing'} {nouns[key]}, most of the others {usual or 'nothing'}",
                    todo="Export all images of a data set in the same way",
                    file=str(case.image),
                )
    for case, fact in annotated:
        others = [f["spacing"] for _, f in annotated if len(f["spacing"]) == len(fact["spacing"])]
        for axis, size in enumerate(fact["spacing"]):
            usual_size = sorted(other[axis] for other in others)[len(others) // 2]
            if not 1 / _ODD_SPACING <= size / usual_size <= _ODD_SPACING:
                yield Finding(
                    "spacing",
                    "warning",
                    f"a voxel is {size:.3g} long along {'xyz'[axis]}, in most others {usual_size:.3g}",
                    todo="Check the voxel size and its unit",
                    file=str(case.image),
                )
    first: dict[str, Case] = {}
    for case, key in zip(cases, hashes, strict=True):
        if key and first.setdefault(key, case) is not case:
            yield Finding(
                "duplicate",
                "warning",
                f"it is the same file as {first[key].image}",
                "Scores on one will be those of what the other was trained on",
                "Remove one",
                file=str(case.image),
            )


def _fact(fact: Facts, key: str) -> Any:
    as_mapping: Mapping[str, Any] = fact
    return as_mapping[key]
