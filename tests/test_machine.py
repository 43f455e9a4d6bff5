"""No more threads than the system lets this process use, whatever the machine has."""

import os

import pytest
import torch

from volseg import machine
from volseg.runs.log import begin

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system with 16 processors and control groups, of which the files are given by name and content."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)

    def make(own, files):
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        (tmp_path / "own").write_text(own)
        return tmp_path / "cgroup", tmp_path / "own"

    return make


@pytest.mark.parametrize(
    ("own", "files", "allowed"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000"}, 3),
        ("0::/\n", {"cpu.max": "5000 100000"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000"}, 16),
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000", "job/cpu.max": "400000 100000"}, 4),
        ("0::/job/step\n", {"job/step/cpu.max": "300000 100000", "job/cpu.max": "400000 100000"}, 3),
        (
            "4:cpu,cpuacct:/job\n3:memory:/else\n",
            {"cpu/job/cpu.cfs_quota_us": "150000", "cpu/job/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("0::/\n", {"cpu.max": "nonsense"}, 16),
    ],
)
def test_quotas_of_the_process_and_of_the_groups_around_it_count(system, own, files, allowed):
    assert machine.allowed_processors(*system(own, files)) == allowed


def test_affinity_counts_and_a_system_without_groups_is_fine(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert machine.allowed_processors(tmp_path / "none", tmp_path / "neither") == 3
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.allowed_processors(tmp_path / "none", tmp_path / "neither") == 6


def test_a_run_lowers_its_threads_and_never_raises_them(monkeypatch):
    before = torch.get_num_threads()
    try:
        for set_to, allowed, expected in ((2, 1, 1), (1, 8, 1), (2, 2, 2)):
            torch.set_num_threads(set_to)
            monkeypatch.setattr(machine, "allowed_processors", lambda allowed=allowed: allowed)
            begin(0)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
