"""Settings of the process: what a command sets, what it leaves alone."""

import os
import subprocess
import sys

import pytest

from heatbox._utils import devices

FAULTS = """
import resource, sys
import numpy as np
from heatbox._utils.devices import configure_process
if sys.argv[1] == "configured":
    configure_process()
np.ones(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**23) + np.ones(2**23)  # 64 MB each
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

WAITING = """
import os, sys
from heatbox.cli.main import main
main(["recipes"])
print(os.environ["OMP_WAIT_POLICY"])
"""


def output(program: str, *arguments: str, **environment: str) -> str:
    """The last line that a program prints in an interpreter of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "OMP_"))}
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_memory_of_large_arrays_is_kept():
    # 20 rounds of three arrays of 16,384 pages; huge pages make fewer faults.
    plain, kept = int(output(FAULTS, "plain")), int(output(FAULTS, "configured"))
    assert kept < plain / 3


def test_a_users_allocator_settings_are_left_alone():
    plain = int(output(FAULTS, "plain", MALLOC_ARENA_MAX="2"))
    assert int(output(FAULTS, "configured", MALLOC_ARENA_MAX="2")) > plain / 2


@pytest.mark.parametrize("environment", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_threads_wait_passively_unless_asked_otherwise(environment):
    assert output(WAITING, **environment) == environment.get("OMP_WAIT_POLICY", "PASSIVE")


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 16), ("150000 100000", 2), ("10000 100000", 1), ("6400000 100000", 16)],
)
def test_cores_are_those_of_the_mask_or_of_the_quota(quota, cores, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    file = tmp_path / "cpu.max"
    file.write_text(quota + "\n")
    monkeypatch.setattr(devices, "_QUOTA", file)
    assert devices.available_cores() == cores


def test_there_are_no_more_openmp_threads_than_cores_of_a_quota(monkeypatch, tmp_path):
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENCV_FOR_THREADS_NUM")
    for name in names:
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("MALLOC_ARENA_TEST", "8")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    monkeypatch.setattr(devices, "_QUOTA", tmp_path / "cpu.max")
    devices.configure_process()
    assert [os.environ[name] for name in names] == ["3", "PASSIVE", "1"]
