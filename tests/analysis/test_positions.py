import numpy as np
import pytest
import torch
from torch import nn

from heatbox.analysis.erf import contributions, fit_gaussian, receptive_field_grid, spread_cells
from heatbox.errors import InputError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 4, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


def test_fields_lie_where_their_position_looks(model):
    images = torch.randn(3, 3, 48, 64)
    found = receptive_field_grid(model, images.split(2), grid=3)
    assert found.feature_size == (12, 16)
    assert found.rows.tolist() == [0, 6, 11]
    assert found.columns.tolist() == [0, 8, 15]
    assert found.images == 3
    for i, row in enumerate(found.rows):
        for k, column in enumerate(found.columns):
            wanted = contributions(model, images, [(int(row), int(column))])[0].mean(0)
            assert np.allclose(found.contribution[i, k], wanted, atol=1e-6)
            # 7 x 7 pixels around 4 times the cell, nothing outside of them
            rows, columns = np.nonzero(found.contribution[i, k])
            assert abs(rows - 4 * row).max() <= 3
            assert abs(columns - 4 * column).max() <= 3
            # A convolution of stride 4 from the corner on sits 1.5 pixels up and left of the cell's middle.
            assert found.centre(row, column) == (4 * row + 1.5, 4 * column + 1.5)
            centre = found.mass_centres()[i, k]
            assert abs(centre - [4 * row, 4 * column]).max() < 3
    assert found.gaussians()[1][1] == fit_gaussian(found.contribution[1, 1], found.centre(6, 8))


def test_the_model_is_left_as_it_was(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    receptive_field_grid(model, [torch.randn(1, 3, 16, 16)], grid=2)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_cells_are_spread():
    assert spread_cells(7, 3).tolist() == [0, 3, 6]
    assert spread_cells(2, 5).tolist() == [0, 1]
    assert spread_cells(9, 1).tolist() == [0]


def test_bad_input(model):
    with pytest.raises(InputError, match="no image"):
        receptive_field_grid(model, [])
    with pytest.raises(InputError, match="grid of 0"):
        receptive_field_grid(model, [torch.zeros(1, 3, 16, 16)], grid=0)
