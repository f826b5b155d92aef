"""A training of a second or two, run in separate processes."""

import json
import os
import signal
import subprocess
import sys
import time

from safetensors.torch import load_file

from heatbox.data.glyphs import glyphs
from helpers.data_trees import metadata

# fmt: off
RECIPE = (
    "glyphs_resnet", "--model", "test_slak", "--batch-size", "8", "--per-device", "4", "--epochs", "4",
    "--checkpoint-every", "2", "--sparsity", "0.4", "--mask-every", "5", "--ema", "0.9", "--mixup", "0.8",
    "--auto", "rand-m9-mstd0.5-inc1", "--erase", "0.25", "--lr", "1e-3", "--lr-head", "1e-3",
    "--device", "cpu", "--no-tensorboard",
)
# fmt: on


def write_small_data(root):
    for name, count in (("train", 48), ("test", 10)):
        split = glyphs(name, count)
        folder = root / name
        (folder / "images").mkdir(parents=True)
        ids = [f"{number}.png" for number in range(count)]
        for image_id, example in zip(ids, split, strict=True):
            split.open_image(example).save(folder / "images" / image_id)
        boxes = [",".join(str(v) for v in example.boxes[0]) for example in split]
        metadata(folder, ids, [e.label for e in split], [e.size for e in split], boxes)
    return root


class Training:
    """`heatbox train` on the small data in a separate process."""

    def __init__(self, data, out, *options, before="", environment=()):
        program = f"{before}\nimport sys\nfrom heatbox.cli.main import main\nsys.exit(main(sys.argv[1:]))"
        self.out = out
        arguments = ["train", *RECIPE, "--data", str(data), "--out", str(out), *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **dict(environment)},
        )

    def finish(self, timeout=300):
        """Exit code and everything printed."""
        printed, errors = self.process.communicate(timeout=timeout)
        return self.process.returncode, printed + errors

    def wait_for(self, condition, timeout=120):
        """Busy-wait until a condition holds."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.process.poll() is None:
            if condition():
                return True
        return condition()

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)


def weights_of(out):
    """File name → name → bytes of the tensor, of every checkpoint."""
    files = sorted((out / "checkpoints").glob("*.safetensors"))
    return {
        path.name: {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
        for path in files
    }


def history_of(out):
    """log.json without what depends on the machine's speed."""
    rows = json.loads((out / "log.json").read_text())
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]
