"""Deterministic weights and inputs behind the golden numbers in tests/fixtures."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

DATA = Path(__file__).resolve().parents[1] / "fixtures"


def golden_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value every golden model has under this name: drawn from the name's checksum."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    n = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_mean"):
        n = 0.1 * n
    elif name.endswith("running_var"):
        n = 1 + 0.1 * abs(n)
    elif name.endswith("gamma"):
        n = 0.5 + 0.1 * n
    elif len(shape) >= 2:
        n = n * np.sqrt(2 / np.prod(shape[1:])) * (0.2 if name.endswith("pw2.conv.weight") else 1)
    elif name.endswith("weight"):
        n = 1 + 0.1 * n
    else:
        n = 0.1 * n
    return torch.from_numpy(np.asarray(n, dtype=np.float32))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small: more threads are slower
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def golden_weights() -> Callable:
    """Fill a model in place with its deterministic weights and return it in eval mode."""

    def fill(model: torch.nn.Module) -> torch.nn.Module:
        state = {name: golden_tensor(name, tuple(t.shape)) for name, t in model.state_dict().items()}
        model.load_state_dict(state)
        return model.eval()

    return fill


@pytest.fixture(scope="session")
def golden_state() -> Callable:
    """Deterministic weights of a list of "name 3x4x5" lines."""

    def state(lines: np.ndarray) -> dict[str, Tensor]:
        split = [line.rsplit(" ", 1) for line in lines.tolist()]
        shapes = {name: tuple(int(side) for side in shape.split("x") if side) for name, shape in split}
        return {name: golden_tensor(name, shape) for name, shape in shapes.items()}

    return state


@pytest.fixture(scope="session")
def golden_images() -> Callable:
    """The images (2, 3, side, side) behind the golden outputs."""

    def images(side: int) -> Tensor:
        values = np.random.RandomState(0).standard_normal((2, 3, side, side))
        return torch.from_numpy(values.astype(np.float32))

    return images


@pytest.fixture(scope="session")
def golden() -> Callable:
    """Arrays of one of the files in tests/fixtures."""
    return lambda name: np.load(DATA / f"{name}.npz")


@pytest.fixture(scope="session")
def lines() -> Callable:
    """Names and shapes of a model's state, as the golden files list them."""

    def listed(model: torch.nn.Module) -> list[str]:
        return [f"{name} {'x'.join(map(str, t.shape))}" for name, t in model.state_dict().items()]

    return listed
