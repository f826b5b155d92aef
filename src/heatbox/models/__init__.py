"""A classifier we can see through."""
