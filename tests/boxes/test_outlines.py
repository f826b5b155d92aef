"""Outlines of masks: filled again they are the mask."""

import cv2
import numpy as np
import pytest

from heatbox.boxes.outlines import mask_outline
from heatbox.errors import InputError


def filled(outline, shape):
    """Pixels whose centre is inside by the even-odd rule: crossings to the left, counted one by one."""
    (h, w), n = shape, len(outline)
    found = np.zeros(shape, bool)
    for row in range(h):
        crossings = []
        for (x1, y1), (x2, y2) in zip(outline, outline[(np.arange(n) + 1) % n], strict=True):
            if min(y1, y2) <= row + 0.5 < max(y1, y2):
                crossings.append(x1 + (row + 0.5 - y1) * (x2 - x1) / (y2 - y1))
        for column in range(w):
            found[row, column] = sum(x <= column + 0.5 for x in crossings) % 2
    return found


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_exact_outlines_of_random_masks_with_holes_and_parts():
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = rng.random(rng.integers(1, 12, 2)) < rng.random()
        if mask.any():
            assert np.array_equal(filled(mask_outline(mask, 0), mask.shape), mask)


def test_a_simplified_outline_keeps_the_box_and_misses_little():
    y, x = np.mgrid[:120, :160]
    ring = (((x - 70.0) / 60) ** 2 + ((y - 60) / 45) ** 2 < 1) & ((x - 75) ** 2 + (y - 60) ** 2 > 400)
    outline = mask_outline(ring)
    assert len(outline) < 70
    assert [*outline.min(0), *outline.max(0)] == box_of(ring)
    missed = (filled(outline, ring.shape) != ring).astype(np.uint8)
    assert not cv2.erode(missed, np.ones((3, 3))).any()  # nowhere two pixels wide
    assert missed.sum() < 0.03 * ring.sum()
    assert len(mask_outline(np.ones((7, 9), bool))) == 4


@pytest.mark.parametrize("mask", [np.zeros((3, 3), bool), np.ones(4, bool)])
def test_a_mask_without_pixels_has_no_outline(mask):
    with pytest.raises(InputError, match="expected \\(H, W\\) with a pixel inside"):
        mask_outline(mask)
