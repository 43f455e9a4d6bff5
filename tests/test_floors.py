"""A module imports only from lower floors, prints only at the door, and meets MONAI where it should.

The table below is the architecture; the rest of the file holds the code to it by reading its imports.
A room is a file ``volseg/<room>.py`` or a folder ``volseg/<room>/``; inside one room everything may
import everything.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("arguments", "errors", "findings", "user"),
    ("compiled", "geometry", "installation", "labels", "learning", "greyvalues", "machine"),
    (
        "annotation",
        "bspline",
        "instances",
        "losses",
        "metrics",
        "networks",
        "phantom",
        "pixelwise",
        "weightmaps",
    ),
    ("inferers", "io", "transforms"),
    ("bundle", "data", "report", "runs"),
    ("streaming",),
    ("engines",),
    ("learners",),
    ("densification", "experiments"),
    ("models", "session"),
    ("cli", "napari", "page", "__init__", "__main__"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# What a floor may use from outside, beside the standard library; each floor also what lies below.
LIBRARIES: tuple[set[str], ...] = (
    set(),
    {"numpy"},
    {"scipy", "torch", "numba"},
    {"PIL", "imagecodecs", "monai", "nibabel", "safetensors", "tifffile", "tqdm"},
    {"ignite", "jinja2", "matplotlib", "tensorboard"},
    set(),
    set(),
    set(),
    set(),
    set(),
    {"fire"},
)
# Rooms that may use more than their floor does.
EXTRA = {
    "compiled": {"numba"},
    "greyvalues": {"torch"},
    "learning": {"torch"},
    "machine": {"torch"},
    "bspline": {"llvmlite"},
    "densification": {"skimage", "itk"},
    "networks": {"monai.networks"},
    "metrics": {"skimage"},
    "instances": {"skimage"},
    "experiments": {"optuna"},
    "session": {"skimage"},
    "napari": {"magicgui", "napari", "qtpy"},
    "io": {"zarr", "numcodecs"},
    "streaming": {"distributed"},
    "page": {"starlette", "uvicorn"},
}
ENGINES = ("ignite", "monai.engines", "monai.handlers")
WITH_ENGINES = ("bundle", "data", "report", "runs", "streaming", "engines")


def violations(source: str, module: str) -> list[str]:
    """What is wrong with the imports and prints of one module, ``volseg/io/tiff.py`` being ``io.tiff``."""
    room = module.split(".")[0]
    if room not in FLOOR_OF:
        return [f"volseg.{module}: the room {room!r} is on no floor; give it one in FLOORS."]
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            if isinstance(node, ast.ImportFrom) and node.level:
                found.append(
                    f"volseg.{module}:{node.lineno}: a relative import; write 'from volseg.… import'."
                )
                continue
            found += [
                f"volseg.{module}:{node.lineno}: {text}"
                for name in _names(node)
                for text in _judge(room, name)
            ]
        elif isinstance(node, ast.Name) and node.id == "print" and room != "cli":
            found.append(f"volseg.{module}:{node.lineno}: print stands in cli only; use logging.")
    return list(dict.fromkeys(found))


def _names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Dotted names that an import statement may stand for: with ``from a import b``, ``a.b``."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _judge(room: str, name: str) -> Iterator[str]:
    """What speaks against this room importing this name."""
    floor = FLOOR_OF[room]
    top, _, rest = name.partition(".")
    if top == "volseg":
        other = rest.split(".")[0]
        other = other if other in FLOOR_OF else "__init__"
        if other == room:
            return
        if other == "__init__" and floor < FLOOR_OF["cli"]:
            what = "is no room of FLOORS" if "." in rest else "goes through the package's front door"
            yield f"{name!r} {what}; import from the room itself."
        elif FLOOR_OF[other] >= floor and floor < FLOOR_OF["cli"]:
            how = "sideways" if FLOOR_OF[other] == floor else "upwards"
            yield f"{room} (floor {floor}) imports {how} from {other} (floor {FLOOR_OF[other]})."
        return
    if top in sys.stdlib_module_names:
        if top == "argparse" and room != "cli":
            yield f"{room} imports argparse, which belongs in cli: take arguments instead."
        return
    allowed = set().union(*LIBRARIES[: floor + 1], EXTRA.get(room, set()))
    if not any(f"{name}.".startswith(f"{library}.") for library in allowed):
        yield f"{room} (floor {floor}) may not use {name!r}; it has {', '.join(sorted(allowed))}."
    elif room not in WITH_ENGINES and any(f"{name}.".startswith(f"{engine}.") for engine in ENGINES):
        yield f"{room} (floor {floor}) uses {name!r}; engines and handlers belong on floors 4 to 6."


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_privates(tree: ast.AST) -> set[str]:
    """Private names that a module defines: functions, classes, variables, attributes of its objects."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def borrowed(source: str, everywhere: set[str]) -> list[str]:
    """Private names of other modules that a module imports or touches.

    Args:
        everywhere: what the modules of volseg define; others, such as torch, have private names of their own.
    """
    tree = ast.parse(source)
    own = own_privates(tree)
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "volseg":
            found += [f"{node.lineno}: {alias.name}" for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr in everywhere - own:
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found += [] if is_own else [f"{node.lineno}: {ast.unparse(node)}"]
    return found


def test_private_names_are_used_in_their_own_module_only():
    sources = {path: path.read_text(encoding="utf-8") for path in modules()}
    everywhere = set().union(*(own_privates(ast.parse(source)) for source in sources.values()))
    problems = [
        f"{path.relative_to(ROOT)}:{found}"
        for path, source in sources.items()
        for found in borrowed(source, everywhere)
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from volseg.io.tiff import _strict", 1),
        ("def f():\n    from volseg.io.tiff import _strict as strict", 1),
        ("from volseg.io import tiff\ntiff._strict()", 1),
        ("import volseg.io.tiff\nvolseg.io.tiff._strict", 1),
        ("from volseg.networks import UNet\nUNet(2)._pools", 1),
        ("class A:\n    def f(self, other):\n        self._pools = other._pools", 0),
        ("class A(B):\n    def f(self):\n        return self._pools", 0),
        ("from torch.nn import _strict\nx._replace(y=1)", 0),
    ],
)
def test_a_private_name_of_another_module_is_found(source, count):
    assert len(borrowed(source, {"_strict", "_pools"})) == count


# An option of volseg or MONAI. CSS writes its properties in the same way, with a colon behind the name; in a
# command in quotation marks, options are those of its program.
FLAG = re.compile(r"(?<![\w-])(--[a-z][\w-]*|-o)(?![\w:-])")
OTHER_PROGRAM = re.compile(r"'(?!volseg |python |--)[a-z]+ [^']*'")


def flags(source: str) -> list[str]:
    """Options of a command line that stand in a module's texts, its docstrings included."""
    constants = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [
        f"{node.lineno}: {flag}; say volseg.arguments.option"
        for node in constants
        if isinstance(node.value, str)
        for flag in FLAG.findall(OTHER_PROGRAM.sub("", node.value))
    ]


def modules() -> list[Path]:
    return sorted((ROOT / "volseg").rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_options_of_the_command_line_stand_in_cli_only(path):
    found = flags(path.read_text(encoding="utf-8"))
    assert path.is_relative_to(ROOT / "volseg" / "cli") or not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("raise ValueError('add --overwrite')", 1),
        ("raise ValueError(f'{path} exists; choose another -o')", 1),
        ("f'go on with --resume, or replace {x} by --overwrite True'", 2),
        ("\"run 'volseg convert a.tif --axes ZYX -o b.tif'\"", 2),
        ("\"run 'torchrun --nproc_per_node 2 -m monai.bundle run'\"", 0),
        ("f'<p style=\"--ratio: {x}\">'", 0),
        ("def f():\n    '''Replace it, with ``--force``.'''", 1),
        ("x = 'a - b, well-known, a--b, -1, --'  # --resume", 0),
    ],
)
def test_an_option_in_a_text_is_found(source, count):
    assert len(flags(source)) == count


MOST, FEWEST = 400, 60  # lines of a module


def of_no_size(source: str, name: str) -> bool:
    """Whether a module is too long, or too short without a word on why it is a small one."""
    lines = source.count("\n")
    why = "small" in (ast.get_docstring(ast.parse(source)) or "")
    return lines > MOST or (lines < FEWEST and not why and name not in ("__init__", "__main__"))


def test_modules_are_neither_tomes_nor_splinters():
    found = [path for path in modules() if of_no_size(path.read_text(encoding="utf-8"), path.stem)]
    assert not found, f"from {FEWEST} to {MOST} lines, or a docstring that says why it is small"


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("x = 1\n" * 401, "tiff", True),
        ("x = 1\n" * 400, "tiff", False),
        ("x = 1\n" * 59, "tiff", True),
        ('"""A small module, as all share it."""\n', "tiff", False),
        ("x = 1\n", "__init__", False),
    ],
)
def test_a_module_of_no_size_is_found(source, name, found):
    assert of_no_size(source, name) is found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_keeps_to_its_floor(path):
    parts = list(path.relative_to(ROOT / "volseg").with_suffix("").parts)
    problems = violations(path.read_text(encoding="utf-8"), ".".join(parts))
    assert not problems, "\n".join(problems)


# What opens a file, by the name of the function or method.
OPENERS = {
    "read_text", "write_text", "read_bytes", "write_bytes", "fdopen", "memmap", "NamedTemporaryFile",
    *(f"{module}.{name}" for module in ("np", "torch") for name in ("load", "save")),
    *(f"np.{name}" for name in ("savez", "savez_compressed", "loadtxt", "savetxt", "fromfile", "tofile")),
}  # fmt: skip
MODES = {"mode", "encoding", "newline", "errors", "buffering"}


def opened(source: str, module: str) -> list[str]:
    """Where a module opens files that are not its room's to open.

    A file that holds data or results is opened in ``io`` (all formats, text, journals), in ``bundle`` (what
    strangers wrote, judged while it is read) and by ``runs.checkpoint``. Three things are no such files: a
    stream of the process itself (``os.devnull``, a number with ``closefd=False``), a part of the installed
    package (``importlib.resources.files``), and the answers of the system, for which ``machine`` asks.
    """
    if module.split(".")[0] in ("io", "bundle", "machine") or module == "runs.checkpoint":
        return []
    return [
        f"volseg.{module}:{node.lineno}: {ast.unparse(node.func)} opens a file; use a function of volseg.io."
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and _opens(node) and not _is_no_file(node)
    ]


def _opens(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if last == "open":
        first = call.args[0] if call.args else None
        of_a_path = first is None or (isinstance(first, ast.Constant) and isinstance(first.value, str))
        return (
            name in ("open", "io.open", "os.open") or of_a_path or any(k.arg in MODES for k in call.keywords)
        )
    return "." in name and (name in OPENERS or last in OPENERS)


def _is_no_file(call: ast.Call) -> bool:
    streams = [ast.unparse(each) for each in call.args[:1]] == ["os.devnull"] or any(
        keyword.arg == "closefd" for keyword in call.keywords
    )
    return streams or ast.unparse(call.func).startswith("files('volseg.")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_opened_where_files_are_known(path):
    module = ".".join(path.relative_to(ROOT / "volseg").with_suffix("").parts)
    assert opened(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    "source",
    [
        "open(path)", "path.open()", "path.open('rb')", "path.open(encoding='utf-8')", "os.open(path, 0)",
        "path.read_text()", "np.load(path)", "torch.save(x, path)", "(a / 'b').write_bytes(c)",
        "np.memmap(path)",
    ],
)  # fmt: skip
def test_an_opened_file_is_found(source):
    (problem,) = opened(source, "densification.run")
    assert "opens a file; use a function of volseg.io" in problem
    assert opened(source, "io.nrrd") == opened(source, "runs.checkpoint") == []
    assert len(opened(source, "runs.folder")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "os.open(os.devnull, 1)", "open(2, 'w', closefd=False)", "self.folder.open(data, facts)",
        "files('volseg.report').joinpath(n).read_text()", "write_text(path, 'a')",
    ],
)  # fmt: skip
def test_what_is_no_file_may_be_opened(source):
    assert opened(source, "cli.ending") == []


def long_functions(source: str, most: int) -> list[str]:
    """Functions of more lines than that, docstrings not counted."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > most:
                found.append(f"{node.name} has {lines} lines; {most} are the most.")
    return found


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if path.parent.name in ("densification", "engines", "streaming", "runs")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_function_of_a_run_is_longer_than_a_page(path):
    assert long_functions(path.read_text(encoding="utf-8"), 60) == []


def test_a_long_function_is_found():
    assert long_functions('def f():\n    """One."""\n    x = 1\n    return x', 2) == [
        "f has 3 lines; 2 are the most."
    ]


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("labels", "from volseg.bspline import x", "labels (floor 1) imports upwards from bspline (floor 2)"),
        ("losses", "from volseg.metrics import iou", "losses (floor 2) imports sideways"),
        ("io.tiff", "import volseg.transforms", "io (floor 3) imports sideways"),
        (
            "io.tiff",
            "def f():\n    from volseg import engines",
            "volseg.io.tiff:2: io (floor 3) imports upwards",
        ),
        ("data", "from volseg import read_volume", "front door"),
        ("data", "from volseg import Volume", "front door"),
        ("data", "from volseg.nowhere import x", "no room of FLOORS"),
        ("data", "from .engines import x", "a relative import"),
        ("labels", "import torch", "labels (floor 1) may not use 'torch'; it has numpy."),
        (
            "losses",
            "from monai.losses import DiceLoss",
            "losses (floor 2) may not use 'monai.losses.DiceLoss'",
        ),
        ("networks", "from monai.handlers import X", "may not use 'monai.handlers.X'"),
        ("cli", "from monai.engines import SupervisedTrainer", "belong on floors 4 to 6"),
        ("cli", "from monai import handlers", "belong on floors 4 to 6"),
        ("engines", "print('epoch 1')", "print stands in cli only"),
        ("experiments", "import argparse", "argparse, which belongs in cli"),
        ("magic", "", "the room 'magic' is on no floor"),
    ],
)
def test_a_wrong_import_is_told(module, source, message):
    (problem,) = violations(source, module)
    assert message in problem


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses", "import math\nimport torch.nn.functional as F\nfrom volseg.labels import IGNORE_INDEX"),
        ("labels", "from volseg.errors import InputError"),
        ("networks", "from monai.networks.layers.factories import Conv"),
        ("io.tiff", "from volseg.io.atomic import atomic_write\nfrom volseg import geometry"),
        ("engines", "from monai.handlers import StatsHandler\nimport volseg.inferers"),
        ("bundle.check", "import monai.engines"),
        ("cli", "print('done')\nimport volseg\nfrom volseg import read_volume"),
        ("__init__", "from volseg.cli import main\nfrom volseg.io import read_volume"),
        ("report", "import logging\nlogging.info('print(1)')"),
    ],
)
def test_a_right_import_passes(module, source):
    assert violations(source, module) == []
