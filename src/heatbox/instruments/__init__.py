"""The instruments as work over data sets: measure, save what was measured, draw it, for several networks.

`heatbox.analysis` has the pure functions, `heatbox.report.figures` the figures; here they meet the run
folder.
"""
