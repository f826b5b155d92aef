"""Figures that compare models: the numbers they return, and that they can be drawn."""

import io

import numpy as np
import pytest

from heatbox.errors import InputError
from heatbox.training.recipes import RECIPES, get_recipe
from heatbox.visualization.figures.scores import (
    ModelScore,
    arrows_between,
    correlation,
    maps_compared,
    score_against_erf,
    scores_per_model,
)
from heatbox.visualization.report.models import describe


def entry(first, second, threshold=0.3):
    return {
        "MaxBoxAcc": first,
        "MaxBoxAcc_interval": [first - 2, first + 1],
        "MaxBoxAccV2": second,
        "MaxBoxAccV2_interval": [second - 1, second + 2],
        "threshold": threshold,
    }


def model(name, value, resolution=224, pretraining="in1k", **more):
    scores = {"cam": entry(value, value - 10), "pc1": entry(value + 3, value - 5, 0.25)}
    return ModelScore(name, scores, "net", resolution, pretraining, "b", **more)


MODELS = [
    model("small", 60.0, auc=0.2),
    model("large", 70.0, 384, auc=0.3),
    model("large_22k", 65.0, 384, "in22k", auc=0.35),
    model("small_aug", 62.0, augmented=True, auc=0.1),
    model("large_aug", 75.0, 384, augmented=True, auc=0.4),
]


def test_arrows_join_models_that_differ_in_one_thing():
    assert arrows_between(MODELS) == [(0, 1, "resolution"), (3, 4, "resolution"), (1, 2, "pretraining")]


def drawable(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return len(stream.getvalue()) > 5000


def test_scores_per_model():
    figure, rows = scores_per_model(MODELS)
    assert drawable(figure)
    assert [row["value"] for row in rows[:5]] == [60, 70, 65, 62, 75]
    assert [row["value"] for row in rows[5:]] == [50, 60, 55, 52, 65]
    assert (rows[0]["low"], rows[0]["high"]) == (58, 61)
    assert rows[0]["resolution_arrow_to"] == rows[5]["resolution_arrow_to"] == "large"
    assert rows[1]["pretraining_arrow_to"] == "large_22k"
    assert [row["augmented"] for row in rows[:5]] == [False, False, False, True, True]


def test_score_against_receptive_field():
    figure, rows = score_against_erf(MODELS)
    assert drawable(figure)
    wanted = np.corrcoef([0.2, 0.3, 0.35, 0.1, 0.4], [60, 70, 65, 62, 75])[0, 1]
    found = rows[5]
    assert found["value"] == pytest.approx(wanted)
    assert found["low"] <= wanted <= found["high"] <= 1
    few = score_against_erf(MODELS[:2])[1][2]
    assert few["value"] == pytest.approx(1)
    assert np.isnan(few["low"])
    with pytest.raises(InputError, match="no model has both a score and a receptive field"):
        score_against_erf([model("x", 3.0)])


def test_the_interval_of_a_correlation_holds_the_truth_as_often_as_stated():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(120):
        x = rng.normal(size=40)
        low, high = correlation(x, 0.6 * x + 0.8 * rng.normal(size=40), 400, seed)[1:]
        inside += low <= 0.6 <= high
    assert 0.85 <= inside / 120 <= 1


def test_values_that_do_not_vary_have_no_correlation():
    assert np.isnan(correlation(np.ones(6), np.arange(6.0))).all()


def test_maps_compared():
    figure, rows = maps_compared(MODELS)
    assert drawable(figure)
    assert rows[0] == {
        "model": "small",
        "cam_MaxBoxAcc": 60,
        "cam_MaxBoxAccV2": 50,
        "cam_threshold": 0.3,
        "pc1_MaxBoxAcc": 63,
        "pc1_MaxBoxAccV2": 55,
        "pc1_threshold": 0.25,
        "MaxBoxAcc_difference": 3,
        "MaxBoxAccV2_difference": 5,
    }
    with pytest.raises(InputError, match="both cam and pc1"):
        maps_compared([ModelScore("x", {"cam": entry(1.0, 2.0)})])


def test_the_papers_models_are_distinguished():
    """The 36 fine-tuned models: RepLKNet and ConvNeXt with and without augmentation, SLaK at two sizes."""
    from dataclasses import asdict

    names = [name for name in RECIPES if RECIPES[name]().epochs == 400]
    models = [
        ModelScore(
            name, {"cam": entry(50.0, 50.0)}, **describe(get_recipe(name).model, asdict(get_recipe(name)))
        )
        for name in names
    ]
    count = {
        family: sum(one.family == family for one in models) for family in ("replknet", "convnext", "slak")
    }
    assert count == {"replknet": 12, "convnext": 14, "slak": 10}
    assert sum(one.augmented for one in models) == 6 + 7
    arrows = {(names[a], names[b], kind) for a, b, kind in arrows_between(models)}
    assert ("replknet_31b_in1k_224", "replknet_31b_in1k_384", "resolution") in arrows
    assert ("replknet_31b_in1k_384", "replknet_31b_in22k_384", "pretraining") in arrows
    assert ("convnext_base_in22ft1k", "convnext_base_384_in22ft1k", "resolution") in arrows
    assert all(get_recipe(a).auto == get_recipe(b).auto for a, b, _ in arrows)
