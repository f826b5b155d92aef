"""Small data sets and models on disk, for the tests of whole commands."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from heatbox.data.glyphs import glyphs

MODEL_FILE = '''
from torch import nn
import torch

def blobs(num_classes=10):
    """A network that fires where colours are strong, pooled and classified."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )

def no_model():
    return "a string"
'''


FINE = """
from torch import nn
import torch

def fine(num_classes=10):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes),
    )

def one_more():
    return fine(11)
"""


MOBILENET = """
from timm.models import efficientnet

def build():
    return efficientnet._gen_mobilenet_v1(
        "mobilenetv1_100", channel_multiplier=0.75, pad_type="same", bn_eps=1e-3, pretrained=False
    )
"""


def write_model(folder: Path) -> str:
    """A file.py:function of a small network; returns its name."""
    (folder / "mine.py").write_text(MODEL_FILE)
    return f"{folder / 'mine.py'}:blobs"


def write_other_model(folder: Path) -> str:
    """A file.py:function of another small network, with a finer grid; returns its name."""
    (folder / "other.py").write_text(FINE)
    return f"{folder / 'other.py'}:fine"


def write_split(folder: Path, count: int = 20) -> Path:
    """glyphs on disk in the metadata layout."""
    split = glyphs("test", count)
    lines: dict[str, list[str]] = {"image_ids": [], "class_labels": [], "image_sizes": [], "localization": []}
    for example in split:
        path = folder / "images" / example.id
        path.parent.mkdir(parents=True, exist_ok=True)
        split.open_image(example).save(path)
        lines["image_ids"].append(example.id)
        lines["class_labels"].append(f"{example.id},{example.label}")
        lines["image_sizes"].append(f"{example.id},{example.size[0]},{example.size[1]}")
        lines["localization"] += [
            f"{example.id}," + ",".join(f"{v:.0f}" for v in box) for box in example.boxes
        ]
    for name, rows in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return folder


def write_checkpoint(model: nn.Module, path: Path) -> Path:
    """The weights of a model as safetensors or, for .pth, as PyTorch writes them."""
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path
