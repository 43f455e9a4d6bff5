"""``volseg.__all__`` is a promise: the names of the contract, and those that bundles and overlays use."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import volseg

ROOT = Path(__file__).resolve().parent.parent

CONTRACT = {
    "LabelScheme",
    "OverlapTileInferer",
    "RandBSplineDeformd",
    "RandDeformedPatchd",
    "Session",
    "SparseCrossEntropy",
    "SparseDice",
    "SparseDiceCE",
    "UNet",
    "Volume",
    "border_weight_map",
    "bspline_displacement",
    "load",
    "read_volume",
    "unet3d_2016",
    "unet_2015",
    "write_volume",
}


def code_in(config: Any) -> Iterator[str]:
    """The strings of a bundle that MONAI takes for code: targets and expressions."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "_target_" and isinstance(value, str):
                yield value
            else:
                yield from code_in(value)
    elif isinstance(config, list):
        for value in config:
            yield from code_in(value)
    elif isinstance(config, str) and config.startswith("$"):
        yield config


def names_in(config: Any) -> set[str]:
    return {name for text in code_in(config) for name in re.findall(r"\bvolseg\.([A-Za-z_]\w*)", text)}


def used() -> dict[str, str]:
    """Every ``volseg.X`` in bundles and overlays, those of earlier versions too, and a file that uses it."""
    folders = [ROOT / "bundles", ROOT / "configs", ROOT / "tests" / "stored"]
    paths = sorted(path for folder in folders for path in folder.glob("*.json"))
    return {
        name: path.name for path in paths for name in names_in(json.loads(path.read_text(encoding="utf-8")))
    }


def test_the_public_names_are_those_of_the_contract_and_of_the_bundles():
    wanted = dict.fromkeys(CONTRACT, "the contract") | used()
    public = set(volseg.__all__)
    missing = {name: wanted[name] for name in sorted(wanted.keys() - public)}
    assert not missing, f"volseg.__all__ lacks names that somebody uses: {missing}"
    surplus = sorted(public - wanted.keys())
    assert not surplus, (
        f"public, but neither in the contract nor in a bundle, so keep them in their rooms: {surplus}"
    )


def test_each_public_name_stands_once():
    assert sorted(volseg.__all__) == sorted(set(volseg.__all__))


@pytest.mark.parametrize("name", sorted(CONTRACT | set(used())))
def test_every_public_name_is_there(name):
    assert getattr(volseg, name, None) is not None


def test_names_are_found_in_targets_and_expressions_only():
    config = {
        "text": "volseg.NotThis",
        "a": [{"_target_": "volseg.UNet", "_desc_": "volseg.NorThis"}],
        "b": {"c": "$volseg.trainer(@x, volseg.io.y)"},
    }
    assert names_in(config) == {"UNet", "trainer", "io"}
