"""Devices and processes: one, or many as torchrun and SLURM lay them out."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from heatbox._utils.devices import pick_device
from heatbox._utils.extras import require
from heatbox.training.config import TrainConfig, TrainOptions


def make_fabric(config: TrainConfig, options: TrainOptions) -> Any:
    """A launched Lightning Fabric: on the device asked for, or as torchrun or SLURM have laid it out.

    Raises:
        InputError: Lightning Fabric is not installed, or the device is not at hand.
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
    """Processes of this machine, and machines."""
    environ = os.environ
    if "LOCAL_WORLD_SIZE" in environ and "WORLD_SIZE" in environ:  # torchrun
        local = int(environ["LOCAL_WORLD_SIZE"])
        return local, int(environ["WORLD_SIZE"]) // local
    if "SLURM_PROCID" in environ and int(environ.get("SLURM_NTASKS", 1)) > 1:  # srun
        nodes = int(environ.get("SLURM_NNODES", 1))
        return int(environ["SLURM_NTASKS"]) // nodes, nodes
    return options.devices, 1
