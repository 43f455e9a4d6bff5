"""The reference has a page for every room, and its pages say something of every public name."""

import importlib
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from volseg import transforms

ROOT = Path(__file__).resolve().parent.parent


def maker():
    specification = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/reference/make.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


ROOMS = maker().rooms()


def test_every_room_has_a_page():
    package = ROOT / "volseg"
    files = [*package.glob("*.py"), *(path.parent for path in package.glob("*/__init__.py"))]
    without = {path.stem for path in files} - {name.removeprefix("volseg.") for name in ROOMS}
    assert without == {"__init__", "__main__", "cli"}


@pytest.mark.parametrize("name", ["volseg", *ROOMS])
def test_every_room_and_every_public_name_has_a_docstring(name):
    room = importlib.import_module(name)
    assert len((room.__doc__ or "").split()) >= 8
    modules = (
        [room]
        if hasattr(room, "__all__")
        else [
            importlib.import_module(f"{name}.{path.stem}")
            for path in Path(room.__file__).parent.glob("[!_]*.py")
        ]
    )
    public = {(module, one): getattr(module, one) for module in modules for one in module.__all__}
    silent = [
        f"{module.__name__}.{one}"
        for (module, one), value in public.items()
        if (inspect.isclass(value) or inspect.isroutine(value))
        and not (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__)
    ]
    assert not silent


def test_every_room_is_an_attribute_of_the_package():
    names = [name.removeprefix("volseg.") for name in ROOMS if name.count(".") == 1]
    code = f"import volseg\nfor name in {names}:\n    exec(f'volseg.{{name}}')\nprint(volseg.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1].count(".") == 2


def test_python_m_volseg_is_the_command():
    command = [sys.executable, "-m", "volseg", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("volseg ")


def test_every_transform_of_a_dictionary_has_one_of_arrays():
    of_dictionaries = {name for name in transforms.__all__ if name.endswith("d") and name[0].isupper()}
    alone = {name for name in of_dictionaries if name[:-1] not in transforms.__all__}
    assert alone == {"RandDeformedPatchd"}, "it reads image, label and weight together; see the room"


@pytest.mark.slow
def test_the_reference_is_made_without_a_warning(tmp_path):
    pytest.importorskip("pdoc")
    command = [sys.executable, str(ROOT / "docs/reference/make.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for name in ROOMS:
        page = (tmp_path / f"{name.replace('.', '/')}.html").read_text(encoding="utf-8")
        assert "~volseg" not in page, "pdoc links full names: leave the tilde out"
    losses = (tmp_path / "volseg/losses.html").read_text(encoding="utf-8")
    assert "class_weight" in losses
    assert 'id="SparseCrossEntropy.forward"' in losses
    assert 'id="SparseCrossEntropy.ignore_index"' not in losses, "the signature says it"
