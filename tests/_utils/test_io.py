"""Temporary files of killed processes are removed by the next writer; those of live processes stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from heatbox._utils.io import folder_when_whole, temporary_beside, write_atomically
from heatbox.errors import InputError
from heatbox.evaluation.run import Run


def ended_process():
    """The id of a process that has ended."""
    printed = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    return int(printed.stdout)


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    path, ended = tmp_path / "[a] metrics.json", ended_process()
    mine = temporary_beside(tmp_path / "another folder" / path.name).name
    left = mine.replace(f"-{os.getpid()}.", f"-{ended}.")
    running = mine.replace(f"-{os.getpid()}.", f"-{os.getppid()}.")
    elsewhere = f".{path.name}.00000000-{ended}.tmp"
    for name in (left, left.replace("metrics", "config"), running, elsewhere):
        (tmp_path / name).write_text("half")
    write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert {file.name for file in tmp_path.iterdir()} == {path.name, running, elsewhere}


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "." + "y" * 230, "a b\n$.png"])
def test_any_name_that_a_file_can_have(tmp_path, name):
    write_atomically(tmp_path / name, b"1")
    write_atomically(tmp_path / name, b"2")
    assert (tmp_path / name).read_bytes() == b"2"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "left", [[], [".environment.json.0a-1.tmp"], ["environment.json", ".config.json.0a-1.tmp"]]
)
def test_a_run_that_was_killed_as_it_began_begins_again(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("{}")
    Run(tmp_path).start({"x": 1})
    assert Run(tmp_path).config() == {"x": 1}


def test_a_folder_of_others_is_no_run(tmp_path):
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and contains no run"):
        Run(tmp_path).start({"x": 1})


def test_a_message_is_one_line():
    assert str(InputError("a\nb\r\nc: 'x'")) == "a\\nb\\r\\nc: 'x'"


@pytest.mark.parametrize("name", [".", "/"])
def test_a_folder_is_no_file_to_write(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="could not be written"):
        write_atomically(Path(name), b"x")
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with folder_when_whole(tmp_path / "new" / "out") as inside:
        (inside / "a").mkdir()
        (inside / "a" / "b").write_text("1")
        assert not (tmp_path / "new" / "out").exists()
    assert (tmp_path / "new/out/a/b").read_text() == "1"
    with folder_when_whole(tmp_path / "new" / "out") as inside:
        (inside / "c").write_text("2")
        (inside / "a").mkdir()
        (inside / "a" / "b").write_text("3")
        assert (tmp_path / "new/out/a/b").read_text() == "1"
    assert {path.name for path in (tmp_path / "new/out").rglob("*")} == {"a", "b", "c"}
    assert (tmp_path / "new/out/a/b").read_text() == "3"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    def fail():
        with folder_when_whole(tmp_path / "out") as inside:
            (inside / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


def test_folders_of_killed_processes_are_removed(tmp_path):
    beside = temporary_beside(tmp_path / "another folder" / "out").name
    left = tmp_path / beside.replace(f"-{os.getpid()}.tmp", f"-{ended_process()}.tmp")
    (left / "a").mkdir(parents=True)
    (left / "a" / "b").write_text("half")
    with folder_when_whole(tmp_path / "out") as inside:
        (inside / "c").write_text("1")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
