"""Two processes train as one, with the same losses, masks and counts; the survivor of a kill ends, too."""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from heatbox.training.state import STATE
from helpers.training import Training, history_of


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_of_two(rank, port):
    """The environment that torchrun gives each of two processes on one machine."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {name: str(value) for name, value in {**names, **address}.items()}


def start_two(data, out, *options):
    port = free_port()
    return [Training(data, out, *options, environment=rank_of_two(rank, port)) for rank in (0, 1)]


# Dropout and mixup depend on the micro-batch, not on the device, so the recipe stays as it is. BatchNorm's
# running statistics are the first device's, as in torch, so only training mode is compared.
def test_two_processes_train_as_one(small_data, uninterrupted, tmp_path):
    out = tmp_path / "run"
    for code, output in [training.finish() for training in start_two(small_data, out)]:
        assert code == 0, output
        assert "Traceback" not in output
    one, two = history_of(uninterrupted), history_of(out)
    losses = np.array([[row["loss"] for row in rows] for rows in (one, two)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    masks = [torch.load(folder / STATE, weights_only=True)["masks"] for folder in (uninterrupted, out)]
    agreeing = sum(int((masks[0][name] == masks[1][name]).sum()) for name in masks[0])
    assert agreeing > 0.999 * sum(mask.numel() for mask in masks[0].values())


MASKS_IN_TWO = """
import sys, torch, timm
import torch.distributed as dist
from heatbox.models import slak
from heatbox.training.sparse import Masks, maskable
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = timm.create_model("test_slak", num_classes=4)
with torch.no_grad():
    for weight in model.parameters():  # as if rounding differed between the processes
        weight.add_(1e-3 * rank * torch.randn_like(weight))
counts = {name: weight.numel() // 2 for name, weight in maskable(model).items()}
masks = Masks.drawn(model, counts, seed=rank, every=1, steps=9)
for step in range(1, 4):
    masks.update(step)
torch.save(masks.kept, f"{sys.argv[1]}/masks-{rank}.pt")
"""

VALIDATE_IN_TWO = """
import json, sys, torch, timm
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from heatbox.training.validate import validate
from heatbox.data.glyphs import glyphs
from heatbox.data.transforms import Preprocess
from heatbox.models import slak
fabric = Fabric(accelerator="cpu", devices=2, strategy=DDPStrategy())
fabric.launch()
torch.manual_seed(0)
model = timm.create_model("test_slak", num_classes=10)
found = validate(model, glyphs("test", 15), Preprocess((64, 64)), ("cam", "pc1"), 4, fabric)
json.dump(found, open(f"{sys.argv[1]}/found-{fabric.global_rank}.json", "w"))
"""


def run_two(program, folder):
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            env={**os.environ, **rank_of_two(rank, port), "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]


def test_masks_are_the_same_in_all_processes(tmp_path):
    run_two(MASKS_IN_TWO, tmp_path)
    first, second = (torch.load(tmp_path / f"masks-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_sharded_counts_are_those_of_one_process(tmp_path):
    import timm

    import heatbox.models  # noqa: F401 - registers its families with timm
    from heatbox.data.glyphs import glyphs
    from heatbox.data.transforms import Preprocess
    from heatbox.training.validate import validate

    run_two(VALIDATE_IN_TWO, tmp_path)
    torch.manual_seed(0)
    model = timm.create_model("test_slak", num_classes=10)
    alone = validate(model, glyphs("test", 15), Preprocess((64, 64)), ("cam", "pc1"), 4)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"found-{rank}.json").read_text()) == alone


@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_process_ends_the_training(dead, small_data, tmp_path):
    out = tmp_path / "run"
    trainings = start_two(small_data, out, "--save-minutes", "0")
    assert trainings[0].wait_for(lambda: (out / STATE).exists())
    trainings[dead].kill(signal.SIGKILL)
    code, output = trainings[1 - dead].finish(timeout=120)
    trainings[dead].finish()
    assert code == 2, output
    assert "another process of this training has ended" in output
    assert "Traceback" not in output
    assert torch.load(out / STATE, weights_only=True)["step"] > 0
