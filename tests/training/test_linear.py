"""The fit of a linear classifier, against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from heatbox.training.linear import Objective, balanced_weights, fit_linear


def features(count=90, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([1.0, 30.0, 0.02, 1.0, 5.0, 1.0])
    return torch.randn(count, width, generator=generator) * scales + 3 * scales


def standardized(x):
    return ((x - x.mean(0)) / x.std(0, correction=0)).numpy()


def in_units_of_features(model, x):
    weight = model.coef_ / x.std(0, correction=0).numpy()
    return weight, model.intercept_ - weight @ x.mean(0).numpy()


def test_the_softmax_is_that_of_scikit_learn_with_balanced_classes():
    x = features()
    labels = torch.arange(90) % 7 % 3  # 39, 26 and 25 images
    weights = balanced_weights(labels, 3, "softmax")
    fit = fit_linear(x, labels, Objective("softmax", weights), weight_decays=(1e-2,))
    other = LogisticRegression(C=1 / (1e-2 * 90), class_weight="balanced", tol=1e-9, max_iter=2000)
    wanted, bias = in_units_of_features(other.fit(standardized(x), labels.numpy()), x)
    # The softmax does not determine a common shift of all classes' biases.
    np.testing.assert_allclose(fit.weight, wanted, rtol=2e-2, atol=2e-3 * np.abs(wanted).max())
    np.testing.assert_allclose(fit.bias - fit.bias.mean(), bias - bias.mean(), rtol=2e-2, atol=2e-2)


def test_the_sigmoid_is_a_regression_of_each_class_alone():
    x = features(seed=1)
    targets = torch.stack([x[:, 0] + 0.3 * x[:, 3] > 4, torch.arange(90) % 4 == 0], 1)
    objective = Objective("sigmoid", torch.tensor([1.0, 3.0]))
    fit = fit_linear(x, targets.to(torch.uint8), objective, weight_decays=(5e-2,))
    for k, weight in enumerate((1.0, 3.0)):
        # The loss is a mean over two classes, so the weight decay of one is twice as strong.
        other = LogisticRegression(C=1 / (2 * 5e-2 * 90), class_weight={0: 1, 1: weight}, tol=1e-9)
        wanted, bias = in_units_of_features(other.fit(standardized(x), targets[:, k].numpy()), x)
        np.testing.assert_allclose(fit.weight[k], wanted[0], rtol=2e-2, atol=2e-3 * np.abs(wanted).max())
        np.testing.assert_allclose(fit.bias[k], bias[0], rtol=2e-2, atol=2e-2)


def test_the_weight_decay_is_that_of_the_least_loss_on_held_out_images():
    x, labels = features(60), torch.arange(60) % 3  # labels that no feature tells
    held_out = features(60, seed=2), torch.arange(60) % 3
    objective = Objective("softmax", torch.ones(3))
    fit = fit_linear(x, labels, objective, held_out)
    assert fit.weight_decay == 1.0
    losses = dict(fit.losses)
    assert losses[fit.weight_decay] == min(losses.values())
    assert len(losses) == 3  # two worse ones end the search
    logits = torch.from_numpy(held_out[0].numpy() @ fit.weight.numpy().T + fit.bias.numpy())
    wanted = torch.nn.functional.cross_entropy(logits, held_out[1])
    assert losses[1.0] == pytest.approx(float(wanted), rel=1e-4)


def test_half_precision_features_in_several_parts_give_nearly_the_same(monkeypatch):
    x, labels = features(), torch.arange(90) % 3
    objective = Objective("softmax", torch.ones(3))
    whole = fit_linear(x, labels, objective)
    monkeypatch.setattr("heatbox.training.linear.ROWS", 16)
    monkeypatch.setattr("heatbox.training.linear.IN_FULL", 0)
    parts = fit_linear(x.half(), labels, objective)
    np.testing.assert_allclose(whole(x), parts(x.half()), rtol=0.05, atol=0.05)


def test_a_layer_without_a_bias_gets_none():
    fit = fit_linear(features(), torch.arange(90) % 3, Objective("softmax", torch.ones(3)), has_bias=False)
    assert not fit.bias.any()


def test_balanced_weights_count_all_classes_alike():
    labels = torch.tensor([0, 0, 0, 1])
    assert balanced_weights(labels, 3, "softmax").tolist() == pytest.approx([2 / 3, 2, 1])
    targets = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 0]])
    assert balanced_weights(targets, 2, "sigmoid").tolist() == pytest.approx([1 / 3, 1])
