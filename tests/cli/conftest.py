"""What the tests of the command line share."""

import pytest

from volseg import cli


@pytest.fixture
def replace_run(monkeypatch):
    """Lets a command do something else."""

    def replace_it(name, run):
        commands = [one._replace(run=run) if one.name == name else one for one in cli.COMMANDS]
        monkeypatch.setattr(cli, "COMMANDS", tuple(commands))

    return replace_it
