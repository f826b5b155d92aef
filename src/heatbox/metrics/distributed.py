"""Counts that live in several processes → their sum or concatenation in each of them."""

from __future__ import annotations

from typing import Any

import numpy as np


def _gather(array: np.ndarray, fabric: Any) -> np.ndarray:
    """The array of every process, (processes, *shape); shapes must agree."""
    import torch
    import torch.distributed as dist

    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if fabric is not None:
        gathered = fabric.all_gather(tensor).cpu().numpy()
        return gathered.reshape(-1, *array.shape)
    if not (dist.is_available() and dist.is_initialized()):
        return array[None]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = tensor.to(device)
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.stack(parts).cpu().numpy()


def sum_over_processes(array: np.ndarray, fabric: Any = None) -> np.ndarray:
    """The sum of an array over processes, exact for integers.

    Args:
        array: the same shape and type in every process.
        fabric: a Lightning Fabric (anything with its `all_gather`); by default the initialised
            torch.distributed group, or this process alone where there is none.
    """
    return _gather(array, fabric).sum(0, dtype=array.dtype)


def concatenate_over_processes(array: np.ndarray, fabric: Any = None) -> np.ndarray:
    """Arrays of all processes one after the other along the first axis; lengths may differ."""
    lengths = _gather(np.array([len(array)]), fabric)[:, 0]
    if lengths.max() == 0:
        return array
    padded = np.zeros((int(lengths.max()), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return np.concatenate([part[:n] for part, n in zip(_gather(padded, fabric), lengths, strict=True)])
