"""Single files: images, archives, heatmaps, checkpoints, the state of a training."""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from fuzz.memory import MemoryTree
from fuzz.mutate import BINARY, Case, damaged, mutated
from fuzz.target import Target, one_sentence, sane
from heatbox.data.files.archives import open_tree
from heatbox.data.files.images import (
    TreeImages,
    decode_image,
    decode_plain_jpeg,
    image_size,
    plain_jpeg_size,
    read_grayscale,
)
from heatbox.data.loader import TrainCrop, TrainImages
from heatbox.data.open import open_data_set
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.score import load_map, score_stream
from heatbox.models.checkpoints import convert_checkpoint, load_checkpoint, read_checkpoint
from heatbox.models.factory import create_model
from heatbox.training.state import STATE, TrainState

# ----------------------------------------------------------------------------------------------- pictures


def pictures(_: Path) -> list[Case]:
    """Small images of every common format and mode."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (24, 33, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    made = [
        (colour, "JPEG", {}), (colour, "JPEG", {"progressive": True}), (colour, "JPEG", {"exif": turned}),
        (colour.convert("L"), "JPEG", {}), (colour.convert("CMYK"), "JPEG", {}),
        (colour, "PNG", {}), (colour.convert("RGBA"), "PNG", {}),
        (colour.convert("P"), "PNG", {"transparency": 3}),
        (colour.convert("1"), "PNG", {}), (colour.convert("LA"), "PNG", {}),
        (Image.fromarray(rng.integers(0, 65536, (24, 33)).astype(np.uint16)), "PNG", {}),
        (colour.convert("P"), "GIF", {"save_all": True, "append_images": [colour.convert("P")]}),
        (colour, "WEBP", {}), (colour.convert("RGBA"), "WEBP", {"lossless": True}), (colour, "BMP", {}),
        (colour, "TIFF", {}), (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour, "TIFF", {"compression": "jpeg"}),
        (Image.fromarray(rng.random((24, 33)).astype(np.float32)), "TIFF", {}), (colour, "PPM", {}),
    ]  # fmt: skip
    cases = []
    for image, kind, options in made:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        cases.append({f"a.{kind.lower()}": stream.getvalue()})
    return cases


def _run_picture(case: Case, _: Path) -> None:
    ((name, data),) = case.items()
    tree, problems = MemoryTree(case), []
    try:
        assert min(image_size(tree, name)) > 0
    except InputError as error:
        problems.append(str(error))
    try:
        image = decode_image(data, name)
        assert image.mode == "RGB"
    except InputError as error:
        problems.append(str(error))
    try:
        assert read_grayscale(tree, name).ndim == 2
    except InputError as error:
        problems.append(str(error))
    for problem in problems:
        one_sentence(problem)


def _run_training_picture(case: Case, _: Path) -> None:
    ((name, data),) = case.items()
    size = plain_jpeg_size(data)
    if size is not None:
        for factor in (1, 2, 8):
            pixels = decode_plain_jpeg(data, size, factor)
            assert pixels is None or pixels.shape == (-(-size[1] // factor), -(-size[0] // factor), 3)
    torch.manual_seed(0)
    split = Split("s", [Example(name, 0, (0, 0))], (), TreeImages(MemoryTree(case)))
    tensor, _label = TrainImages(split, TrainCrop(16))[0]
    assert tensor.shape == (3, 16, 16)
    assert bool(torch.isfinite(tensor).all())


# ----------------------------------------------------------------------------------------------- archives

_NAMES = (
    "cat/0.png", "../x.png", "/etc/x.png", "cat/../../x.png", "./cat/1.png", "cat//2.png", "C:\\x.png",
    "..\\x.png",
    "cat/\x00.png", "cat/é.png", "cat/\udce9.png", "a/" * 200 + "x.png", "", ".", "..", "cat", "cat/",
    "x" * 300 + ".png",
    "boxes.csv", "dog/3.png", "cat/0.png", "\u202egnp.exe/1.png", "con/1.png", "cat/ .png",
)  # fmt: skip
_TABLE = b"image,x1,y1,x2,y2\ncat/0.png,1,2,10,20\n"


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(stream, "PNG")
    return stream.getvalue()


def _members() -> list[tuple[str, bytes]]:
    return [("cat/0.png", _png()), ("dog/0.png", _png()), ("boxes.csv", _TABLE)]


def tar_of(members: Sequence[tuple[str, bytes]], random: Random | None = None) -> bytes:
    """A tar of members; with a generator, of some other kinds, sizes and links as well."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if random is not None and random.random() < 0.2:
                info.type = random.choice((b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"x", b"g", b"L"))
                info.linkname = random.choice(("/etc/passwd", "../x", "cat/0.png", ""))
            if random is not None and random.random() < 0.1:
                info.pax_headers = {
                    "path": random.choice(_NAMES).replace("\0", "_"),
                    "size": random.choice(("-1", "9" * 30, "x")),
                }
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(members: Sequence[tuple[str, bytes]], random: Random | None = None) -> bytes:
    """A zip of members; with a generator, with links, repeated names and other ways of compression."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members:
            info = zipfile.ZipInfo(name or "_")
            info.compress_type = zipfile.ZIP_DEFLATED
            if random is not None:
                info.compress_type = random.choice(
                    (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
                )
                info.external_attr = random.choice((0, 0o120777 << 16, 0o100644 << 16, 0xFFFFFFFF))
            file.writestr(info, content)
    return out.getvalue()


_PACK = {
    ".tar": lambda data: data,
    ".tgz": lambda data: gzip.compress(data, 1, mtime=0),
    ".tar.bz2": bz2.compress,
    ".tar.xz": lambda data: lzma.compress(data, preset=0),
}


def _archives(_: Path) -> list[Case]:
    tar = tar_of(_members())
    return [{"a.zip": zip_of(_members())}, *({f"a{suffix}": pack(tar)} for suffix, pack in _PACK.items())]


def _damage_archive(case: Case, others: Sequence[Case], random: Random) -> Case:
    """Half of the time the bytes of a good archive are damaged, else one is made of bad members."""
    kind = random.random()
    if kind < 0.5:
        return damaged(case, others, random)
    members = _members()
    for _ in range(random.choice((1, 2, 6))):
        content = random.choice((b"", _TABLE, _png(), bytes(5_000_000), random.randbytes(50)))
        members.insert(random.randrange(len(members) + 1), (random.choice(_NAMES), content))
    ((name, _old),) = case.items()
    if name.endswith(".zip"):
        return {name: zip_of([(n.replace("\udce9", "?"), c) for n, c in members], random)}
    tar = tar_of(members, random)
    tar = mutated("x", tar, random) if kind < 0.7 else tar
    return {name: _PACK[name[1:]](tar)}


def _run_archive(case: Case, folder: Path) -> None:
    ((name, data),) = case.items()
    place = folder / "data"
    place.mkdir()
    (place / name).write_bytes(data)
    problems: list[str] = []
    for path in (place / name, place):
        try:
            tree = open_tree(path)
            names = list(tree.walk())
            assert not any(part == ".." for one in names for part in one.split("/"))
            for one in names[:50]:
                try:
                    tree.read(one)
                except InputError as error:
                    problems.append(str(error))
            data_set = open_data_set(path)
            for split in data_set.splits:
                sane(data_set.load(split, problems.append))
        except InputError as error:
            problems.append(str(error))
    for problem in problems:
        one_sentence(problem)
    left = {path.name for path in place.iterdir()} - {name, "a.heatbox.tar"}
    assert not left, f"files left behind: {left}"


# ----------------------------------------------------------------------------------------------- heatmaps


def _heatmaps(_: Path) -> list[Case]:
    rng = np.random.default_rng(0)
    whole = rng.random((224, 224)).astype(np.float32)
    arrays = [
        whole, whole.astype(np.float64), whole.astype(np.float16), (whole * 255).astype(np.uint8),
        whole > 0.5,
        rng.random((7, 9)), np.asfortranarray(rng.random((7, 9))), rng.random((3, 4)).astype(">f4"),
        np.zeros((0, 3)),
        np.float32(1), np.array([["a", "b"]]), np.zeros((2, 2), complex), np.zeros((2, 2), [("a", "f4")]),
        np.full((5, 5), np.nan), np.array([[1e308, -1e308]]), np.array([[2**63]], np.uint64),
        np.array([["2020"]], "datetime64[Y]"), rng.random((4, 4)).astype(np.longdouble),
    ]  # fmt: skip
    cases = []
    for array in arrays:
        stream = io.BytesIO()
        np.save(stream, array)
        cases.append({"a.npy": stream.getvalue()})
    return cases


def _run_heatmap(case: Case, folder: Path) -> None:
    path = folder / "a.npy"
    path.write_bytes(case["a.npy"])
    for resize, side in ((False, 224), (True, 224), (False, None), (True, None)):
        one = load_map(path, resize, side)
        if isinstance(one, InputError):
            one_sentence(str(one))
            continue
        if max(one.shape) > 400:
            continue
        truth = np.array([[1.0, 2.0, 30.0, 40.0]])
        protocol = "reference" if one.shape == (224, 224) else "exact"
        try:
            score_stream([("a", one, truth, (50, 60))], protocol, 20, threads=1)
        except InputError as error:
            one_sentence(str(error))


# --------------------------------------------------------------------------------------------- checkpoints


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/heatbox-fuzz-ran",)


@cache
def _network() -> torch.nn.Module:
    return create_model("test_replknet", 3)


def _saved(content: object, **options: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _checkpoints(root: Path) -> list[Case]:
    torch.manual_seed(0)
    state = _network().state_dict()
    few = dict(list(state.items())[:6])
    few |= {"h": torch.ones(2, 3).half(), "i": torch.arange(3), "b": torch.tensor([True])}
    save_file(
        few,
        root / "few.safetensors",
        {"model": "test_replknet", "preprocessing": '{"mean": [0.5, 0.5, 0.5]}'},
    )
    save_file(state, root / "all.safetensors", {"format": "pt"})
    wrapped = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "state_dict": {f"module.{k}": v for k, v in few.items()},
    }
    return [
        {"a.safetensors": (root / "few.safetensors").read_bytes()},
        {"a.safetensors": (root / "all.safetensors").read_bytes()},
        {"a.pth": _saved(few)},
        {"a.pth": _saved(wrapped)},
        {"a.pth": _saved(state)},
        {"a.bin": _saved(few, _use_new_zipfile_serialization=False)},
        {"a.pth": _saved({"state_dict": few, "evil": Runs()})},
    ]


def _run_checkpoint(case: Case, folder: Path) -> None:
    ((name, data),) = case.items()
    path = folder / name
    path.write_bytes(data)
    checkpoint = read_checkpoint(path)
    assert all(isinstance(tensor, torch.Tensor) for tensor in checkpoint.state.values())
    chance = zlib.crc32(data) % 4  # what fits no model is compared with all of them, which takes its time
    if chance == 0:
        load_checkpoint(_network(), checkpoint)
    if chance != 1:
        return
    convert_checkpoint(path, folder / "out.safetensors")
    read_checkpoint(folder / "out.safetensors")


def _states(root: Path) -> list[Case]:
    torch.manual_seed(0)
    cases = []
    for masks in ({}, {"0.weight": torch.ones(3, 2, dtype=torch.bool)}):
        state = _training()
        loss = state.model(torch.ones(1, 2)).sum()
        loss.backward()
        state.optimizer.step()
        state.masks.update(masks)
        state.step, state.history = 4, [{"epoch": 1, "loss": 0.5}]
        state.save(root)
        cases.append({STATE: (root / STATE).read_bytes()})
    return cases


def _training() -> TrainState:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3).eval())
    return TrainState(model, torch.optim.AdamW(model.parameters()))


def _run_state(case: Case, folder: Path) -> None:
    (folder / STATE).write_bytes(case[STATE])
    state = _training()
    state.load(folder)
    assert isinstance(state.step, int)
    assert all(isinstance(row, dict) for row in state.history)
    assert all(mask.dtype == torch.bool for mask in state.masks.values())
    state.optimizer.zero_grad()
    state.model(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()


def _damage_state(case: Case, others: Sequence[Case], random: Random) -> Case:
    name = next(iter(case))
    if random.random() < 0.3:
        return {name: random.choice(BINARY)(case[name], random)}
    return damaged(case, others, random)


TARGETS = [
    Target("pictures", pictures, _run_picture, 30_000),
    Target("training-pictures", pictures, _run_training_picture, 15_000),
    Target("archives", _archives, _run_archive, 12_000, _damage_archive),
    Target("heatmaps", _heatmaps, _run_heatmap, 20_000),
    Target("checkpoints", _checkpoints, _run_checkpoint, 4_000),
    Target("training-state", _states, _run_state, 10_000, _damage_state),
]
