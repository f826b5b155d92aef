"""Instruments: what it is about a backbone that makes its maps good or bad."""
