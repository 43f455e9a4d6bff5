"""The tiles of one volume shared by several processes, some of which die."""

import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SHARED = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_run import *
from volseg.streaming.journal import Journal
torch.set_num_threads(1)
folder = Path(sys.argv[1])
image = folder / "image.zarr"
inferer = OverlapTileInferer(8, batch_norm="volume")

def segment(target, **options):
    maps = target.with_name("maps_" + target.name)
    predict_streamed(
        image, target, network=network_for(3), inferer=inferer, preprocessing=NORMALISE, probabilities=maps,
        **options,
    )

def content(name):
    found = {}
    for path in (folder / name, folder / f"maps_{name}"):
        files = [file for file in path.rglob("*") if file.parent != path and file.is_file()]
        found |= {f"{path.name[:4] == 'maps'} {file.relative_to(path)}": file.read_bytes() for file in files}
    assert len(found) > 72, "a chunk of classes and three of probabilities for each tile"
    return found
"""

DASK = """
import distributed

if __name__ == "__main__":
    make_image(folder, ".zarr", (24, 24, 16))
    segment(folder / "alone.zarr")
    note, seen, died, starts = Journal.note, [], [], []
    Local = distributed.LocalCluster

    def kill(self, tile):  # once both are at work, one dies
        note(self, tile)
        seen.append(tile)
        if len(seen) == 4:
            died.append(cluster.workers[0].pid)
            os.kill(died[0], signal.SIGKILL)

    with Local(n_workers=2, threads_per_worker=1, memory_limit=None, dashboard_address=None) as cluster:
        Journal.note = kill
        segment(folder / "together.zarr", cluster=cluster.scheduler_address)
        Journal.note = note
        assert sorted(seen) == list(range(18)), seen
        deadline = time.time() + 60
        while cluster.workers[0].pid in (died[0], None) and time.time() < deadline:
            time.sleep(0.1)
        assert cluster.workers[0].pid not in (died[0], None), "it was killed, and there is another"
        assert content("together.zarr") == content("alone.zarr")
        assert not list(folder.glob(".*"))

        # What was finished before is not done again, and a cluster is started where none is named.
        done, rest = [], []

        def stop(self, tile):
            note(self, tile)
            done.append(tile)
            if len(done) == 9:
                raise KeyboardInterrupt

        def go_on(self, tile):
            note(self, tile)
            rest.append(tile)

        class Started:
            def __init__(self, **options):
                starts.append(options)

            def __enter__(self):
                return cluster  # of two that would be the same one is enough

            def __exit__(self, *_):
                pass

        distributed.LocalCluster = Started
        Journal.note = stop
        try:
            segment(folder / "again.zarr")
        except KeyboardInterrupt:
            pass
        Journal.note = go_on
        segment(folder / "again.zarr", cluster="local")
        assert starts[0]["n_workers"] == 2
        Local(**{**starts[0], "n_workers": 0}).close()  # these are options that it knows
        assert set(rest) == set(range(18)) - set(done), (done, rest)
        assert content("again.zarr") == content("alone.zarr")
    print("as one")
"""

TORCHRUN = """
from volseg.runs import processes

def child(rank, names):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[3]}
        processes.join_processes("cpu")
        for name in names:
            note = Journal.note
            def noted(self, tile):
                note(self, tile)
                (folder / f"tile{tile}of{name}by{rank}").touch()
            Journal.note = noted
            if name == "no.tif":
                try:
                    segment(folder / name)
                except RefusedError:
                    (folder / f"refused{rank}").touch()
                continue
            segment(folder / name)
            Journal.note = note
        processes.leave_processes()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)

image = make_image(folder, ".tif", (24, 24, 16))
segment(folder / "alone.tif")
segment(folder / "no.tif")
pids = [child(rank, ["together.tif", "no.tif"]) for rank in range(2)]
assert all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in pids)
for kind in ("", "maps_"):
    assert (folder / f"{kind}together.tif").read_bytes() == (folder / f"{kind}alone.tif").read_bytes()
shares = [len(list(folder.glob(f"tile*oftogether.tifby{rank}"))) for rank in range(2)]
assert shares == [9, 9], shares
assert all((folder / f"refused{rank}").exists() for rank in range(2)), "an error of the first is everybody's"
assert not list(folder.glob(".*"))
print("as one")
"""


def run(script, *words):
    here = os.path.dirname(__file__)
    words = [sys.executable, "-W", "ignore", "-c", SHARED + script, str(words[0]), here, *map(str, words[1:])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "as one", done.stderr[-5000:]


def test_dask_works_off_the_tiles_and_does_those_of_a_killed_worker_again(tmp_path):
    pytest.importorskip("distributed")
    pytest.importorskip("zarr")
    run(DASK, tmp_path)


def test_processes_that_torchrun_started_share_the_tiles(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run(TORCHRUN, tmp_path, port)
