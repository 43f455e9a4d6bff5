"""Every dependency is there for a reason, and for a module that imports it; none comes in unsaid."""

import ast
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE = {  # where the name to install is not the name to import
    "pytorch-ignite": "ignite",
    "pynrrd": "nrrd",
    "scikit-image": "skimage",
    "simpleitk": "SimpleITK",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "itk-morphologicalcontourinterpolation": "itk",
}
COMES_WITH = {
    "llvmlite": "numba",
    "numcodecs": "zarr",
    "magicgui": "napari",
    "npe2": "napari",
    "qtpy": "napari",
}  # asked for by the other, and used together with it only
# Imported by others on our behalf, which pyproject.toml explains.
UNSEEN = {"fire", "tensorboard"}
TOOLS = {"pytest", "pytest-xdist", "ruff", "mypy"}  # run, not imported


@pytest.fixture(scope="module")
def page():
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(page):
    return tomllib.loads(page)["project"]


def names(requirements):
    """``torch`` of ``torch>=2.10``; the project's own extras left out."""
    found = {re.match(r"[\w.-]+", text)[0].lower() for text in requirements}
    return found - {"volseg"}


def imported(folder):
    """The packages from elsewhere that the modules of a folder import, anywhere in them."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"volseg"}


def everything(project):
    """All requirements, those of the extras too."""
    return [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]


def modules(packages):
    return {MODULE.get(name, name.replace("-", "_")) for name in packages}


def test_everything_imported_is_declared_and_everything_declared_is_imported(project):
    extras = {
        name: names(listed) for name, listed in project["optional-dependencies"].items() if name != "dev"
    }
    tests, docs = extras.pop("test", set()), extras.pop("docs", set())
    needed, optional = names(project["dependencies"]), set().union(*extras.values())
    assert not needed & optional
    used = imported("volseg")
    used = {COMES_WITH.get(module, module) for module in used}
    assert used <= modules(needed | optional), "imported, but not declared in pyproject.toml"
    assert modules(needed | optional) - UNSEEN <= used, "declared in pyproject.toml, but not imported"
    known = modules(needed | optional | tests) | {*COMES_WITH}
    helpers = {
        path.stem for path in (ROOT / "tests").glob("*/*.py") if path.parent.name in ("help", "journeys")
    }
    assert imported("tests") <= known | helpers
    listed = (ROOT / "benchmarks" / "peers.txt").read_text(encoding="utf-8").splitlines()
    peers = names(line for line in listed if line and line[0] not in "#-")
    siblings = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert imported("benchmarks") <= known | modules(peers) | siblings | helpers
    assert modules(tests - TOOLS) <= imported("tests")
    assert imported("docs") == modules(docs)


def test_each_has_its_reason(page, project):
    listed = everything(project)
    lines = {line.strip() for line in page.splitlines()}
    for requirement in listed:
        (line,) = (line for line in lines if line.startswith(f'"{requirement}"'))
        name = re.match(r"[\w.-]+", requirement)[0]
        if name in TOOLS or name == "volseg":
            continue
        reason = line.partition("#")[2].strip()
        assert len(reason.split()) >= 1, f"{name}: why?"


def test_an_upper_limit_is_there_for_a_known_break_only(page, project):
    listed = everything(project)
    for requirement in listed:
        if re.search(r"<|==|~=", requirement):
            (line,) = (line for line in page.splitlines() if f'"{requirement}"' in line)
            assert re.search(r"#.*(break|fail|CVE|#\d)", line), f"{requirement}: which break is known?"


def test_what_ci_installs_are_the_versions_that_were_tested(project):
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    listed = everything(project)
    assert names(listed) <= pinned
