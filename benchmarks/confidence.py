"""What is known of boxes without ground truth, and with some: the tables of docs/thresholds.md.

    python benchmarks/confidence.py runs/lite0 runs/mobilenet --method walk cam

For each run of `heatbox evaluate` and each of its maps: the score of each way to choose a threshold; area
under the ROC curve, calibration error and deciles of the confidence; coverage and area of outer boxes; and
what a threshold for each image gains. Boxes of N images are those of random images of the run, and everything
is measured on the others; means are over --splits divisions. The constants of
`heatbox.inference.confidence.EXPECTED` were fitted on the first half of a permutation of the images by
NumPy's generator of seed 0 (`--fit` fits them again); the expected confidence is measured on the second half.

    python benchmarks/confidence.py runs/lite0 runs/mobilenet runs/lite2 --method foreground-walk --across

fits the expected confidence of each map to all runs, which are of several networks on the same images, and
measures it crossed: for the images of each half and each network, with constants that were fitted to the
other half and the other networks, at the threshold .5 of `heatbox label`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heatbox.boxes.contours import boxes_at_levels, to_levels
from heatbox.boxes.ops import REFERENCE_FRAME, REFERENCE_SIDE, box_iou, scale_boxes, scaled_truth
from heatbox.evaluation.calibrate import choose_threshold, iou_curves
from heatbox.evaluation.run import Run
from heatbox.inference.boxes import map_to_boxes
from heatbox.inference.calibration import box_evidence, conformal_margin, needed_margin, outer_boxes
from heatbox.inference.confidence import (
    FEATURES,
    ConfidenceModel,
    box_features,
    expected_model,
    fit_confidence,
    is_large,
)
from heatbox.maps.normalize import normalize_heatmap
from heatbox.metrics.confidence import accuracy_by_group, area_under_roc, expected_calibration_error

GRID = np.arange(2, 96, 2) / 100
FIXED = 0.35


@dataclass
class Evidence:
    """Of one map of N images: boxes at the T thresholds of `GRID`, what is known of them, and the truth."""

    iou: np.ndarray  # (N, T), as it is scored
    boxes: np.ndarray  # (N, T, 4) in the 224 x 224 frame
    features: np.ndarray  # (N, T, 4)
    together: np.ndarray  # (N, T, 4), features in all maps of the run
    networks: np.ndarray  # (N, T, 4), features in the same map of all networks
    margins: np.ndarray  # (N, T)
    mean: np.ndarray  # (N,) whether the mean box is right

    @property
    def right(self) -> np.ndarray:
        """(N, T) whether each box reaches IoU .5."""
        return self.iou >= 0.5


def gather(run: Run, methods: list[str], others: list[dict[str, dict]]) -> dict[str, Evidence]:
    """What the tables need of the maps of a run; `others` are the records of other networks by id."""
    records = [record for batch in run.records() for record in batch]
    keys = ("boxes", "features", "together", "networks", "margins", "mean")
    columns = {name: {key: [] for key in keys} for name in methods}
    for record in records:
        size = (record["width"], record["height"])
        truth = scale_boxes(record["boxes"], size, REFERENCE_FRAME, truncate=False)
        scored = scaled_truth(record["boxes"], size, REFERENCE_FRAME, "reference")
        boxes = {name: boxes_of(record[f"map_{name}"]) for name in methods}
        every = np.concatenate(list(boxes.values()))
        features = [box_features({name: record[f"map_{name}"]}, every, REFERENCE_FRAME) for name in methods]
        for index, (name, column) in enumerate(columns.items()):
            part = slice(index * len(GRID), (index + 1) * len(GRID))
            own = features[index][part]
            together = own.copy()
            together[:, 0] = np.mean([one[part, 0] for one in features], axis=0)
            middle = map_to_boxes(record[f"map_{name}"], REFERENCE_FRAME, "mean")
            middle = np.minimum(middle if len(middle) else np.zeros((1, 4)), REFERENCE_SIDE - 1)
            column["boxes"].append(boxes[name])
            column["features"].append(own)
            networks = own.copy()
            for other in others:
                same = {name: other[record["id"]][f"map_{name}"]}
                networks[:, 0] += box_features(same, boxes[name], REFERENCE_FRAME)[:, 0]
            networks[:, 0] /= 1 + len(others)
            column["together"].append(together)
            column["networks"].append(networks)
            column["margins"].append([needed_margin(box, truth) for box in boxes[name]])
            column["mean"].append(box_iou(middle, scored, inclusive=True).max() >= 0.5)
    found = {}
    for name, column in columns.items():
        curves = iou_curves(records, name, "reference")[0]
        iou = curves[:, np.floor(GRID * curves.shape[1] + 1e-9).astype(int)]
        found[name] = Evidence(iou, **{key: np.array(values) for key, values in column.items()})
    return found


def boxes_of(raw_map: np.ndarray) -> np.ndarray:
    """(T, 4) boxes at the thresholds of `GRID`; a corner where the map is constant."""
    levels = to_levels(normalize_heatmap(raw_map, REFERENCE_SIDE), "reference")
    if not levels.top:
        return np.tile([0.0, 0.0, 1.0, 1.0], (len(GRID), 1))
    return np.concatenate(boxes_at_levels(levels, levels.at(GRID), "largest", "exact")).astype(np.float64)


def halves(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The images on which the constants were fitted, and the others."""
    order = np.random.default_rng(0).permutation(number)
    return order[: number // 2], order[number // 2 :]


def chosen_at(right: np.ndarray) -> int:
    """Index of the threshold that `heatbox calibrate` chooses on some images."""
    return choose_threshold(right)[0]


def table(title: str, heads: list[str], rows: list[list[object]]) -> None:
    """Print a table as Markdown."""
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print("| " + " | ".join(f"{one:.1f}" if isinstance(one, float) else str(one) for one in row) + " |")


def thresholds(name: str, found: Evidence, numbers: list[int], splits: int) -> list[object]:
    """Scores of the ways to choose a threshold, in percent of the images that took no part."""
    right, rng = found.right, np.random.default_rng(1)
    one, other = halves(len(right))
    across = (
        right[other, right[one].mean(0).argmax()].mean(),
        right[one, right[other].mean(0).argmax()].mean(),
    )
    row: list[object] = [name, 100 * right.mean(0).max(), 100 * float(np.mean(across))]
    row += [100 * right[:, np.searchsorted(GRID, FIXED)].mean(), 100 * found.mean.mean()]
    for number in numbers:
        scores = []
        for _ in range(splits):
            order = rng.permutation(len(right))
            scores.append(right[order[number:], chosen_at(right[order[: number // 2]])].mean())
        row.append(100 * float(np.mean(scores)))
    return [float(one) if isinstance(one, np.floating) else one for one in row]


def quality(chance: np.ndarray, right: np.ndarray) -> list[float]:
    """Accuracy, mean confidence, AUROC, calibration error and accuracy of the most confident half."""
    half = accuracy_by_group(chance, right, 2)[1][0]
    error = expected_calibration_error(chance, right)
    return [right.mean(), chance.mean(), area_under_roc(chance, right), error, half]


def confidence(
    name: str, found: Evidence, method: str, numbers: list[int], splits: int
) -> list[list[object]]:
    """Rows of the confidence of the boxes at the threshold chosen on the first half."""
    rng, (first, second) = np.random.default_rng(2), halves(len(found.iou))
    at = chosen_at(found.right[first])
    right, features = found.right[:, at], found.features[:, at]
    together, networks, rows = found.together[:, at], found.networks[:, at], []

    def add(words: str, values: list[float]) -> None:
        percent = [f"{100 * one:.1f}" for one in values]
        percent[2:4] = f"{values[2]:.3f}", f"{values[3]:.3f}"
        rows.append([name, words, *percent])

    chance = expected_model([method])(features[second])
    add("expected", quality(chance, right[second]))
    deciles = " ".join(f"{100 * one:.0f}" for one in accuracy_by_group(chance, right[second])[1])
    if not np.array_equal(together, features):
        add("expected, all maps", quality(expected_model(["", ""])(together[second]), right[second]))
    several = not np.array_equal(networks, features)
    if several:
        add("expected, networks", quality(expected_model([method, method])(networks[second]), right[second]))
    for number in numbers:
        values, groups = [], []
        for _ in range(splits):
            order = rng.permutation(len(right))
            some, others = order[:number], order[number:]
            model = fit_confidence(features[some], right[some], expected_model([method]))
            values.append(quality(model(features[others]), right[others]))
            groups.append(accuracy_by_group(model(features[others]), right[others])[1])
        add(f"{number} boxes", list(np.mean(values, 0)))
    if several:
        values = []
        for _ in range(splits):
            order = rng.permutation(len(right))
            some, others = order[: numbers[-1]], order[numbers[-1] :]
            model = fit_confidence(networks[some], right[some], expected_model([method, method]))
            values.append(quality(model(networks[others]), right[others]))
        add(f"{numbers[-1]} boxes, networks", list(np.mean(values, 0)))
    print(f"\n{name}: accuracy of deciles, expected: {deciles}")
    print(f"{name}: accuracy of deciles, {numbers[-1]} boxes: ", end="")
    print(" ".join(f"{100 * one:.0f}" for one in np.mean(groups, 0)))
    return rows


def coverage(
    name: str, found: Evidence, numbers: list[int], splits: int, wanted: float
) -> list[list[object]]:
    """Fraction of other images whose object lies in the outer box, and area of outer boxes."""
    rng, rows = np.random.default_rng(3), []
    for number in numbers:
        inside, area = [], []
        for _ in range(splits):
            order = rng.permutation(len(found.iou))
            chosen, margin_on, others = order[: number // 2], order[number // 2 : number], order[number:]
            at = chosen_at(found.right[chosen])
            margin = conformal_margin(found.margins[margin_on, at], wanted)
            inside.append((found.margins[others, at] <= margin).mean())
            outer = outer_boxes(found.boxes[others, at], REFERENCE_FRAME, margin)
            area.append((outer[:, 2:] - outer[:, :2]).prod(1).mean() / REFERENCE_SIDE**2)
        count = number - number // 2
        exact = np.ceil((count + 1) * wanted - 1e-9) / (count + 1)
        error = np.std(inside) / np.sqrt(splits)
        off = (np.mean(inside) - exact) / error
        rows.append(
            [name, number, f"{100 * exact:.1f}", f"{100 * np.mean(inside):.1f} ± {100 * error:.1f}",
             f"{off:+.1f}", f"{100 * np.std(inside):.1f}", f"{100 * np.mean(area):.0f}"]
        )  # fmt: skip
    return rows


def per_image(name: str, found: Evidence, numbers: list[int], splits: int, method: str) -> list[object]:
    """Gain of the most confident of the boxes at all thresholds over the box at one, in points."""
    rng, row = np.random.default_rng(4), [name]
    chosen = slice(int(np.searchsorted(GRID, 0.2)), int(np.searchsorted(GRID, 0.8)), 2)
    right, features = found.right[:, chosen], found.features[:, chosen]
    best = expected_model([method])(features.reshape(-1, len(FEATURES))).reshape(right.shape).argmax(1)
    row.append(f"{100 * (right[np.arange(len(right)), best].mean() - found.mean.mean()):+.1f}")
    for number in numbers:
        gains = []
        for _ in range(splits):
            order = rng.permutation(len(right))
            some, others = order[:number], order[number:]
            model = fit_confidence(
                features[some].reshape(-1, len(FEATURES)), right[some].ravel(), expected_model([method])
            )
            best = model(features[others].reshape(-1, len(FEATURES))).reshape(len(others), -1).argmax(1)
            single = found.right[others, chosen_at(found.right[some])].mean()
            gains.append(right[others, best].mean() - single)
        row.append(f"{100 * np.mean(gains):+.1f} ± {100 * np.std(gains) / np.sqrt(splits):.1f}")
    return [*row, f"{100 * found.right.any(1).mean():.1f}"]


def fit_constants(found: dict[str, Evidence]) -> None:
    """Print the constants of `EXPECTED`: of each map alone, and of all together.

    Only agreement counts, and for walks and several maps the number of borders: with area and aspect too the
    confidence is better on the same kind of photographs and worse on others and on drawings.
    """
    nothing, at = ConfidenceModel(0.0, (0.0,) * len(FEATURES)), np.searchsorted(GRID, [0.35, 0.5])

    def fitted(pairs: list[tuple[np.ndarray, np.ndarray]], counting: int) -> ConfidenceModel:
        part = halves(len(pairs[0][1]))[0]
        rows = np.concatenate([features[part][:, at].reshape(-1, len(FEATURES)) for features, _ in pairs])
        rows[:, counting:] = 0
        return fit_confidence(rows, np.concatenate([r[part][:, at].ravel() for _, r in pairs]), nothing, 1e-3)

    models = {name: fitted([(one.features, one.right)], 1 + is_large(name)) for name, one in found.items()}
    models["several"] = fitted([(one.together, one.right) for one in found.values()], 2)
    for name, model in models.items():
        print(name, round(model.intercept, 3), [round(weight, 3) for weight in model.weights], flush=True)


def across(runs: list[Path], method: str, constants: int = 2) -> None:
    """Constants of the expected confidence of a map, and its quality crossed by network and image."""
    at, scored = (0.35, 0.5), 1
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for folder in runs:
        records = [record for batch in Run(folder).records() for record in batch]
        evidence = [
            [
                box_evidence(
                    one[f"map_{method}"], method, (one["width"], one["height"]), one["boxes"], threshold
                )[0]
                for threshold in at
            ]
            for one in records
        ]
        curves = iou_curves(records, method, "reference")[0]
        right = curves[:, [int(threshold * curves.shape[1] + 1e-9) for threshold in at]] >= 0.5
        features = np.array(evidence)
        features[..., constants:] = 0
        found[folder.name] = features, right

    def fitted(parts: list[tuple[np.ndarray, np.ndarray]]) -> ConfidenceModel:
        rows = np.concatenate([features.reshape(-1, len(FEATURES)) for features, _ in parts])
        nothing = ConfidenceModel(0.0, (0.0,) * len(FEATURES))
        return fit_confidence(rows, np.concatenate([right.ravel() for _, right in parts]), nothing, 1e-3)

    rows, deciles = [], []
    for name, (features, right) in found.items():
        chance, truth = np.zeros(len(right)), right[:, scored]
        for half, other in (halves(len(right)), halves(len(right))[::-1]):
            others = [(x[other], y[other]) for key, (x, y) in found.items() if key != name]
            chance[half] = fitted(others)(features[half, scored])
        values = quality(chance, truth)
        percent = [f"{100 * one:.1f}" for one in values]
        percent[2:4] = f"{values[2]:.3f}", f"{values[3]:.3f}"
        rows.append([f"{name} {method}", *percent])
        deciles.append(
            [f"{name} {method}", *(f"{100 * one:.0f}" for one in accuracy_by_group(chance, truth)[1])]
        )
    heads = ["map", "right, %", "mean, %", "AUROC", "ECE", "most confident half, %"]
    table("Expected confidence, crossed by network and image", heads, rows)
    table("Accuracy of deciles, %", ["map", *map(str, range(1, 11))], deciles)
    model = fitted(list(found.values()))
    print(f"\nconstants of {method}: {model.intercept:.3f} {[round(one, 3) for one in model.weights]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--method", nargs="*", default=["walk", "cam"])
    parser.add_argument("--boxes", type=int, nargs="*", default=[20, 50, 100, 400])
    words = "runs of other networks on the same images, whose maps boxes are compared with too"
    parser.add_argument("--networks", type=Path, nargs="*", default=[], metavar="RUN", help=words)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--across", action="store_true", help="fit and measure over several networks")
    parser.add_argument("--fit", action="store_true", help="fit the constants without boxes, print them")
    arguments = parser.parse_args()
    if arguments.across:
        for method in arguments.method:
            across(arguments.runs, method)
        return
    numbers, splits = arguments.boxes, arguments.splits
    large = [number for number in numbers if number >= 50]
    scores, sure, covered, chosen = [], [], [], []
    others = [
        {record["id"]: record for batch in Run(folder).records() for record in batch}
        for folder in arguments.networks
    ]
    for folder in arguments.runs:
        run = Run(folder)
        methods = [name for name in arguments.method if name in run.methods()]
        found = gather(run, methods, others)
        if arguments.fit:
            fit_constants(found)
        for method, one in found.items():
            name = f"{folder.name} {method}"
            few = [number for number in numbers if number < len(one.iou) - 50]
            scores.append(thresholds(name, one, few, splits))
            sure += confidence(name, one, method, few, splits)
            covered += coverage(name, one, [n for n in large if n in few], splits, arguments.coverage)
            chosen.append(per_image(name, one, [n for n in few if n >= 100], max(splits // 10, 5), method))
    counts = [f"{number} boxes" for number in numbers]
    table("MaxBoxAcc", ["map", "oracle", "transferred", "fixed .35", "mean of .35 to .70", *counts], scores)
    heads = ["map", "confidence", "right, %", "mean, %", "AUROC", "ECE", "most confident half, %"]
    table("Confidence", heads, sure)
    heads = ["map", "boxes", "exact, %", "covered, %", "standard errors", "spread", "area, %"]
    table("Outer boxes", heads, covered)
    counts = [f"{number} boxes" for number in numbers if number >= 100]
    table(
        "A threshold for each image, gain", ["map", "expected, over the mean box", *counts, "best, %"], chosen
    )


if __name__ == "__main__":
    main()
