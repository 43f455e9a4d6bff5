"""MONAI's parser of bundles, which here remembers which entry could not be built or evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monai.bundle import ConfigComponent, ConfigExpression, ConfigParser

from volseg.errors import brief, cause

__all__ = ["HINT", "Blamed", "WatchedParser", "explained"]

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
    mendable = cause(error)
    if mendable is not None:
        return str(mendable)
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
