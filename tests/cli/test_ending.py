"""Commands end in order: on a signal, and although nobody reads what they print."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from volseg.cli import main
from volseg.io import Volume, read_volume, write_volume
from volseg.runs.log import begin

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals and pipes")

VOLSEG = [sys.executable, "-W", "ignore", "-c", "import sys; from volseg.cli import main; sys.exit(main())"]

# A command that says so when it is at work, and works until it is ended.
HANGS = """
import signal, sys, time
from pathlib import Path
from volseg import cli
from volseg.io import atomic_write
{before}

def run(given, rest):
    with atomic_write(Path(sys.argv[1])) as temporary:
        temporary.write_text("half")
        print("at work", flush=True)
        time.sleep(60)

cli.COMMANDS = tuple(one._replace(run=run) for one in cli.COMMANDS)
sys.exit(cli.main(["convert", "a", "-o", "b"]))
"""


@pytest.fixture
def image(tmp_path):
    array = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    write_volume(tmp_path / "a.nii", array, Volume(array[None], np.eye(4), "mm"))
    return tmp_path / "a.nii"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_like_ctrl_c_and_leaves_nothing_half_written(tmp_path, number):
    command = [sys.executable, "-W", "ignore", "-c", HANGS.format(before=""), str(tmp_path / "out")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "at work\n"
    assert len(list(tmp_path.iterdir())) == 1
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err == "volseg convert: interrupted.\n"
    assert list(tmp_path.iterdir()) == []


def test_nohup_is_heeded(tmp_path):
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    command = [sys.executable, "-W", "ignore", "-c", HANGS.format(before=before), str(tmp_path / "out")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run.stdout.readline()
    run.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert run.poll() is None
    run.terminate()
    run.communicate(timeout=60)
    assert run.returncode == 130


@pytest.mark.slow
def test_monais_own_run_ends_with_130_too(tmp_path):
    bundle = {
        "imports": ["$import volseg", "$import os"],
        "initialize": ["$volseg.begin(0)"],
        "run": ["$os.kill(os.getpid(), 15)"],
    }
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", "bundle.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_a_python_program_that_begins_keeps_its_own_hooks(clean_process):
    """Whose program it is decides how it ends; ``begin`` seeds, and sets the threads and the log."""
    before = sys.excepthook, signal.getsignal(signal.SIGTERM), warnings.filters[:]
    begin(0)
    assert (sys.excepthook, signal.getsignal(signal.SIGTERM), warnings.filters) == before


@pytest.mark.parametrize("moment", ["_parser", "_set_apart"])
def test_a_signal_outside_of_the_work_shows_no_traceback(monkeypatch, capsys, moment):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"volseg.cli.{moment}", interrupted)
    assert main(["info", "none.tif"]) == 130
    assert capsys.readouterr().err.endswith("volseg: interrupted.\n")
    with pytest.raises(KeyboardInterrupt):
        main(["--debug", "info", "none.tif"])


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["1", "2", "1 2"])
def test_output_that_nobody_reads_changes_no_work(image, stream):
    """The reader of output or messages has gone before anything is printed."""
    read, write = os.pipe()
    os.close(read)
    pipes = {name: write for name, number in (("stdout", "1"), ("stderr", "2")) if number in stream}
    rest = {name: subprocess.PIPE for name in ("stdout", "stderr") if name not in pipes}
    target = image.with_name("b.nii")
    done = subprocess.run([*VOLSEG, "convert", image, "-o", target], **pipes, **rest)
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    np.testing.assert_array_equal(read_volume(target).array, read_volume(image).array)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*VOLSEG, "info", image.with_name("none.nii")], stdout=write, stderr=write)
    os.close(write)
    assert done.returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_output_that_is_closed_changes_no_work(image, closed):
    target = image.with_name("b.nii")
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    done = subprocess.run([*shell, *VOLSEG, "convert", image, "-o", target], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert read_volume(target).array.tobytes() == read_volume(image).array.tobytes()
    done = subprocess.run([*shell, *VOLSEG, "convert", image, "-o", target], capture_output=True)
    assert done.returncode == 5
