"""Boxes and masks become numbers."""
