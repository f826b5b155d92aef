"""Devices and processes, as started by this command, torchrun or SLURM, and the errors for their failures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from heatbox._utils.devices import pick_device
from heatbox._utils.extras import require
from heatbox._utils.processes import LOST
from heatbox.errors import InputError
from heatbox.training.config import TrainConfig, TrainOptions

# torch's messages for a failed allocation on the CPU.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory", re.IGNORECASE)


def make_fabric(config: TrainConfig, options: TrainOptions) -> Any:
    """A launched Lightning Fabric on the requested devices, or on those that torchrun or SLURM assigned.

    Raises:
        InputError: Lightning Fabric is not installed, or the device is not available.
    """
    require("train", "training", "lightning_fabric")
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    device = pick_device(options.device)
    local, nodes = _layout(options)
    fabric = Fabric(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=local if local > 1 or device.index is None else [device.index],
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=timedelta(minutes=30)) if local * nodes > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def _layout(options: TrainOptions) -> tuple[int, int]:
    """(processes on this machine, machines)."""
    environ = os.environ
    if "LOCAL_WORLD_SIZE" in environ and "WORLD_SIZE" in environ:  # torchrun
        local = int(environ["LOCAL_WORLD_SIZE"])
        return local, int(environ["WORLD_SIZE"]) // local
    if "SLURM_PROCID" in environ and int(environ.get("SLURM_NTASKS", 1)) > 1:  # srun
        nodes = int(environ.get("SLURM_NNODES", 1))
        return int(environ["SLURM_NTASKS"]) // nodes, nodes
    return options.devices, 1


@contextmanager
def failures_explained(config: TrainConfig, world_size: int) -> Iterator[None]:
    """Turn exhausted memory and lost processes into an `InputError` that names the remedy."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InputError(_out_of_memory(config)) from error
    except RuntimeError as error:
        if _NO_MEMORY.search(str(error)):
            raise InputError(_out_of_memory(config)) from error
        if world_size > 1 and LOST.search(str(error)):
            raise InputError(
                "another process of this training has ended, so this one ends too; rerun the command to "
                f"resume from the last saved state ({str(error).splitlines()[0][:200]})"
            ) from error
        raise


def _out_of_memory(config: TrainConfig) -> str:
    return (
        f"{config.per_device} images of {config.size} pixels per forward pass do not fit into memory; "
        f"--per-device {max(config.per_device // 2, 1)} accumulates the same batch of {config.batch_size} in "
        "smaller passes, and --recompute reduces the memory of each"
    )
