"""All that is fuzzed."""

from fuzz import targets_data, targets_files, targets_label, targets_runs, targets_whole

TARGETS = [
    *targets_data.TARGETS,
    *targets_files.TARGETS,
    *targets_runs.TARGETS,
    *targets_whole.TARGETS,
    *targets_label.TARGETS,
]
