"""Exhausted memory and lost processes become one-sentence errors; other exceptions pass unchanged."""

import pytest
import torch

from heatbox.errors import InputError
from heatbox.training.distributed import failures_explained
from heatbox.training.recipes import get_recipe

CONFIG = get_recipe("replknet_31b_in1k_384")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_too_little_memory_suggests_accumulation(error):
    message = r"16 images of 384 pixels.*--per-device 8 accumulates.*--recompute"
    with pytest.raises(InputError, match=message), failures_explained(CONFIG, world_size=1):
        raise error


def test_torchs_own_allocation_error_is_recognised():
    with pytest.raises(InputError, match="do not fit into memory"), failures_explained(CONFIG, world_size=1):
        torch.empty(2**55)


@pytest.mark.parametrize("said", ["Connection closed by peer [::1]:1", "NCCL error: remote process exited"])
def test_a_lost_process_is_distinguished_from_a_bug(said):
    ended = "another process of this training has ended"
    with pytest.raises(InputError, match=ended), failures_explained(CONFIG, world_size=2):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match=said.split("[")[0]), failures_explained(CONFIG, world_size=1):
        raise RuntimeError(said)


def test_bugs_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shape mismatch"), failures_explained(CONFIG, world_size=2):
        raise RuntimeError("shape mismatch")
