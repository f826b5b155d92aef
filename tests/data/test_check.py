"""What is broken is named; what is unusual is read and noted; a second check is quick and the same."""

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from heatbox.cli.main import main
from heatbox.data import catalogue
from heatbox.data import open as opening
from heatbox.data.catalogue import CATALOGUE
from heatbox.data.check import check_data
from heatbox.data.glyphs import glyphs
from heatbox.errors import InputError
from helpers import data_trees as trees


def test_a_whole_set_has_no_problem(tmp_path):
    report = check_data(trees.tiny(tmp_path / "tiny"), tmp_path / "out", jobs=1)
    assert report.problems == []
    assert report.layout == "Tiny-ImageNet"
    assert report.splits["train"] == {"images": 6, "labels": 3, "boxes": 6, "without_boxes": 0}
    assert json.loads((tmp_path / "out" / "report.json").read_text())["problems"] == []


def broken(root, how):
    images = root / "train" / trees.WNIDS[0] / "images"
    first = images / f"{trees.WNIDS[0]}_0.JPEG"
    if how == "empty":
        first.write_bytes(b"")
    elif how == "truncated":
        first.write_bytes(first.read_bytes()[:-300])
    elif how == "no row":
        trees.write_image(images / "stray.JPEG", (64, 64))
    elif how == "outside":
        trees.write(images.parent / f"{trees.WNIDS[0]}_boxes.txt", f"{first.name}\t0\t0\t66\t5\n" * 1)
    elif how == "size":
        trees.write_image(first, (60, 64))
    elif how == "copy":
        (root / "val" / "images" / "val_0.JPEG").write_bytes(first.read_bytes())
    elif how == "label":
        other = root / "train" / trees.WNIDS[1] / "images" / f"{trees.WNIDS[1]}_0.JPEG"
        other.write_bytes(first.read_bytes())
    elif how == "missing":
        first.unlink()
    return root


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "_0.JPEG: not an image"),
        ("truncated", "_0.JPEG: the image is damaged"),
        ("no row", "_boxes.txt: has no usable row for image 'stray.JPEG'"),
        ("outside", "_boxes.txt, row 1: box (0, 0, 66, 5) lies outside its 64 x 64 image"),
        ("size", "is 60 x 64, the metadata lists 64 x 64"),
        ("copy", "val, image 'val/images/val_0.JPEG': is the same file as"),
        ("label", "the same file has different labels"),
        ("missing", "image 'n01440764_0.JPEG' is listed but missing"),
    ],
)
def test_what_is_broken_is_named(tmp_path, how, message):
    root = broken(trees.tiny(tmp_path / "tiny"), how)
    report = check_data(root, tmp_path / "out", jobs=1)
    assert any(message in problem for problem in report.problems), report.problems
    again = check_data(root, tmp_path / "out", jobs=2)
    assert again == report


def test_resumes_after_an_interruption(tmp_path, monkeypatch):
    root = trees.tiny(tmp_path / "tiny")
    first = check_data(root, tmp_path / "out", jobs=1)
    log = tmp_path / "out" / "images.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20])  # cut in the middle of a line
    opened = []
    import heatbox.data.check as module

    decode = module.decode_image
    monkeypatch.setattr(module, "decode_image", lambda data, name: opened.append(name) or decode(data, name))
    assert check_data(root, tmp_path / "out", jobs=1) == first
    assert len(opened) == len(lines) - 5


def test_a_changed_image_is_opened_again(tmp_path):
    root = trees.tiny(tmp_path / "tiny")
    check_data(root, tmp_path / "out", jobs=1)
    report = check_data(broken(root, "truncated"), tmp_path / "out", jobs=1)
    assert len(report.problems) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "the mask cannot be read"),
        (lambda path: path.unlink(), "no such mask file"),
        (lambda path: Image.new("1", (40, 30)).save(path), "empty mask"),
    ],
)
def test_masks_are_opened_too(tmp_path, damage, message):
    root = trees.openimages(tmp_path / "set")
    report = check_data(root, tmp_path / "out", jobs=1)
    assert report.problems == []
    (second,) = (root / "dataset/OpenImages/test/01226z").glob("973645e9516726b3_m*.png")
    damage(second)
    report = check_data(root, tmp_path / "out", jobs=1)
    assert len(report.problems) == 1
    assert message in report.problems[0]
    assert "973645e9516726b3" in report.problems[0]


def test_unusual_files_are_noted_not_refused(tmp_path):
    root = trees.cub(tmp_path / "cub")
    image = np.asarray(Image.open(root / "images" / trees.CUB_NAMES[0]))
    Image.fromarray(image).save(root / "images" / trees.CUB_NAMES[0], "PNG")
    Image.fromarray(image).convert("CMYK").save(root / "images" / trees.CUB_NAMES[3], "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(image)))
    turned.save(root / "images" / trees.CUB_NAMES[1], "JPEG", exif=exif)
    report = check_data(root, tmp_path / "out", jobs=1)
    assert report.problems == []
    assert sorted(report.notes) == [
        "test: 1 images are JPEG CMYK",
        "test: 1 images are PNG RGB but named JPEG",
        "train: 1 images are JPEG RGB turned",
    ]


def test_images_that_are_not_files(tmp_path, monkeypatch):
    split = glyphs("test", count=3)

    def open_image(example):
        if example is split.examples[1]:
            raise InputError("the second image is damaged")
        return split.open_image(example)

    reader = SimpleNamespace(
        LAYOUT="drawn",
        DEPTH=0,
        split_names=lambda tree: ("test",),
        load_split=lambda tree, name, report: dataclasses.replace(split, open_image=open_image),
    )
    monkeypatch.setattr(opening, "FORMATS", (reader,))
    report = check_data(tmp_path, tmp_path / "out", jobs=1)
    assert report.problems == ["the second image is damaged"]
    assert report.splits["test"]["images"] == 3
    assert [len(readable) for readable in report.readable] == [2]


def test_wrong_checksum(tmp_path):
    trees.cub(tmp_path / "CUB_200_2011")
    import tarfile

    with tarfile.open(tmp_path / "CUB_200_2011.tgz", "w:gz") as tar:
        tar.add(tmp_path / "CUB_200_2011", arcname="CUB_200_2011")
    report = check_data(tmp_path / "CUB_200_2011.tgz", tmp_path / "out", jobs=1)
    assert len(report.problems) == 1
    assert "MD5 is" in report.problems[0]


def test_right_checksum(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.zip").write_bytes(b"hello")
    entry = dataclasses.replace(CATALOGUE[0], md5={"a.zip": "5d41402abc4b2a76b9719d911017c592"})
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    assert catalogue.checksum_problems(tmp_path / "set") == ([], 1)
    assert catalogue.checksum_problems(tmp_path / "set" / "a.zip") == ([], 1)
    (tmp_path / "set" / "a.zip").write_bytes(b"hullo")
    problems, compared = catalogue.checksum_problems(tmp_path / "set")
    assert (len(problems), compared) == (1, 1)


def test_checksums_are_md5_of_one_file_each():
    sums = [(name, digest) for entry in CATALOGUE for name, digest in entry.md5.items()]
    assert len(dict(sums)) == len(sums) == 7
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for _, digest in sums)


def test_command_line(tmp_path, capsys):
    root = trees.tiny(tmp_path / "tiny")
    assert main(["data", "check", str(root), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert "Tiny-ImageNet" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "contact-sheet.png") as sheet:
        assert sheet.width >= 320
    broken(root, "empty")
    assert main(["data", "check", str(root), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 1
    assert "broken: " in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "nothing")]) == 2
    assert main(["data", "list"]) == 0
    assert "CUB-200-2011" in capsys.readouterr().out
    cub = trees.cub(tmp_path / "cub")
    assert main(["data", "prepare", "cub", str(cub), "--out", str(tmp_path / "copies"), "--jobs", "1"]) == 0
    assert (tmp_path / "copies" / "train" / "image_ids.txt").is_file()


@pytest.mark.parametrize(
    ("name", "images", "boxes"),
    [("ilsvrc-900", 900, 1350), ("cue-conflict-256", 1280, 0), ("cubv2-20", 20, 20)],
)
def test_real_sets(shared, tmp_path, name, images, boxes):
    report = check_data(shared / "data" / f"{name}.tar", tmp_path, jobs=1)
    (counts,) = report.splits.values()
    assert (counts["images"], counts["boxes"], report.problems) == (images, boxes, [])


def test_no_thread_at_all_is_refused(tmp_path, capsys):
    path = trees.tiny(tmp_path / "tiny")
    assert main(["data", "check", str(path), "--out", str(tmp_path / "out"), "--jobs", "0"]) == 2
    assert "jobs is 0, expected 1 or more" in capsys.readouterr().err
