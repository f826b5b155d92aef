import numpy as np
import pytest
import scipy.optimize

from heatbox.analysis.erf import fit_gaussian
from heatbox.errors import InputError


def gaussian(height, width, row, column, sigma):
    y, x = np.mgrid[:height, :width]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("sigma", [1.0, 4.0, 30.0])
def test_an_exact_gaussian_is_found(sigma):
    found = fit_gaussian(3.5 * gaussian(90, 120, 40, 61.5, sigma), (40, 61.5))
    assert found.sigma == pytest.approx(sigma, rel=1e-4)
    assert found.amplitude == pytest.approx(3.5, rel=1e-4)
    assert found.explained == pytest.approx(1, abs=1e-6)


def test_the_fit_is_the_least_squares_one():
    values = 2 * gaussian(50, 60, 25, 30, 7) + np.random.default_rng(0).gamma(0.4, size=(50, 60))
    found = fit_gaussian(values)

    def residual(parameters):
        return (parameters[0] * gaussian(50, 60, 25, 30, parameters[1]) - values).ravel()

    wanted = scipy.optimize.least_squares(residual, [1.0, 5.0])
    assert (found.amplitude, found.sigma) == pytest.approx(tuple(wanted.x), rel=1e-3)
    assert found.explained == pytest.approx(1 - 2 * wanted.cost / (values**2).sum(), rel=1e-3)


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.ones(4), np.full((3, 3), np.inf)])
def test_nothing_to_fit(values):
    with pytest.raises(InputError, match="a Gaussian is fitted"):
        fit_gaussian(values)
