"""Processes, options, seeds and the paths of optional data shared by every test."""

import os
import sys
from pathlib import Path

# Tests begin many interpreters, each of which would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

from heatbox._utils.devices import available_cores, configure_process  # noqa: E402

configure_process()  # before torch starts its threads
if WORKERS := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // WORKERS)))

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # otherwise each try to fetch weights takes 45 seconds to fail

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_xdist_auto_num_workers(config):
    """One process per core for the whole suite, and none beside pytest's own for files that are named."""
    return 0 if config.args_source is pytest.Config.ArgsSource.ARGS else min(available_cores(), 8)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the exhaustive tier as well")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="exhaustive tier: run with --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code under test may use the global generator


@pytest.fixture
def one_thread():
    """One thread of PyTorch, as in the processes of a test: the last digits depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Optional real data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("real data beside the checkout (../shared) is absent")
    return SHARED
