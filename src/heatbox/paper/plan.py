"""The steps of a scale: trainings, evaluations, instruments, every table and figure, and the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from heatbox.analysis.config import AllConfig
from heatbox.config import EvaluateConfig
from heatbox.models.factory import PRETRAINED
from heatbox.paper import work
from heatbox.paper.steps import Artifact, Cost, Input, Step
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.weights import PUBLISHED
from heatbox.visualization.report.build import PageFigure


@dataclass(frozen=True)
class Network:
    """A model that the plan trains, or uses with its published weights.

    Attributes:
        config: of its training; for a published one, of a training that starts from it.
        name: its name in figures, steps and folders; by default the recipe's.
        start: name of the network of the plan from whose weights its training starts; "" for none.
        trained: whether the plan trains it.
        inputs: files that its training needs.
    """

    config: TrainConfig
    name: str = ""
    start: str = ""
    trained: bool = True
    inputs: tuple[Input, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.config.recipe)

    @property
    def published(self) -> str:
        """The checkpoint of its published weights."""
        return PRETRAINED if self.config.pretrained == PUBLISHED else self.config.pretrained


@dataclass(frozen=True)
class Scale:
    """The settings in which plans differ.

    Attributes:
        name: of the scale.
        networks: those whose scores are compared (Fig. 13 left, Fig. 14), in the order of the figures.
        support: networks that others start from, or that Fig. 13 right shows; trained or published.
        main: names of the three that the paper analyses: its best of each family.
        others: names of the three for which it repeats two of the analyses (Fig. 18, 19).
        second: names of networks scored on the second data set (Fig. 13 right).
        biased: names of networks whose shape bias is measured (Fig. 16, 17).
        evaluation: data and options of the evaluations; model and checkpoint are filled in.
        second_evaluation: the same for the second data set.
        analysis: data and options of the instruments.
        options: of the trainings.
        preparation: steps that make the data, before all others.
        data, second_data, stimuli: inputs of evaluations and instruments.
        cost: (network, kind of work) → cost; the kind is "train", "evaluate", "second", or the name of an
            analysis step.
        title: of the page.
        shown: maximum number of images in the page's explorer.
    """

    name: str
    networks: tuple[Network, ...]
    support: tuple[Network, ...]
    main: tuple[str, ...]
    others: tuple[str, ...]
    second: tuple[str, ...]
    biased: tuple[str, ...]
    evaluation: EvaluateConfig
    second_evaluation: EvaluateConfig
    analysis: AllConfig
    options: TrainOptions
    cost: Callable[[Network, str], Cost]
    title: str
    preparation: tuple[Step, ...] = ()
    data: tuple[Input, ...] = ()
    second_data: tuple[Input, ...] = ()
    stimuli: tuple[Input, ...] = ()
    shown: int = 40

    def network(self, name: str) -> Network:
        """The network of a name."""
        return next(one for one in (*self.networks, *self.support) if one.name == name)


def make_plan(scale: Scale, out: Path) -> list[Step]:
    """The steps of a scale, each after those it depends on.

    Args:
        scale: what to make.
        out: folder of all output.
    """
    plan = _Plan(scale, out)
    steps = [*scale.preparation, *plan.trainings(), *plan.evaluations(), *plan.instruments()]
    steps += [*plan.sheets(), *plan.tables(steps)]
    return [*steps, plan.page(steps)]


@dataclass(frozen=True)
class _Plan:
    scale: Scale
    out: Path

    # ---------------------------------------------------------------------------- folders and configurations

    def _training(self, name: str) -> Path:
        return self.out / "training" / name

    def _run(self, name: str) -> Path:
        return self.out / "runs" / name

    def _figure(self, stem: str) -> Path:
        return self.out / "figures" / f"{stem}.png"

    def _analysed(self, networks: Sequence[Network]) -> AllConfig:
        """The configuration of an analysis of some networks, without the shape bias."""
        models = [str(self._training(one.name)) if one.trained else one.config.model for one in networks]
        return dataclasses.replace(
            self.scale.analysis,
            model=tuple(models),
            checkpoint=tuple(work.BEST if one.trained else one.published for one in networks),
            label=tuple(one.name for one in networks),
            stimuli="",
        )

    def _step(
        self,
        name: str,
        title: str,
        work: partial[None],
        networks: Sequence[Network],
        data: tuple[Input, ...],
        kind: str = "",
        **made: Any,
    ) -> Step:
        """A step for some networks on some data; its cost is that of a kind of work for all of them."""
        needs = [step.name for step in self.scale.preparation]
        needs += [f"train-{network.name}" for network in networks if network.trained]
        inputs = [one for network in networks if not network.trained for one in network.inputs]
        costs = [self.scale.cost(network, kind) for network in networks] if kind else [Cost()]
        known = all(cost.seconds is not None for cost in costs)
        cost = Cost(sum(cost.seconds or 0 for cost in costs) if known else None, costs[0].basis)
        return Step(name, title, work, needs=tuple(needs), inputs=(*data, *inputs), cost=cost, **made)

    # ------------------------------------------------------------------------------------------ steps

    def trainings(self) -> list[Step]:
        """A step for each trained network, those first that others start from."""
        return [
            Step(
                f"train-{network.name}",
                f"train {network.name}" + (f" from {network.start}" if network.start else ""),
                partial(
                    work.train_network,
                    network.config,
                    self._training(network.name),
                    self._training(network.start) if network.start else None,
                    self.scale.options,
                ),
                outputs=(self._training(network.name) / "training.json",),
                needs=(
                    *(step.name for step in self.scale.preparation),
                    *((f"train-{network.start}",) if network.start else ()),
                ),
                inputs=network.inputs,
                cost=self.scale.cost(network, "train"),
            )
            for network in (*self.scale.support, *self.scale.networks)
            if network.trained
        ]

    def evaluations(self) -> list[Step]:
        """Maps and scores of every network on the test images, and of some on the second data set."""
        scale, steps = self.scale, []
        for kind, folder, asked, data, names in (
            ("evaluate", "runs", scale.evaluation, scale.data, self._own()),
            ("second", "second", scale.second_evaluation, scale.second_data, scale.second),
        ):
            for network in map(scale.network, names):
                config = dataclasses.replace(
                    asked,
                    model=network.config.model,
                    checkpoint=None if network.trained else network.published,
                    model_options=dict(network.config.model_options),
                )
                training = self._training(network.name) if network.trained else None
                out = self.out / folder / network.name
                steps.append(
                    self._step(
                        f"{kind}-{network.name}",
                        f"maps and scores of {network.name} on {asked.data or 'the second data set'}",
                        partial(work.evaluate_network, config, training, out),
                        [network],
                        data,
                        kind,
                        outputs=(out / "metrics.json",),
                    )
                )
        return steps

    def _own(self) -> tuple[str, ...]:
        return tuple(network.name for network in self.scale.networks)

    def instruments(self) -> list[Step]:
        """Every instrument over the networks for which the paper shows it."""
        main, others = self.scale.main, self.scale.others
        rest = tuple(name for name in self._own() if name not in main)
        data = self.scale.data
        return [
            self._instrument("erf", ("erf",), main, data, _FIELDS),
            self._instrument("erf-others", ("erf",), rest, data, ()),
            self._instrument("channels", _CHANNEL_INSTRUMENTS, main, data, _CHANNELS),
            self._instrument("channels-others", _CHANNEL_INSTRUMENTS, others, data, _CHANNELS_OTHERS),
            self._instrument("maps", ("signed-cam", "thresholds"), main, data, _SIGNED),
            self._instrument("complexity", ("complexity",), main, data, _COMPLEXITY),
            self._instrument("shape-bias", ("shape-bias",), self.scale.biased, self.scale.stimuli, _BIAS),
        ]

    def _instrument(
        self,
        name: str,
        instruments: tuple[str, ...],
        names: tuple[str, ...],
        inputs: tuple[Input, ...],
        made: tuple[tuple[str, str, str], ...],
    ) -> Step:
        out = self.out / "analysis" / name
        networks = [self.scale.network(one) for one in names]
        config = self._analysed(networks)
        if "shape-bias" in instruments:
            config = dataclasses.replace(config, stimuli=self.scale.analysis.stimuli)
        return self._step(
            name,
            f"{name} of {', '.join(names)}",
            partial(work.analyse, instruments, config, out),
            networks,
            inputs,
            kind=name,
            artifacts=tuple(
                Artifact(paper, title, out / "figures" / f"{stem.format(self.scale.analysis.group[0])}.png")
                for paper, stem, title in made
            ),
            outputs=(out / "comparison.json",),
        )

    def sheets(self) -> list[Step]:
        """Contact sheets of maps, and of the channels behind CAM."""
        runs = {name: self._run(name) for name in self.scale.main}
        networks = [self.scale.network(name) for name in self.scale.main]
        sheet, parts = self._figure("maps"), self._figure("cam-parts")
        return [
            Step(
                "pictures",
                "CAM and PC1 of the same images by the main networks",
                partial(work.draw_contact_sheet, runs, self.scale.evaluation.data, sheet),
                artifacts=(Artifact("Fig. 3 and 7", "CAM and PC1 of the same images", sheet),),
                needs=tuple(f"evaluate-{name}" for name in runs),
            ),
            self._step(
                "cam-parts",
                "channels of high and low weight, and the CAM of each sign",
                partial(work.draw_cam_parts, self._analysed(networks), parts),
                networks,
                self.scale.data,
                artifacts=(Artifact("Fig. 2 and 15", "How CAM is made, and its two problems", parts),),
            ),
        ]

    def tables(self, steps: list[Step]) -> list[Step]:
        """Tables and figures of the scores of all networks."""
        runs = {f"evaluate-{name}": self._run(name) for name in self._own()}
        seconds = {f"second-{name}": self.out / "second" / name for name in self.scale.second}
        erfs = {name: self.out / "analysis" / name for name in ("erf", "erf-others")}
        drawn = [
            self._table("scores-cam", "per-model-cam", runs, {}, "Fig. 13 left", "Scores per model, CAM"),
            self._table("scores-pc1", "per-model-pc1", runs, {}, "", "Scores per model, PC1"),
            self._table("scores-second", "per-model-cam", seconds, {}, "Fig. 13 right", _SECOND),
            self._table("erf-cam", "against-erf-cam", runs, erfs, "Fig. 10b and 14", _AGAINST.format("CAM")),
            self._table("erf-pc1", "against-erf-pc1", runs, erfs, "", _AGAINST.format("PC1")),
            self._table("pc1-against-cam", "pc1-against-cam", runs, {}, "Table 3", _COMPARED),
            self._table("all-scores", "all", runs, {}, "", "Scores of every model and map"),
        ]
        analyses = [step for step in steps if step.work.func is work.analyse]
        folders = [self.out / "analysis" / step.name for step in analyses if "others" not in step.name]
        headlines = self._figure("headlines")
        return [
            *drawn,
            Step(
                "headlines",
                "headline numbers of all instruments",
                partial(work.draw_headlines, folders, headlines),
                artifacts=(Artifact("", "Headline numbers of all instruments", headlines),),
                after=tuple(step.name for step in analyses),
            ),
        ]

    def _table(
        self, stem: str, figure: str, runs: dict[str, Path], erfs: dict[str, Path], paper: str, title: str
    ) -> Step:
        out = self._figure(stem)
        starts = {one.name: one.config for one in self.scale.support if not one.trained}
        folders = list(runs.values()), list(erfs.values())
        return Step(
            f"figure-{stem}",
            title,
            partial(work.draw_scores, *folders, starts, figure, out),
            artifacts=(Artifact(paper, title, out),),
            after=(*runs, *erfs),
        )

    def page(self, steps: list[Step]) -> Step:
        """The page with everything that was made."""
        made = sorted(
            (one for step in steps for one in step.artifacts), key=lambda one: _place_in_paper(one.paper)
        )
        figures = [
            PageFigure(f"{one.paper}: {one.title}" if one.paper else one.title, one.file) for one in made
        ]
        out = self.out / "paper.html"
        runs = [self._run(name) for name in self._own()]
        explored = [self._run(name) for name in self.scale.main]
        return Step(
            "page",
            "one page with every table and figure",
            partial(work.write_page, runs, explored, figures, out, self.scale.title, self.scale.shown),
            outputs=(out,),
            after=tuple(step.name for step in steps if step.artifacts or step.name.startswith("evaluate-")),
        )


def _place_in_paper(paper: str) -> tuple[bool, str, float]:
    """Sort key: figures by number, then tables, then those without a number in the paper."""
    digits = "".join(sign for sign in paper.split(" and ")[0] if sign.isdigit())
    return paper == "", paper[:3], float(digits or 0)


_CHANNEL_INSTRUMENTS = ("activation", "class-weights")
# (number in the paper, stem of the instrument's figure, title)
_FIELDS = (
    ("Fig. 10a", "erf-curves", "Effective receptive fields: area ratio r(t)"),
    ("", "erf-heatmaps", "Effective receptive fields: contribution of every pixel"),
    ("", "erf-positions", "Effective receptive fields of positions away from the centre"),
)
_CHANNELS = (
    ("Fig. 5", "area-weight", "Activation area and class weight, main networks"),
    ("Fig. 12", "gap-weight", "Spatial mean and class weight, trained and random head, main networks"),
    ("", "area-weight-classes", "Activation area and class weight within each class"),
    ("", "gap-weight-control", "Spatial mean and class weight: the random head as control"),
)
_CHANNELS_OTHERS = (
    ("Fig. 18", "area-weight", "Activation area and class weight, other networks"),
    ("Fig. 19", "gap-weight", "Spatial mean and class weight, trained and random head, other networks"),
)
_SIGNED = (
    ("", "signed-cam-scores", "CAM from positive, from negative and from all weights: scores"),
    ("", "signed-cam-areas", "CAM from positive, from negative and from all weights: areas"),
    ("", "thresholds", "Score at every threshold, CAM and PC1"),
)
_COMPLEXITY = (
    ("Fig. 8", "explained-variance", "Complexity of feature maps: explained variance"),
    ("Fig. 20", "reconstruction", "Complexity of feature maps: reconstruction error of dictionaries"),
)
_BIAS = (
    ("Fig. 16", "shape-bias", "Shape bias"),
    ("Fig. 17", "erf-groups-{}", "Receptive fields of images classified by shape and by texture"),
)
_SECOND = "Scores per model on the data of the pre-training, CAM"
_AGAINST = "Score of {} against the area under r(t)"
_COMPARED = "PC1 against CAM, with thresholds"
