"""Figures as pure functions of saved numbers: each returns a matplotlib Figure and its numbers as a table."""
