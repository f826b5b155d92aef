"""Heatmaps become boxes."""
