"""heatbox: weakly supervised object localization."""
