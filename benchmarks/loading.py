"""Images a second, decoded and transformed: heatbox against torchvision's ImageFolder, same transforms.

python benchmarks/loading.py [FOLDER]   a folder of classes; without one, 448-pixel JPEGs are drawn.

Rounds of both are interleaved in one process and the best of each is compared, because machines are noisy.
The last two columns say how far the pictures differ when both draw the same crops: grey levels of 255.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from heatbox.data.glyphs import glyphs
from heatbox.data.loading import TrainCrop, TrainImages
from heatbox.data.open import open_split

NORMALISE = [
    transforms.RandomHorizontalFlip(),
    transforms.ToTensor(),
    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
]
CASES = {
    "whole picture to 224": (TrainCrop(224, ratio=None), [transforms.Resize((224, 224))]),
    "crop of .08 to 1 to 224": (TrainCrop(224), [transforms.RandomResizedCrop(224)]),
    "crop of .08 to 1 to 112": (TrainCrop(112), [transforms.RandomResizedCrop(112)]),
}


def draw(root: Path, count: int) -> None:
    """Pictures with the detail of photographs: enlarged glyphs and some grain."""
    split = glyphs("train", count, size=224)
    rng = np.random.default_rng(0)
    (root / "a").mkdir()
    for number, example in enumerate(split):
        large = np.asarray(split.open_image(example).resize((448, 448)), dtype=np.int16)
        grain = rng.normal(0, 6, large.shape).astype(np.int16)
        Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8)).save(
            root / "a" / f"{number}.jpg", quality=95
        )


def seconds(data, workers: int) -> float:
    loader = DataLoader(data, batch_size=32, num_workers=workers, persistent_workers=workers > 0)
    for _ in loader:  # starts the workers and fills the file cache
        pass
    start = time.perf_counter()
    for images, _ in loader:
        assert images.dtype == torch.float32
    return time.perf_counter() - start


def difference(ours, theirs, count: int = 100) -> tuple[float, float]:
    """Mean and 99.9th percentile of the levels by which the same crops of the same pictures differ."""
    std = torch.tensor(ours.transform.std)[:, None, None]
    parts = []
    for index in range(0, len(theirs), max(len(theirs) // count, 1)):
        tensors = []
        for data in (ours, theirs):
            torch.manual_seed(index)
            tensors.append(data[index][0] * std * 255)
        parts.append((tensors[0] - tensors[1]).abs().flatten()[::7])
    levels = torch.cat(parts)
    return float(levels.mean()), float(np.percentile(levels.numpy(), 99.9))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        if options.folder is None:
            draw(root, options.images)
        split = open_split(str(root))
        print(f"{len(split)} images; images/s, best of {options.rounds} interleaved rounds")
        print(
            f"{'case':26}{'workers':>8}{'torchvision':>13}{'heatbox':>10}{'ratio':>8}{'mean':>8}{'99.9%':>8}"
        )
        for name, (ours, theirs) in CASES.items():
            both = (
                TrainImages(split, ours),
                datasets.ImageFolder(root, transforms.Compose(theirs + NORMALISE)),
            )
            mean, most = difference(*both)
            for workers in options.workers:
                rounds = [[seconds(data, workers) for data in both] for _ in range(options.rounds)]
                mine, other = (len(split) / min(column) for column in zip(*rounds, strict=True))
                print(
                    f"{name:26}{workers:8}{other:13.0f}{mine:10.0f}{mine / other:8.2f}{mean:8.2f}{most:8.1f}"
                )


if __name__ == "__main__":
    main()
