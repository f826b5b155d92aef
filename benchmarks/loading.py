"""Images a second, decoded and transformed: heatbox against torchvision's ImageFolder, same transforms.

python benchmarks/loading.py [FOLDER]   a folder of classes; without one, 448-pixel JPEGs are drawn.

"heatbox" passes float32 from workers to the main process as torchvision does, "bytes" lets workers pass
uint8, which the main process normalises. Rounds of all are interleaved and the best of each is compared,
because machines are noisy. The last two columns say how far the pictures differ when both draw the same
crops, in grey levels of 255.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from heatbox.data.glyphs import glyphs
from heatbox.data.loader import TrainCrop, TrainImages, normalize
from heatbox.data.open import open_split

MEAN, STD = TrainCrop.mean, TrainCrop.std
NORMALISE = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
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
    """One pass: from the files to normalized float32 batches in the main process."""
    loader = DataLoader(data, batch_size=32, num_workers=workers, persistent_workers=workers > 0)
    for _ in loader:  # starts the workers and fills the file cache
        pass
    start = time.perf_counter()
    for images, _ in loader:
        if images.dtype == torch.uint8:
            images = normalize(images, MEAN, STD)
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
            "case                     workers  torchvision   heatbox  ratio    bytes  ratio    mean   99.9%"
        )
        for name, (ours, theirs) in CASES.items():
            data = (
                datasets.ImageFolder(root, transforms.Compose(theirs + NORMALISE)),
                TrainImages(split, ours),
                TrainImages(split, dataclasses.replace(ours, as_bytes=True)),
            )
            mean, most = difference(data[1], data[0])
            for workers in options.workers:
                rounds = [[seconds(one, workers) for one in data] for _ in range(options.rounds)]
                other, mine, small = (len(split) / min(column) for column in zip(*rounds, strict=True))
                print(
                    f"{name:25}{workers:7}{other:13.0f}{mine:10.0f}{mine / other:7.2f}"
                    f"{small:9.0f}{small / other:7.2f}{mean:8.2f}{most:8.1f}"
                )


if __name__ == "__main__":
    main()
