"""What killed processes left is removed by the next writer of the same file, and by nobody else's."""

import os
import subprocess
import sys

import pytest

from heatbox.errors import InputError
from heatbox.files import temporary_beside, write_atomically


def ended_process():
    """The number of a process that is no more."""
    told = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    return int(told.stdout)


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    path = tmp_path / "[a] metrics.json"
    mine = temporary_beside(path).name
    left = tmp_path / mine.replace(f"-{os.getpid()}.", f"-{ended_process()}.")
    running = tmp_path / mine.replace(f"-{os.getpid()}.", f"-{os.getppid()}.")
    elsewhere = tmp_path / f".{path.name}.00000000-{ended_process()}.tmp"
    another = tmp_path / left.name.replace("metrics", "config")
    for file in (left, running, elsewhere, another):
        file.write_text("half")
    write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert {file.name for file in tmp_path.iterdir()} == {
        path.name,
        running.name,
        elsewhere.name,
        another.name,
    }


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "." + "y" * 230, "a b\n$.png"])
def test_any_name_that_a_file_can_have(tmp_path, name):
    write_atomically(tmp_path / name, b"1")
    write_atomically(tmp_path / name, b"2")
    assert (tmp_path / name).read_bytes() == b"2"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_message_is_one_line():
    assert str(InputError("a\nb\r\nc: 'x'")) == "a\\nb\\r\\nc: 'x'"
