"""Figures, tables, overlays and the report page."""
