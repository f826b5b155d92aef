"""Training copies of CUB: right pixels, boxes that follow, interrupted and resumed."""

import numpy as np
import pytest
from PIL import Image

from heatbox.data.formats.wsol import load_wsol
from heatbox.data.prepare import prepare_cub
from heatbox.errors import InputError
from helpers import data_trees as trees


@pytest.fixture
def source(tmp_path):
    trees.cub(tmp_path / "CUB_200_2011")
    image = np.zeros((30, 40, 3), np.uint8)
    image[2:22, 6:38] = 255  # the box of the first image
    Image.fromarray(image).save(tmp_path / "CUB_200_2011/images" / trees.CUB_NAMES[0], quality=100)
    return tmp_path / "CUB_200_2011"


@pytest.mark.parametrize("variant", ["squash", "short-side"])
def test_copies_and_boxes(source, tmp_path, variant):
    assert prepare_cub(source, tmp_path / "out", variant) == []
    split = load_wsol(tmp_path / "out" / "test")
    example = split.examples[0]
    assert (example.id, example.size) == (trees.CUB_NAMES[0], (448, 448))
    image = split.open_image(example)
    assert image.size == (448, 448)
    ys, xs = np.nonzero(np.asarray(image.convert("L")) >= 128)
    seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert np.abs(example.boxes[0] - seen).max() <= 2
    width = (38 - 6) / 40 * 512 if variant == "squash" else (38 - 6) / 30 * 512
    assert example.boxes[0, 2] - example.boxes[0, 0] == pytest.approx(min(width, 448), abs=40)
    assert len(load_wsol(tmp_path / "out" / "train")) == 2


def test_resumes(source, tmp_path):
    prepare_cub(source, tmp_path / "out")
    before = load_wsol(tmp_path / "out" / "test")
    kept = tmp_path / "out/test/images" / trees.CUB_NAMES[0]
    lost = tmp_path / "out/test/images" / trees.CUB_NAMES[3]
    made = kept.stat().st_mtime_ns
    lost.unlink()
    prepare_cub(source, tmp_path / "out")
    assert kept.stat().st_mtime_ns == made
    assert lost.is_file()
    after = load_wsol(tmp_path / "out" / "test")
    assert [e.boxes.tolist() for e in after] == [e.boxes.tolist() for e in before]


def test_another_variant_is_refused(source, tmp_path):
    prepare_cub(source, tmp_path / "out")
    with pytest.raises(InputError, match="contains the variant 'squash'"):
        prepare_cub(source, tmp_path / "out", "short-side")


def test_broken_images_are_reported_and_left_out(source, tmp_path):
    path = source / "images" / trees.CUB_NAMES[1]
    path.write_bytes(path.read_bytes()[:400])
    problems = prepare_cub(source, tmp_path / "out")
    assert len(problems) == 1
    assert trees.CUB_NAMES[1] in problems[0]
    assert len(load_wsol(tmp_path / "out" / "train")) == 1


def test_other_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="is Tiny-ImageNet, expected CUB-200-2011"):
        prepare_cub(trees.tiny(tmp_path / "tiny"), tmp_path / "out")
