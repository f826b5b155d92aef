"""Feature maps become a heatmap."""
