"""What the benchmarks of networks share: calls that take turns, and the network of the documentation."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping

import timm
import torch
from torch import nn

import heatbox.models  # noqa: F401 - registers its families with timm


def build(name: str) -> nn.Module:
    """A model by its timm name, or mobilenetv1_075, which timm has no name for."""
    if name == "mobilenetv1_075":
        from timm.models import efficientnet

        return efficientnet._gen_mobilenet_v1("mobilenetv1_100", channel_multiplier=0.75, pretrained=False)
    return timm.create_model(name)


def take_turns(jobs: Mapping[str, Callable[[], object]], turns: int, device: str) -> dict[str, float]:
    """Minimum milliseconds of each call after one call unmeasured; processor time if there is one thread."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(jobs, float("inf"))
    for turn in range(turns + 1):
        for name, job in jobs.items():
            before = clock()
            job()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn > 0:
                best[name] = min(best[name], (clock() - before) * 1e3)
    return best


def where(device: str) -> str:
    """The machine and PyTorch, for the first line of a table."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
