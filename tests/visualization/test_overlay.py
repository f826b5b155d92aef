import tracemalloc

import numpy as np
import pytest
from PIL import Image

from heatbox.config import EvaluateConfig
from heatbox.data.open import open_split
from heatbox.errors import InputError
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run
from heatbox.visualization.overlay import (
    FOUND_COLOUR,
    TRUTH_COLOUR,
    BoxedMap,
    Cell,
    _map_cell,
    _truncated,
    contact_sheet,
    draw_boxes,
    image_grid,
    map_row,
    overlay,
    save_sheet,
)
from helpers.scenes import write_model, write_split


def test_overlay_keeps_the_size_and_shows_the_map():
    heat = np.zeros((4, 6), np.float32)
    heat[:, 3:] = 1
    found = np.asarray(overlay(Image.new("RGB", (60, 40), "grey"), heat)).astype(int)
    assert found.shape == (40, 60, 3)
    assert found[20, 55, 1] - found[20, 5, 1] > 80  # yellow against violet: the green channel rises


def test_overlay_of_no_strength_is_the_grey_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8))
    found = np.asarray(overlay(image, np.ones((5, 7)), strength=0))
    assert np.array_equal(found, np.asarray(image.convert("L").convert("RGB")))


def test_an_overlay_needs_no_more_than_a_few_times_its_image():
    """Pictures of a hundred megapixels and more come from satellites and slides."""
    image, heatmap = Image.new("RGB", (1000, 1000)), np.random.default_rng(0).random((7, 7))
    tracemalloc.start()
    try:
        overlay(image, heatmap)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1000 * 1000


def test_boxes_are_drawn_on_a_copy():
    image = Image.new("RGB", (50, 40), "black")
    found = np.asarray(draw_boxes(image, np.array([[10, 5, 30, 25.0]]), (255, 0, 0)))
    assert not np.asarray(image).any()
    red = (found == (255, 0, 0)).all(2)
    ys, xs = np.nonzero(red)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (10, 5, 30, 25)
    assert not red[12:20, 14:26].any()


def test_lines_stay_thin_on_a_long_strip():
    found = np.asarray(
        draw_boxes(Image.new("RGB", (20_000, 20)), np.array([[10, 5, 19_000, 15.0]]), (255, 0, 0))
    )
    assert not (found[10, 100:18_000] == (255, 0, 0)).all(1).any()


def test_degenerate_boxes_do_not_fail():
    draw_boxes(Image.new("RGB", (5, 5)), np.array([[0, 0, 0, 0], [9, 9, 20, 20.0]]), (1, 2, 3))
    draw_boxes(Image.new("RGB", (5, 5)), np.zeros((0, 4)), (1, 2, 3))


def coloured(image, colour):
    """The extremes x1, y1, x2, y2 of the pixels of a colour; None without any."""
    ys, xs = np.nonzero((np.asarray(image) == colour).all(2))
    return (xs.min(), ys.min(), xs.max(), ys.max()) if len(xs) else None


def test_a_row_has_the_image_and_each_map_in_its_proportions():
    image, heat = Image.new("RGB", (400, 200)), np.zeros((7, 7), np.float32)
    maps = [
        BoxedMap(heat, np.array([[0, 0, 100, 100.0]]), "cam"),
        BoxedMap(heat, np.array([[200, 100, 300, 150.0]]), "walk 0.91"),
    ]
    first, *rest = map_row(image, "cat", maps, 100)
    assert [cell.label for cell in (first, *rest)] == ["cat", "cam", "walk 0.91"]
    assert {cell.image.size for cell in (first, *rest)} == {(100, 50)}
    assert coloured(first.image, FOUND_COLOUR) == (50, 25, 75, 37)  # the boxes of the last map
    assert [coloured(cell.image, FOUND_COLOUR) for cell in rest] == [(0, 0, 25, 25), (50, 25, 75, 37)]
    first, *rest = map_row(image, "cat", maps, 100, np.array([[40, 20, 80, 60.0]]))
    assert coloured(first.image, FOUND_COLOUR) is None
    assert coloured(first.image, TRUTH_COLOUR) == (10, 5, 20, 15)
    assert coloured(rest[1].image, TRUTH_COLOUR) == (10, 5, 20, 15)


def test_a_row_of_a_grid_is_as_high_as_its_highest_image():
    wide, square = Image.new("RGB", (40, 10), "red"), Image.new("RGB", (40, 40), "blue")
    sheet = image_grid([[Cell(wide, "")] * 2, [Cell(square, ""), Cell(wide, "")]], 40, "", ["a", "b"])
    assert sheet.size == (2 * 40 + 3 * 6 + 6, 18 + (10 + 18 + 6) + (40 + 18 + 6) + 6 + 18)
    assert coloured(sheet, (0, 0, 255)) == (6, 18 + 34 + 6, 45, 18 + 34 + 45)
    below = sheet.crop((46, 18 + 34 + 6, 86, 18 + 34 + 46))
    assert coloured(below, (255, 0, 0)) == (0, 30, 39, 39)  # above its label


def test_a_long_name_of_a_map_does_not_hide_its_iou():
    box = np.array([[1, 1, 3, 3.0]])
    record = {
        "width": 4,
        "height": 4,
        "boxes": box,
        "map_foreground-walk": np.eye(3),
        "iou_foreground-walk": 0.5,
    }
    cell = _map_cell(record | {"box_foreground-walk": box}, Image.new("RGB", (32, 32)), "foreground-walk")
    assert cell.label.startswith("IoU 0.50")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    data, model = str(write_split(folder / "set", 6)), write_model(folder)
    for name, limit in (("one", None), ("two", None), ("fewer", 3)):
        evaluate(EvaluateConfig(model, data, size=64, method=("cam", "pc1"), limit=limit), Run(folder / name))
    return folder, open_split(data)


def test_the_same_images_of_several_runs_beside_each_other(two_runs):
    folder, split = two_runs
    runs = {name: Run(folder / name).records() for name in ("one", "two")}
    sheet = contact_sheet(runs, split, ("cam", "pc1"), 4, 32)
    # A row an image, the truth and two maps of each run, margins, captions, a heading and a line below.
    assert sheet.size == (5 * 32 + 3 * 6 + 6, 18 + 4 * (32 + 18 + 6) + 6 + 18)
    left, right = (np.asarray(sheet)[24:56, 6 + k * 32 : 6 + (k + 1) * 32] for k in (1, 3))
    assert np.array_equal(left, right)  # both runs are of one network
    runs = {name: Run(folder / name).records() for name in ("one", "fewer")}
    with pytest.raises(InputError, match="fewer: contains no image"):
        contact_sheet(runs, split, ("cam",), 6, 32)


def test_a_sheet_of_256_colours_looks_like_the_sheet(two_runs, tmp_path):
    folder, split = two_runs
    sheet = contact_sheet({"one": Run(folder / "one").records()}, split, ("cam",), 3, 64)
    with Image.open(save_sheet(sheet, tmp_path / "deep" / "sheet.png")) as saved:
        difference = np.asarray(saved.convert("RGB"), float) - np.asarray(sheet, float)
    assert np.sqrt((difference**2).mean()) < 4


def test_long_labels_are_shortened_with_few_measurements():
    class Counting:
        calls = 0

        def getlength(self, text):
            self.calls += 1
            return 7.0 * len(text)

    font = Counting()
    assert _truncated("x" * 10_000, 100, font) == "x" * 13 + "…"
    assert font.calls < 20
    assert _truncated("x" * 14, 98, font) == "x" * 14
    assert _truncated("x" * 15, 98, font) == "x" * 13 + "…"
    assert _truncated("xx", 3, font) == "…"
