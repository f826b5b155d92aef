"""heatbox in the programs that spread work over machines."""
