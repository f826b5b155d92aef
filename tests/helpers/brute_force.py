"""The evaluation procedure as it is written down: binarise, trace contours, compare, 1000 times over."""

import cv2
import numpy as np


def contour_boxes(binary, contours):
    """(K, 4) inclusive pixel boxes of a binary image's contours, or of the largest one."""
    found = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if len(found) == 0:
        return None
    if contours == "largest":
        found = [max(found, key=cv2.contourArea)]
    rows = [cv2.boundingRect(contour) for contour in found]
    return np.array([(x, y, x + w - 1, y + h - 1) for x, y, w, h in rows])


def reference_levels(heatmap, contours):
    """{level: (K, 4) boxes (x, y, min(x + w, W - 1), min(y + h, H - 1))} for every level below the top."""
    image = (np.asarray(heatmap, np.float64) * 255).astype(np.uint8)
    height, width = image.shape
    result = {}
    for level in range(int(image.max())):
        binary = cv2.threshold(image, level, 255, cv2.THRESH_BINARY)[1]
        boxes = contour_boxes(binary, contours)
        boxes[:, 2] = np.minimum(boxes[:, 2] + 1, width - 1)
        boxes[:, 3] = np.minimum(boxes[:, 3] + 1, height - 1)
        result[level] = boxes
    return result, int(image.max())


def exact_levels(heatmap, contours):
    """[(value, (K, 4) half-open boxes of {heatmap > value * maximum})] for zero and every distinct value."""
    relative = np.asarray(heatmap, np.float64)
    if relative.max() == 0:
        return []
    relative = relative / relative.max()
    result = []
    for value in np.unique(np.append(relative, 0))[:-1]:
        boxes = contour_boxes((relative > value).astype(np.uint8), contours)
        result.append((value, np.add(boxes, (0, 0, 1, 1))))
    return result


def iou(boxes, truth, one):
    """(N, K) IoU; `one` is 1 where boxes include their last pixel."""
    boxes, truth = np.asarray(boxes)[:, None], np.asarray(truth)[None]
    w = np.minimum(boxes[..., 2], truth[..., 2]) - np.maximum(boxes[..., 0], truth[..., 0]) + one
    h = np.minimum(boxes[..., 3], truth[..., 3]) - np.maximum(boxes[..., 1], truth[..., 1]) + one
    shared = np.where((w > 0) & (h > 0), w * h, 0)
    area, other = (
        (b[..., 2] - b[..., 0] + one) * (b[..., 3] - b[..., 1] + one) for b in (boxes, truth)
    )  # fmt: skip
    union = area + other - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0)


def reference_curves(heatmap, boxes, image_size, thresholds):
    """(2, T) best IoU at every threshold by the largest contour and by all, straight from the protocol."""
    width, height = map(float, image_size)
    truth = [
        (int(x0 * 224.0 / width), int(y0 * 224.0 / height), int(x1 * 224.0 / width), int(y1 * 224.0 / height))
        for x0, y0, x1, y1 in np.asarray(boxes, float)
    ]
    image = (np.asarray(heatmap, np.float64) * 255).astype(np.uint8)
    top = int(image.max())
    best = np.zeros((2, max(top, 1)))
    best[:] = iou([(0, 0, 0, 0)], truth, 1).max()
    for level in range(top):
        binary = cv2.threshold(image, level, 255, cv2.THRESH_BINARY)[1]
        found = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        boxes = np.array([cv2.boundingRect(contour) for contour in found])
        ends = np.minimum(boxes[:, :2] + boxes[:, 2:], [image.shape[1] - 1, image.shape[0] - 1])
        scores = iou(np.concatenate([boxes[:, :2], ends], axis=1), truth, 1).max(1)
        largest = max(range(len(found)), key=lambda k: cv2.contourArea(found[k]))
        best[:, level] = scores[largest], scores.max()
    return best[:, [int(tau * np.uint8(top)) for tau in np.arange(thresholds) * (1 / thresholds)]]
