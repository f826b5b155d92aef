"""The sweep: which classifiers of timm, torchvision and Hugging Face have exact class maps.

    python tests/helpers/sweep.py --run                   # all models; outcomes into tests/fixtures/sweep.csv
    python tests/helpers/sweep.py --run --set timm --only vit_
    python tests/helpers/sweep.py --write docs/models.md  # the table of the documentation
    python tests/helpers/sweep.py --smallest              # the smallest model of each of timm's modules

`tests/fixtures/sweep.csv` lists the models, the side of the images and the outcome of the last run, and
tests/models/test_sweep.py checks that nothing has changed. Models of timm: the smallest of each module by
number of parameters; a model that was made for tests only where a module has no other. Weights are random,
see `helpers.random_weights`.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import map_oracles
from helpers.random_weights import scrambled, structured_images
from helpers.unchanged import assert_unchanged, logits_of, snapshot

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests/fixtures/sweep.csv"
SETS = {
    "timm": "timm, smallest model of each module",
    "torchvision": "torchvision",
    "transformers": "Hugging Face, image classifiers",
    "further": "timm, further heads",
}
CLASSES = 10  # of models that timm builds without a classifier
EXACT, APPROXIMATE, REFUSED = "exact", "approximate", "refused"


@dataclass(frozen=True)
class Case:
    """One model of the sweep.

    Attributes:
        set: a key of `SETS`; "further" are models of timm whose heads differ from that of their module's
            smallest.
        family: timm's module, torchvision's family, or the class of transformers.
        model: name that the set builds it by.
        side: of the images in pixels, the model's own but for a few that are made for more than 500.
        outcome: "exact", "approximate" or "refused: the reason".
        kind: of the class maps.
        map: height x width of the class maps.
    """

    set: str
    family: str
    model: str
    side: int
    outcome: str
    kind: str
    map: str

    @property
    def id(self) -> str:
        """Name in the list of tests."""
        return f"{self.set}:{self.model}"

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return 3, self.side, self.side


def read() -> list[Case]:
    """All models with the outcomes of the last run."""
    with FILE.open(newline="") as lines:
        return [Case(**{**row, "side": int(row["side"])}) for row in csv.DictReader(lines)]


def save(cases: Iterable[Case]) -> None:
    """Write the table of models and outcomes."""
    with FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Case))
        writer.writerows(astuple(case) for case in cases)


def _timm(name: str) -> nn.Module:
    import timm

    config = timm.get_pretrained_cfg(name)
    return timm.create_model(
        name, **({} if config is None or config.num_classes else {"num_classes": CLASSES})
    )


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, **quick)


def _transformers(name: str) -> nn.Module:
    from helpers.tiny_transformers import builders

    return builders()[name][0]()


BUILDERS: dict[str, Callable[[str], nn.Module]] = {
    "timm": _timm,
    "further": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
}


def build(case: Case, seed: int = 0) -> nn.Module:
    """The model in eval mode with random weights that all count."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scrambled(BUILDERS[case.set](case.model), case.size, seed)


# The maps of heads that read more than a mean: module, side and dimensions of the positions.
POINTS: dict[str, map_oracles.Point] = {
    "vgg11": map_oracles.Point("features", "output", (2, 3)),
    "vgg11_bn": map_oracles.Point("features", "output", (2, 3)),
    "alexnet": map_oracles.Point("features", "output", (2, 3)),
    "resnet50_clip": map_oracles.Point("stages", "output", (2, 3)),
}


@dataclass
class Measured:
    """What `measure` found.

    Attributes:
        outcome: as `Case.outcome`; "error: ..." for an exception that is not an `InputError`.
        kind: of the class maps.
        map: height x width of the class maps.
        problems: sentences; none where all is well.
        notes: numbers for a log.
    """

    outcome: str = ""
    kind: str = ""
    map: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _disturb_modes(model: nn.Module) -> None:
    """Some modules in training mode, others not: all of it has to be as it was afterwards."""
    for number, module in enumerate(model.modules()):
        module.training = number % 3 != 1


def check_maps(found: Any, logits: Tensor, targets: Tensor) -> list[str]:
    """What is wrong with class maps, given the model's own logits; an empty list if nothing is.

    Args:
        found: result of `heatbox.class_maps`.
        logits: (B, K), of the model itself.
        targets: (B,) that were asked for.
    """
    problems, batch = [], len(logits)
    maps, bias = found.maps, found.bias
    if maps.ndim != 3 or len(maps) != batch or maps.dtype != torch.float32:
        return [f"maps are {tuple(maps.shape)} {maps.dtype}"]
    if maps[0].numel() < 2:
        problems.append(f"maps have {tuple(maps.shape[1:])} positions")
    if tuple(bias.shape) != (batch,):
        return [*problems, f"bias is {tuple(bias.shape)}"]
    if not isinstance(found.exact, bool) or not isinstance(found.kind, str) or not found.kind:
        problems.append(f"exact {found.exact!r}, kind {found.kind!r}")
    if not torch.equal(found.targets.cpu(), targets):
        problems.append(f"targets {found.targets.tolist()} instead of {targets.tolist()}")
    if found.logits.shape != logits.shape:
        return [*problems, f"logits are {tuple(found.logits.shape)} instead of {tuple(logits.shape)}"]
    scale = logits.abs().amax(1).clamp_min(1e-12)
    apart = float(((found.logits - logits).abs().amax(1) / scale).max())
    if not apart <= 1e-4:
        problems.append(f"logits differ from the model's own by {apart:.1e}")
    if not bool(torch.isfinite(maps).all()):
        problems.append("maps are not finite")
    if found.exact:
        own = logits[torch.arange(batch), targets]
        apart = float(((maps.mean((1, 2)) + bias - own).abs() / scale).max())
        if not apart <= 1e-4:
            problems.append(f"mean of the map and bias differ from the logit by {apart:.1e}")
        flat = (maps.flatten(1).std(1) <= 1e-4 * scale) & (own.abs() > 1e-6 * scale)  # not a ReLU's zero
        if bool(flat.any()):
            problems.append(f"maps are flat: deviation {maps.flatten(1).std(1).tolist()}")
    return problems


def measure(case: Case, seed: int = 0, size: tuple[int, int, int] | None = None) -> Measured:
    """Class maps of one model for two images, all checks, and the same map from an oracle.

    Args:
        case: the model.
        seed: of its weights.
        size: channels, height and width of the images, if not the case's own.
    """
    import heatbox
    from heatbox.errors import InputError

    result, model = Measured(), build(case, seed)
    batch = structured_images(size or case.size, 2, 5)
    with torch.no_grad():
        logits = logits_of(model(batch))
    classes = logits.shape[1]
    _disturb_modes(model)
    before = snapshot(model, batch)
    found = None
    targets = torch.tensor([classes - 1, 1])
    try:
        found = heatbox.class_maps(model, batch, targets)
    except InputError as error:
        result.outcome = f"{REFUSED}: {error}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        result.outcome = (
            f"error: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        )
        result.problems.append(result.outcome)
    try:
        assert_unchanged(before, model, batch)
    except AssertionError as error:
        result.problems.append(f"the model was changed: {error}")
    if found is None:
        return result
    result.outcome, result.kind = EXACT if found.exact else APPROXIMATE, found.kind
    result.map = "x".join(map(str, found.maps.shape[1:]))
    result.problems += check_maps(found, logits, targets)
    model.eval()
    if found.exact and not result.problems:
        _compare(case, model, batch, found, result)
    return result


def _compare(case: Case, model: nn.Module, batch: Tensor, found: Any, result: Measured) -> None:
    """The map beside that of the frozen gradient."""
    positions = found.maps[0].numel()
    point = POINTS.get(case.model) or map_oracles.find_mean(model, batch, positions)
    if point is None:
        result.problems.append(f"no tensor of {positions} positions whose mean the logits read, and no point")
        return
    if case.model in POINTS:
        with torch.no_grad():
            own = map_oracles.positions(model, batch, point)
        if own != positions:
            result.problems.append(f"maps of {result.map} where the last map has {own} positions")
            return
    oracle = map_oracles.frozen_map(model, batch, found.targets, point, positions)
    apart = map_oracles.difference(found.maps, oracle)
    result.notes.append(f"oracle at {point.at}: {apart:.1e}")
    if not apart <= 2e-3:
        result.problems.append(f"the map differs from the frozen gradient's by {apart:.1e} at {point}")


def counts(cases: Sequence[Case]) -> dict[str, Counter[str]]:
    """Number of models of each set by the first word of their outcome."""
    return {name: Counter(case.outcome.split(":")[0] for case in cases if case.set == name) for name in SETS}


def smallest() -> list[tuple[str, str]]:
    """Each of timm's modules and its smallest model, counted without allocating the parameters."""
    import timm

    best: dict[str, tuple[bool, int, str]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__
        if not module.startswith("timm.models."):
            continue
        with torch.device("meta"):
            number = sum(values.numel() for values in timm.create_model(name).parameters())
        key = (name.startswith("test_"), number, name)
        best[module] = min(best.get(module, key), key)
    return [(module.removeprefix("timm.models."), name) for module, (_, _, name) in sorted(best.items())]


MARKS = ("<!-- sweep: written by tests/helpers/sweep.py -->", "<!-- end of the sweep -->")


def _row(case: Case) -> tuple[int, str]:
    """Place of the outcome, and the kind of the map or why there is none."""
    word, _, reason = case.outcome.partition(": ")
    sentence = reason.removeprefix(case.model).lstrip(": ")
    return (EXACT, APPROXIMATE, REFUSED).index(word), case.kind or sentence


def table(cases: Sequence[Case]) -> str:
    """The tables of the documentation: counts of each set, then the models by kind of map.

    Families of the most frequent kind are counted, those of all other kinds are named.
    """
    shown = [name for name in SETS if name != "further"]
    found = counts(cases)
    lines = ["| | models | exact | approximate | refused |", "|---|---|---|---|---|"]
    for name in shown:
        number = found[name]
        cells = (number.total(), number[EXACT], number[APPROXIMATE], number[REFUSED])
        lines.append(f"| {SETS[name]} | {' | '.join(map(str, cells))} |")
    rows: dict[tuple[int, str], list[Case]] = {}
    for case in cases:
        if case.set in shown:
            rows.setdefault(_row(case), []).append(case)
    largest = max(rows, key=lambda key: len(rows[key]))
    lines += ["", f"| map | {' | '.join(SETS[name].split(',')[0] for name in shown)} |", "|---|---|---|---|"]
    for (place, kind), members in sorted(rows.items(), key=lambda row: (row[0][0], -len(row[1]))):
        cells = []
        for name in shown:
            families = [case.family for case in members if case.set == name]
            many = (place, kind) == largest
            cells.append(f"{len(families)} families" if many else ", ".join(families) or "–")
        lines.append(f"| {(EXACT, APPROXIMATE, REFUSED)[place]}: {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(page: Path, cases: Sequence[Case]) -> None:
    """Replace what stands between the two marks of a page."""
    text = page.read_text()
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    page.write_text(f"{before}{MARKS[0]}\n{table(cases)}\n{MARKS[1]}{after}")


def main() -> None:
    """Run the sweep, or write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--set", default="", choices=["", *SETS])
    parser.add_argument("--only", default="", help="part of the names of models")
    parser.add_argument("--keep", action="store_true", help="do not write the outcomes")
    parser.add_argument("--write", type=Path, help="page of the documentation")
    parser.add_argument("--smallest", action="store_true")
    args = parser.parse_args()
    cases = read()
    if args.smallest:
        for row in smallest():
            print(",".join(map(str, row)))
    for index, case in enumerate(cases):
        if not args.run or (args.set and case.set != args.set) or args.only not in case.model:
            continue
        began = time.perf_counter()
        found = measure(case)
        notes = [*found.notes, f"{time.perf_counter() - began:.0f} s"]
        print(f"{case.id}: {found.outcome} [{found.kind}] {'; '.join(notes)}")
        for problem in found.problems:
            print(f"    PROBLEM {problem}")
        sys.stdout.flush()
        cases[index] = replace(case, outcome=found.outcome, kind=found.kind, map=found.map)
        if not args.keep and not found.outcome.startswith("error"):
            save(cases)
    if args.write:
        write_table(args.write, cases)


if __name__ == "__main__":
    main()
