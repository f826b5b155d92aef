from .overlay import contact_sheet, draw_boxes, maps_beside, overlay
from .report.build import write_report

__all__ = [
    "contact_sheet",
    "draw_boxes",
    "maps_beside",
    "overlay",
    "write_report",
]
