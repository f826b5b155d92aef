"""Thresholds and maps chosen without ground truth: what they lose, for docs/thresholds.md.

    python benchmarks/without_boxes.py runs/lite0 runs/mobilenet --together

For each run of `heatbox evaluate` with a random walk, and each of its maps: MaxBoxAcc and MaxBoxAccV2 at the
best threshold (oracle), at that of the other half of the images (transferred), at the fixed .35, and at the
one that is best for the mean boxes of the walk (pseudo). Then, of the maps of each run and, with --together,
of all runs on the same images: which map the agreement, the expected confidence and the score against
pseudo-boxes choose, and how far below the best of them it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from heatbox.boxes.ops import REFERENCE_FRAME
from heatbox.evaluation.pseudo import agreement, boxes_at_best, pseudo_source
from heatbox.evaluation.run import Run
from heatbox.evaluation.score import score_maps
from heatbox.evaluation.summary import EVERY, LARGEST, SplitScore
from heatbox.inference.calibration import DEFAULT_THRESHOLD
from heatbox.inference.confidence import box_features, expected_model

Key = tuple[str, str]


def at(score: SplitScore, name: str, threshold: np.ndarray | float, index: np.ndarray | slice = slice(None)):
    """Percent of some images at given thresholds; MaxBoxAcc of IoU .5."""
    bits = score.outcomes.at(name, np.broadcast_to(threshold, 3))[index]
    return 100 * float((bits[:, score.half] if name == LARGEST else bits).mean())


def across(score: SplitScore, name: str) -> float:
    """Percent of each half of the images at the thresholds that are best for the other half."""
    order = np.random.default_rng(0).permutation(len(score.outcomes.ids))
    halves, bits = np.array_split(order, 2), score.outcomes.bits(name)
    grid = score.scores[name].thresholds
    found = []
    for one, other in (halves, halves[::-1]):
        best = grid[bits[one].mean(0).argmax(1)]
        found.append(at(score, name, best[score.half] if name == LARGEST else best, other))
    return float(np.mean(found))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's."""
    return float(np.corrcoef(*(np.argsort(np.argsort(one)) for one in (first, second)))[0, 1])


def choices(title: str, reached: dict[Key, float], chosen_by: dict[str, dict[Key, float]]) -> None:
    """Print what each way to choose a map chooses, and what it loses."""
    print(f"\n{title}: " + ", ".join(f"{run} {name} {value:.1f}" for (run, name), value in reached.items()))
    keys = list(reached)
    for words, values in chosen_by.items():
        best = max(keys, key=lambda key: values[key])
        rho = rank_correlation(*(np.array([each[key] for key in keys]) for each in (values, reached)))
        lost = max(reached.values()) - reached[best]
        order = ", ".join(f"{values[key]:.3f}" for key in keys)
        text = f"{words:28s} chooses {' '.join(best):28s} loses {lost:4.1f}"
        print(f"  {text}  rank correlation {rho:+.2f} ({order})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--together", action="store_true", help="choose among the maps of all runs too")
    arguments = parser.parse_args()
    reached: dict[Key, float] = {}
    boxes: dict[Key, np.ndarray] = {}
    ways: dict[str, dict[Key, float]] = {"expected confidence": {}, "score against pseudo-boxes": {}}
    score_names = ("oracle", "transferred", "fixed", "pseudo")
    heads = [f"{LARGEST} {name}" for name in score_names] + [f"{EVERY} {name}" for name in score_names]
    print(f"| map | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for folder in arguments.runs:
        run = Run(folder)
        methods = run.methods()
        source = pseudo_source(methods, ("pseudo_boxes",), folder)
        found, images = score_maps(run, methods, 1000, "reference", pseudo=source)
        assert images.pseudo is not None
        for name in [*methods, "centre-gaussian"]:
            score, against = found[name], images.pseudo.scores[name]
            row = []
            for metric in (LARGEST, EVERY):
                one, other = score.scores[metric], against.scores[metric]
                chosen = other.threshold[score.half] if metric == LARGEST else other.threshold
                best = one.threshold[score.half] if metric == LARGEST else one.threshold
                fixed = at(score, metric, DEFAULT_THRESHOLD)
                row += [at(score, metric, best), across(score, metric), fixed, at(score, metric, chosen)]
            print(
                f"| {folder.name}, `{name}` | " + " | ".join(f"{value:.1f}" for value in row) + " |",
                flush=True,
            )
            if name in methods:
                reached[folder.name, name] = row[3]
                ways["score against pseudo-boxes"][folder.name, name] = float(
                    against.scores[LARGEST].per_iou[score.half]
                )
        right = 100 * images.pseudo.right.mean()
        print(f"| {folder.name}, mean boxes of `{source}` themselves | {right:.1f} |" + " |" * 7)
        own = {name: images.pseudo.scores[name] for name in methods}
        placed = boxes_at_best(run, own, "reference", "min-max", set(found[methods[0]].outcomes.ids))
        sure: dict[str, list[float]] = {name: [] for name in methods}
        for batch in run.records(64):
            for record in batch:
                for name in methods:
                    box = placed[name][record["id"]][None]
                    features = box_features({name: record[f"map_{name}"]}, box, REFERENCE_FRAME)
                    sure[name].append(float(expected_model([name])(features)[0]))
        for name in methods:
            ways["expected confidence"][folder.name, name] = float(np.mean(sure[name]))
            boxes[folder.name, name] = np.array([placed[name][key] for key in sorted(placed[name])])
        mine = {key: value for key, value in reached.items() if key[0] == folder.name}
        if agreeing := agreement({key: boxes[key] for key in mine}):
            choices(folder.name, mine, {"agreement": agreeing, **ways})
    if arguments.together:
        choices("together", reached, {"agreement": agreement(boxes), **ways})
        for kind in sorted({name for _, name in reached}):
            some = {key: value for key, value in reached.items() if key[1] == kind}
            if agreeing := agreement({key: boxes[key] for key in some}):
                choices(kind, some, {"agreement": agreeing, **ways})


if __name__ == "__main__":
    main()
