import pytest
import torch

from heatbox.errors import InputError
from heatbox.maps.cam import cam


def test_is_the_weighted_sum_over_channels():
    features, weights = torch.randn(2, 5, 3, 4), torch.randn(2, 5)
    by_hand = sum(weights[:, n, None, None] * features[:, n] for n in range(5))
    assert torch.allclose(cam(features, weights), by_hand, atol=1e-6)


def test_one_row_of_weights_serves_all_images():
    features, row = torch.randn(3, 5, 2, 2), torch.randn(5)
    assert torch.allclose(cam(features, row), cam(features, row.expand(3, 5)))


def test_signs_part_the_map():
    features, weights = torch.randn(2, 6, 4, 4), torch.randn(2, 6)
    positive, negative = cam(features, weights, "positive"), cam(features, weights, "negative")
    assert torch.allclose(positive + negative, cam(features, weights), atol=1e-5)
    assert not torch.allclose(positive, cam(features, weights))
    only = torch.where(weights > 0, weights, torch.zeros(()))
    assert torch.allclose(positive, cam(features, only), atol=1e-6)


def test_half_precision_is_summed_in_single():
    features = torch.full((1, 4096, 1, 1), 10.0, dtype=torch.float16)
    assert (
        cam(features, torch.full((4096,), 10.0, dtype=torch.float16)).item() == 409600.0
    )  # fp16 ends at 65504


@pytest.mark.parametrize(
    ("features", "weights"),
    [((2, 5, 3), (2, 5)), ((2, 5, 3, 3), (2, 4)), ((2, 5, 3, 3), (3, 5)), ((2, 5, 3, 3), (4,))],
)
def test_shapes_that_do_not_match(features, weights):
    with pytest.raises(InputError, match="expected"):
        cam(torch.randn(features), torch.randn(weights))


def test_unknown_signs():
    with pytest.raises(InputError, match="'all', 'positive' or 'negative'"):
        cam(torch.randn(1, 2, 3, 3), torch.randn(2), "both")
