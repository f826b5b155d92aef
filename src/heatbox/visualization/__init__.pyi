from .overlay import contact_sheet, draw_boxes, image_grid, overlay
from .report.build import write_report

__all__ = [
    "contact_sheet",
    "draw_boxes",
    "image_grid",
    "overlay",
    "write_report",
]
