"""From images to boxes."""
