"""What came with volseg is found by name from any folder, and what is printed to install can be installed."""

import ast
import logging
import shlex
import tomllib

import pytest

from volseg import __version__, installation
from volseg.errors import InputError
from volseg.installation import BUNDLES, OPTIONAL, OVERLAYS, find, folder, install_line, shipped


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)


@pytest.fixture
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_bundle_and_overlay_has_its_line_and_its_file(root):
    assert set(BUNDLES) == {path.stem for path in (root / "bundles").glob("*.json")} - {"metadata"}
    assert set(OVERLAYS) == {path.stem for path in (root / "configs").glob("*.json")}
    assert not set(BUNDLES) & set(OVERLAYS)
    for name in [*BUNDLES, *OVERLAYS]:
        assert shipped(name).is_file()
    assert (folder("docs") / "tutorial.md").is_file()


def test_beside_the_package_comes_before_above_it(tmp_path, monkeypatch):
    """Installed, they lie in the package; whatever folder `bundles` is beside it is somebody else's."""
    package = tmp_path / "site-packages" / "volseg"
    for place in (package / "bundles", package.parent / "bundles"):
        place.mkdir(parents=True)
    monkeypatch.setattr(installation, "__file__", str(package / "installation.py"))
    assert folder("bundles") == package / "bundles"
    assert shipped("axon") == package / "bundles" / "axon.json"


@pytest.mark.parametrize("name", ["xenopus", "xenopus.json", "bundles/xenopus.json", "bundles/xenopus"])
def test_a_bundle_is_found_by_name_from_any_folder(root, name, caplog):
    assert find(name) == root / "bundles" / "xenopus.json"
    assert caplog.messages == [f"{name}: {root / 'bundles' / 'xenopus.json'}, which came with volseg."]


@pytest.mark.parametrize("name", ["smoke", "smoke.json", "configs/smoke.json"])
def test_so_is_an_overlay(root, name):
    assert find(name) == root / "configs" / "smoke.json"


@pytest.mark.parametrize("name", ["configs/xenopus.json", "bundles/smoke", "other/xenopus.json", "metadata"])
def test_other_names_are_not_what_came_with_volseg(name):
    assert shipped(name) is None


@pytest.mark.parametrize("name", ["xenopus", "xenopus.json", "./xenopus.json"])
def test_a_file_of_this_folder_wins_and_that_is_said(tmp_path, name, caplog):
    (tmp_path / "xenopus.json").write_text("{}")
    (tmp_path / "axon").mkdir()  # a folder is not a bundle
    assert find(name).samefile(tmp_path / "xenopus.json")
    if name != "./xenopus.json":
        (told,) = caplog.messages
        assert told == "xenopus.json: the file of this folder, not the one that came with volseg."
    assert find("axon").parent.name == "bundles"


def test_at_the_root_of_a_checkout_nothing_is_said_of_a_path(root, monkeypatch, caplog):
    monkeypatch.chdir(root)
    assert str(find("bundles/xenopus.json")) == "bundles/xenopus.json"
    assert caplog.messages == []
    find("xenopus")
    assert caplog.messages == ["xenopus: bundles/xenopus.json, which came with volseg."]


def test_ones_own_files_are_left_to_who_reads_them():
    assert str(find("mine/other.json")) == "mine/other.json"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xenopos", r"'xenopos' is not a bundle.*Did you mean xenopus\? Those that came .* are xenopus, med"),
        ("my_data", r"bundles end in \.json, and settings are --ENTRY VALUE\. Those .* overlays smoke, fast"),
        ("", "is not a bundle"),
        ("..", "is not a bundle"),
    ],
)
def test_a_name_of_nothing_lists_what_there_is(name, message):
    with pytest.raises(InputError, match=message):
        find(name)


def test_the_libraries_to_add_are_those_of_the_project(project):
    extras = project["optional-dependencies"]
    listed = {name: set(extras[name]) - {"volseg[zarr]"} for name in OPTIONAL}
    listed["cluster"] |= set(extras["zarr"])
    assert {name: set(libraries) for name, libraries in OPTIONAL.items()} == listed
    assert shlex.split(install_line("cluster")) == ["pip", "install", "zarr>=3.1", "distributed"]


def test_nobody_is_told_to_install_volseg_from_an_index(root):
    """It is on none, and whoever registers the name there could put anything under it."""
    pages = [*(root / "docs").glob("*.md"), *root.glob("*.md")]
    texts = {path: path.read_text(encoding="utf-8") for path in pages}
    for path in (root / "volseg").rglob("*.py"):
        code = ast.parse(path.read_text(encoding="utf-8"))
        strings = [
            n.value for n in ast.walk(code) if isinstance(n, ast.Constant) and isinstance(n.value, str)
        ]
        texts[path] = "\n".join(strings)
    for path, text in texts.items():
        assert "volseg[" not in text, path
        assert "install volseg" not in text, path


def test_the_version_is_one(project):
    assert project.get("version", __version__) == __version__
    assert __version__.count(".") == 2
