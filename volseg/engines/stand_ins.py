"""What stands in for the real things when a bundle is tried: data made up as it asks for them, and MONAI's
parser, which here remembers which entry could not be built or evaluated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigComponent, ConfigExpression, ConfigParser

from volseg.arguments import option
from volseg.data import Cases, find_cases
from volseg.data import find_images as images_of
from volseg.errors import brief, cause
from volseg.io import Volume, write_volume

__all__ = ["HINT", "Blamed", "MadeUp", "WatchedParser", "explained", "replace_function"]

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

    def described(self, dataset_dir: str = "", **kwargs: Any) -> Cases:
        """Instead of :class:`volseg.Cases`: the same description, of the case made up."""
        real = Cases(dataset_dir, **kwargs)
        phantom = kwargs.get("phantom_dir")
        self._look(dataset_dir, phantom, lambda: real.found)
        self._look(kwargs.get("images") or dataset_dir, phantom, lambda: real.images.found)
        made = self._made_up(real.labels, real.in_channels)
        return Cases(
            made, images=made, labels=real.labels, in_channels=real.in_channels,
            preprocessing=real.preprocessing, held_out=real.held_out,
        )  # fmt: skip

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

    def _made_up(self, labels: Any = None, channels: int | None = None) -> Path:
        """A folder with one image and its labels, of as many axes as the patches have."""
        if (self.folder / "images").is_dir():
            return self.folder
        if labels is None or channels is None:
            labels = self.parser.get_parsed_content("train::dataset::labels")
            channels = self.parser.get_parsed_content("train::dataset::in_channels")
        transform = self.parser.get_parsed_content("train::dataset::transform")
        among = transform if isinstance(transform, list) else getattr(transform, "transforms", ())
        parts = [transform, *among]
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


HINT = 'Write "$volseg.context_of(@network_def)" there: that is known of any network'


class Blamed(Exception):  # noqa: N818 - it is never seen
    """An entry could not be built."""

    def __init__(self, entry: str, error: BaseException) -> None:
        super().__init__(entry)
        self.entry, self.error = entry, error


class _Component(ConfigComponent):
    def instantiate(self, **kwargs: Any) -> object:
        with _blaming(self.get_id()):
            return super().instantiate(**kwargs)


class _Expression(ConfigExpression):
    def evaluate(self, globals: dict[str, Any] | None = None, locals: dict[str, Any] | None = None) -> Any:
        with _blaming(self.get_id()):
            return super().evaluate(globals, locals)


class WatchedParser(ConfigParser):
    """Knows which entry failed."""

    def _do_parse(self, config: Any, id: str = "") -> None:
        if isinstance(config, dict | list):
            for _, sub_id, value in self.ref_resolver.iter_subconfigs(id=id, config=config):
                self._do_parse(value, sub_id)
        if ConfigComponent.is_instantiable(config):
            self.ref_resolver.add_item(_Component(config=config, id=id, locator=self.locator))
        elif ConfigExpression.is_expression(config):
            self.ref_resolver.add_item(_Expression(config=config, id=id, globals=self.globals))
        else:
            super()._do_parse(config if not isinstance(config, dict | list) else [], id)
            self.ref_resolver.items[id].update_config(config)


@contextmanager
def _blaming(entry: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a component raises
        raise next((e for e in _chain(error) if isinstance(e, Blamed)), Blamed(entry, error)) from error


def explained(error: BaseException) -> str:
    """What an error says, without what MONAI put around it."""
    fixable = cause(error)
    if fixable is not None:
        return str(fixable)
    *_, error = _chain(error)
    hint = f". {HINT}" if "no attribute 'context'" in str(error) else ""
    if "'list' object has no attribute" in str(error):
        hint = '. If it wants a tensor, write "$torch.tensor([...])" instead of the list'
    return f"{brief(error)}{hint}."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
