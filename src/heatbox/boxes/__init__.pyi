from .contours import heatmap_to_boxes, threshold_grid
from .ops import box_iou, scale_boxes

__all__ = [
    "box_iou",
    "heatmap_to_boxes",
    "scale_boxes",
    "threshold_grid",
]
