"""Small data, models and results under the names that the documentation uses."""

from __future__ import annotations

import dataclasses
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import heatbox as hb
from heatbox.cli.main import main
from helpers.data_trees import cub, cue_conflict
from helpers.scenes import MODEL_FILE, write_split

MODEL = (
    MODEL_FILE.replace("def blobs(", "def build(")
    + """

def my_map(model, images, targets):
    return images.std(1)
"""
)
SMALLER = {  # models of the text, and small ones of the same families that replace them
    '"slak_tiny", kernel_size=61': '"slak_nano"',
    '"replknet_31b", features_only=True, out_indices=(2, 3)': '"replknet_nano", features_only=True',
    '"replknet_31b"': '"replknet_nano"',
    '"convnext_tiny"': '"convnext_atto"',
}


def lay_out(folder: Path) -> None:
    """Files and folders, from the working folder of a command."""
    (folder / "mine.py").write_text(MODEL)
    names: dict[str, Any] = {}
    exec(MODEL, names)
    torch.save(names["build"]().state_dict(), folder / "mine.pth")
    for place, maps in (("CUB/test", "maps"), ("CUB/val", "maps-val")):
        split = hb.open_split(write_split(folder / place, 8))
        for example in split:
            path = folder / maps / f"{example.id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, hb.centre_gaussian(224).astype(np.float32))
    shutil.copytree(folder / "maps", folder / "walks")
    for name in ("birds", "birds-val"):
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            archive.add(folder / "CUB/test", ".")
    cub(folder / "CUB_200_2011")
    cue_conflict(folder / "cue-conflict")
    (folder / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.jpg")
    for name in ("ant", "bee"):
        (folder / "sorted" / name).mkdir(parents=True)
        shutil.copyfile(folder / "photos/0.jpg", folder / "sorted" / name / "1.jpg")
    (folder / "names.txt").write_text("bee\nant\n" + "".join(f"class {number}\n" for number in range(8)))
    evaluate = ["evaluate", "--model", "mine.py:build", "--checkpoint", "mine.pth", "--data", "birds.tar"]
    methods = ["--method", "cam", "pc1", "walk"]
    assert main([*evaluate, "--size", "64", *methods, "--out", "runs/a", "--json"]) == 0
    assert main([*evaluate, "--size", "64", "--method", "foreground", "--out", "runs/fit", "--json"]) == 0
    calibrate = ["calibrate", "runs/a", "--boxes", "birds-val.tar", "--method", "cam"]
    assert main([*calibrate, "--json"]) == 0
    for name in ("runs/b", "runs/resnet50-test", "runs/mobilenet-ilsvrc-900"):
        shutil.copytree(folder / "runs/a", folder / name)
    save_file(hb.create_model("convnext_atto", num_classes=200).state_dict(), folder / "birds.safetensors")
    weights = hb.create_model("replknet_nano", num_classes=1000).state_dict()
    for name in ("RepLKNet-31B_ImageNet-1K_384.pth", "replknet_31B1K384_CUB.pth"):
        torch.save(weights, folder / name)


def names_for(page: str) -> dict[str, Any]:
    """Variables that the snippets of a page take for granted."""
    split = hb.glyphs("test", 4, 64)
    images = [split.open_image(example) for example in split]
    maps = np.stack([hb.centre_gaussian(224)] * 4).astype(np.float32)
    truth = ([e.boxes for e in split], [e.size for e in split])
    score = hb.MaxBoxAcc()
    score.update(maps, *truth)
    known: dict[str, Any] = {
        "hb": hb,
        "images": images,
        "heatmaps": maps,
        "boxes": truth[0],
        "image_sizes": truth[1],
        "batches": [(maps, *truth)],
        "test_score": score.compute(),
        "fullsup_score": score.compute(),
    }
    if page == "docs/large-convolutions.md":
        known["model"] = hb.create_model("replknet_nano")
    if page in ("docs/instruments.md", "docs/walk.md", "docs/foreground.md", "docs/label.md"):
        known["model"] = hb.create_model("resnet10_small")
    if page == "docs/walk.md":
        rng = torch.Generator().manual_seed(0)
        known["seed"] = torch.rand(2, 8, 8, generator=rng)
        known["features_8"] = torch.rand(2, 6, 16, 16, generator=rng)
        known["features_16"] = torch.rand(2, 6, 8, 8, generator=rng)
    if page == "docs/instruments.md":
        with tarfile.open("cue-conflict-256.tar", "w") as archive:
            for example in (pairs := hb.glyphs_cue_conflict(90)):
                path = Path("pairs") / example.id
                path.parent.mkdir(parents=True, exist_ok=True)
                pairs.open_image(example).save(path)
            archive.add("pairs", ".")
    return known


def small_recipe(name: str) -> Any:
    """A recipe reduced to a few images."""
    from heatbox.training import recipes

    return dataclasses.replace(recipes.RECIPES[name](), limit=20, batch_size=10, per_device=10)
