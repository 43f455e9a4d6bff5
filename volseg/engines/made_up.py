"""One image and its labels, made up as a bundle asks for them, in the place of its data."""

from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from volseg.arguments import option
from volseg.data import find_cases
from volseg.data import find_images as images_of
from volseg.io import Volume, write_volume

__all__ = ["MadeUp", "replace_function"]

_LARGEST = 64  # voxels along an axis of the image that is made up


class MadeUp:
    """What stands for ``find_cases`` and ``find_images`` in a trial; whether there are others is said."""

    def __init__(self, folder: Path, notes: list[str]) -> None:
        self.folder, self.notes = folder, notes
        self.parser = ConfigParser()

    def cases(self, dataset_dir: str = "", **kwargs: Any) -> Any:
        """Instead of :func:`volseg.find_cases`: the case made up, after a look whether there is another."""
        self._look(dataset_dir, kwargs.get("phantom_dir"), lambda: find_cases(dataset_dir, **kwargs))
        return find_cases(self._made_up())

    def images(self, source: str = "", **kwargs: Any) -> Any:
        self._look(source, kwargs.get("phantom_dir"), lambda: images_of(source, **kwargs))
        return images_of(self._made_up())

    def _look(self, path: str, phantom: Any, find: Any) -> None:
        if phantom is not None and Path(path) == Path(phantom):
            return
        if Path(path).exists():
            find()
            return
        names = f"{option('dataset_dir')} (or {option('source')})"
        note = f"{path} is not there: name your data with {names}."
        if note not in self.notes:
            self.notes.append(note)

    def _made_up(self) -> Path:
        """A folder with one image and its labels, of as many axes as the patches have."""
        if (self.folder / "images").is_dir():
            return self.folder
        labels = self.parser.get_parsed_content("train::dataset::labels")
        channels = self.parser.get_parsed_content("train::dataset::in_channels")
        transform = self.parser.get_parsed_content("train::dataset::transform")
        parts = [transform, *getattr(transform, "transforms", ())]
        sizes = [part.patch_size for part in parts if hasattr(part, "patch_size")]
        dims = len(sizes[0]) if sizes else 3
        size = [max(16, min(_LARGEST, n)) for n in (sizes[0] if sizes else (_LARGEST,) * dims)]
        random = np.random.default_rng(0)
        image = random.normal(100, 20, (channels, *size)).astype(np.float32)
        classes = random.integers(0, len(labels), size).astype(np.uint8)
        ids = hasattr(labels, "instances")
        values = (classes > 0).astype(np.uint16) if ids else labels.decode(classes)
        for name, array in (("images", image), ("labels", values[None])):
            (self.folder / name).mkdir()
            write_volume(self.folder / name / "trial.tif", array, Volume(array, np.eye(dims + 1)))
        return self.folder


def replace_function(config: Any, name: str, other: Any) -> None:
    """Put another function in the place of one of volseg's."""
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        if isinstance(value, dict) and value.get("_target_") == f"volseg.{name}":
            value["_target_"] = other
        replace_function(value, name, other)
