"""Labels become weights."""
