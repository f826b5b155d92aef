"""The report: one HTML page about runs and analyses."""
