"""Data and a finished training that the tests of this folder share."""

import pytest

from helpers.training import Training, write_small_data


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """48 glyphs to train on and 10 to validate on, in the metadata layout."""
    return write_small_data(tmp_path_factory.mktemp("glyphs"))


@pytest.fixture(scope="session")
def uninterrupted(small_data, tmp_path_factory):
    """The folder of an uninterrupted training."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    code, output = Training(small_data, out).finish()
    assert code == 0, output
    return out
