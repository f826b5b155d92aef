import numpy as np
from PIL import Image

from heatbox.report.overlay import draw_boxes, overlay


def test_overlay_keeps_the_size_and_shows_the_map():
    heat = np.zeros((4, 6), np.float32)
    heat[:, 3:] = 1
    found = np.asarray(overlay(Image.new("RGB", (60, 40), "grey"), heat)).astype(int)
    assert found.shape == (40, 60, 3)
    assert found[20, 55, 1] - found[20, 5, 1] > 80  # yellow against violet: the green channel rises


def test_overlay_of_no_strength_is_the_grey_picture():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8))
    found = np.asarray(overlay(picture, np.ones((5, 7)), strength=0))
    assert np.array_equal(found, np.asarray(picture.convert("L").convert("RGB")))


def test_boxes_are_drawn_on_a_copy():
    picture = Image.new("RGB", (50, 40), "black")
    found = np.asarray(draw_boxes(picture, np.array([[10, 5, 30, 25.0]]), (255, 0, 0)))
    assert not np.asarray(picture).any()
    red = (found == (255, 0, 0)).all(2)
    ys, xs = np.nonzero(red)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (10, 5, 30, 25)
    assert not red[12:20, 14:26].any()


def test_degenerate_boxes_do_not_fail():
    draw_boxes(Image.new("RGB", (5, 5)), np.array([[0, 0, 0, 0], [9, 9, 20, 20.0]]), (1, 2, 3))
    draw_boxes(Image.new("RGB", (5, 5)), np.zeros((0, 4)), (1, 2, 3))
