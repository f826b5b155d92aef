"""Functions of a user's own files."""

import os

from heatbox._utils.plugins import load_function


def test_a_changed_file_of_equal_size_and_time_is_read_again(tmp_path):
    path = tmp_path / "mine.py"
    for value in (1, 2):
        path.write_text(f"def build():\n    return {value}\n")
        os.utime(path, (10**9, 10**9))
        assert load_function(f"{path}:build")() == value
    assert [one.name for one in tmp_path.iterdir()] == ["mine.py"]
