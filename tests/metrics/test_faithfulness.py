"""Scores of removal against brute force, the paper's sparse system and pytorch-grad-cam."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from heatbox.errors import InputError
from heatbox.metrics import faithfulness as fn
from heatbox.metrics.imputation import impute_linear

SIDE, CLASSES = 24, 3


@pytest.fixture(scope="module")
def score_images():
    """Probabilities of a random convolution, which depend on every pixel."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(CLASSES, 3, SIDE, SIDE, generator=generator) / SIDE

    def function(images):
        assert len(images) <= 5  # the batch size that the tests ask for
        return F.conv2d(images.tanh(), weight).flatten(1).softmax(1)

    return function


@pytest.fixture
def case():
    images = F.interpolate(torch.randn(4, 3, 6, 6), size=SIDE, mode="bicubic")
    heatmaps = torch.rand(4, SIDE, SIDE)
    return images, heatmaps, torch.tensor([0, 2, 1, 0])


@pytest.mark.parametrize("mode", ["deletion", "insertion"])
@pytest.mark.parametrize("fill", fn.FILLS)
def test_curves_equal_pixels_removed_one_by_one(score_images, case, mode, fill):
    images, heatmaps, targets = case
    curves = fn.removal_curves(score_images, images, heatmaps, targets, mode, 7, fill, batch_size=5)
    for index in range(4):
        order = np.argsort(-heatmaps[index].numpy().ravel(), kind="stable")
        removed = fn.filled(images[index : index + 1], fill)[0].flatten(1)
        original = images[index].flatten(1)
        for k in range(8):
            now, end = (original.clone(), removed) if mode == "deletion" else (removed.clone(), original)
            for pixel in order[: round(k / 7 * SIDE * SIDE)]:
                now[:, pixel] = end[:, pixel]
            expected = score_images(now.view(1, 3, SIDE, SIDE))[0, targets[index]]
            assert float(curves[index, k]) == pytest.approx(float(expected), abs=1e-6)
    seen = []

    def counted(changed):
        seen.append(len(changed))
        return score_images(changed)

    ends = {"original": torch.full((4,), 5.0), "removed": torch.full((4,), 7.0)}
    known = fn.removal_curves(counted, images, heatmaps, targets, mode, 7, fill, batch_size=5, **ends)
    assert torch.allclose(known[:, 1:-1], curves[:, 1:-1], atol=1e-6)
    assert sum(seen) == 4 * 6  # the ends are not computed again
    assert max(seen) <= max(fn.CPU_IMAGES, torch.get_num_threads())
    assert known[:, [0, -1]].unique().tolist() == [5, 7]
    assert known[0, 0] == (5 if mode == "deletion" else 7)
    removed = fn.removed_scores(score_images, images, targets, fill, batch_size=5)
    assert torch.allclose(removed, curves[:, -1 if mode == "deletion" else 0], atol=1e-6)


def test_fills():
    images = torch.randn(2, 3, 40, 30)
    assert not fn.filled(images, "zero").any()
    assert torch.allclose(fn.filled(images, "mean"), images.mean((2, 3))[..., None, None].expand_as(images))
    blurred = fn.filled(images, "blur")
    assert blurred.shape == images.shape
    assert blurred.std() < images.std()
    constant = torch.full((1, 3, 224, 224), 0.5)
    assert torch.allclose(fn.filled(constant, "blur"), constant)
    point = torch.zeros(1, 1, 224, 224)
    point[..., 100, 100] = 1  # the published kernel: 11 x 11 pixels, sigma 5
    around = fn.filled(point, "blur")[0, 0]
    assert int((around > 0).sum()) == 121
    assert float(around[100, 105] / around[100, 100]) == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_area_under_curve():
    curve = torch.tensor([[1.0, 0.5, 0.0], [1, 1, 1]])
    assert fn.area_under_curve(curve).tolist() == [0.5, 1.0]


def test_equal_values_go_in_raster_order(score_images, case):
    images, _, targets = case
    flat = torch.zeros(4, SIDE, SIDE)
    rows = -torch.arange(SIDE * SIDE).float().view(1, SIDE, SIDE).expand(4, -1, -1)
    both = [fn.removal_curves(score_images, images, one, targets, batch_size=5) for one in (flat, rows)]
    assert torch.equal(*both)


def test_drop_increase_gain():
    original, masked = torch.tensor([0.8, 0.5, 0.0, 1.0]), torch.tensor([0.6, 0.75, 0.0, 1.0])
    assert fn.average_drop(original, masked).tolist() == pytest.approx([0.25, 0, 0, 0])
    assert fn.average_increase(original, masked).tolist() == [0, 1, 0, 0]
    assert fn.average_gain(original, masked).tolist() == pytest.approx([0, 0.5, 0, 0])


def test_masked_scores_equal_pytorch_grad_cam(score_images, case):
    metric = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image").CamMultImageConfidenceChange()
    images, heatmaps, targets = case
    original, masked = fn.masked_scores(score_images, images, heatmaps, targets, batch_size=5)
    choose = [lambda output, k=int(k): output[k] for k in targets]
    theirs = metric(images, heatmaps.numpy(), choose, score_images)
    np.testing.assert_allclose(masked - original, theirs, atol=1e-6)


def sparse_solution(image, removed):
    """The paper's equations, solved directly."""
    from scipy.sparse import lil_matrix
    from scipy.sparse.linalg import spsolve

    height, width = removed.shape
    at = {tuple(place): number for number, place in enumerate(np.argwhere(removed))}
    matrix, right = lil_matrix((len(at), len(at))), np.zeros((len(at), len(image)))
    for (i, j), row in at.items():
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                y, x = i + di, j + dj
                if not (di or dj) or not (0 <= y < height and 0 <= x < width):
                    continue
                weight = 1 / 12 if di and dj else 1 / 6
                matrix[row, row] += weight
                if removed[y, x]:
                    matrix[row, at[y, x]] -= weight
                else:
                    right[row] += weight * image[:, y, x]
    found = image.copy()
    found[:, removed] = spsolve(matrix.tocsc(), right).reshape(len(at), -1).T
    return found


@pytest.mark.parametrize("shape", [(24, 24), (17, 31), (1, 9), (2, 3), (40, 5)])
@pytest.mark.parametrize("fraction", [0.1, 0.6, 0.9])
@pytest.mark.parametrize("smooth", [True, False])
def test_imputation_solves_the_equations(shape, fraction, smooth):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(3)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    coarse = torch.from_numpy(rng.normal(size=(1, 1, 3, 3)))
    values = F.interpolate(coarse, size=shape, mode="bilinear")[0, 0].numpy() if smooth else rng.random(shape)
    removed = values > np.quantile(values, 1 - fraction)
    expected = sparse_solution(image, removed) if removed.any() else image
    found = impute_linear(image[None], removed[None])[0]
    assert np.abs(found - expected).max() < 1e-3 * np.ptp(image)
    assert np.array_equal(found[:, ~removed], image[:, ~removed])


def test_imputation_of_nothing_and_of_everything():
    image = np.ones((1, 2, 6, 6), np.float32)
    assert np.array_equal(impute_linear(image, np.zeros((1, 6, 6), bool)), image)
    assert not impute_linear(image, np.ones((1, 6, 6), bool)).any()
    with pytest.raises(InputError, match="expected"):
        impute_linear(image, np.ones((6, 6), bool))
    with pytest.raises(InputError, match="not finite"):
        impute_linear(image * np.nan, np.ones((1, 6, 6), bool))


def test_road_equals_pytorch_grad_cam_without_noise(score_images, case):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    images, heatmaps, targets = case
    heatmaps = F.interpolate(torch.rand(4, 1, 5, 5).double(), size=SIDE, mode="bicubic")[:, 0].clip(0, 1)
    found = fn.road(score_images, images, heatmaps, targets, [20, 60], noise=0, batch_size=5)
    choose = [lambda output, k=int(k): output[k] for k in targets]
    for percentile, ours in ((20, "most"), (60, "most"), (20, "least"), (60, "least")):
        kind = road.RemoveMostRelevantFirst if ours == "most" else road.RemoveLeastRelevantFirst
        metric = road.PerturbationConfidenceMetric(kind(percentile, road.NoisyLinearImputer(noise=0)))
        theirs = metric(images, heatmaps.numpy(), choose, score_images)
        one = fn.road(score_images, images, heatmaps, targets, [percentile], noise=0, batch_size=5)
        np.testing.assert_allclose(getattr(one, ours), theirs, atol=2e-4)
    both = [fn.road(score_images, images, heatmaps, targets, [p], noise=0, batch_size=5) for p in (20, 60)]
    assert torch.allclose(found.combined, sum(one.combined for one in both) / 2, atol=1e-6)


def test_noise_of_road_depends_on_the_seeds_alone(score_images, case):
    found = [fn.road(score_images, *case, percentiles=[50], seed=s, batch_size=b).combined
             for s, b in ((1, 5), (1, 3), (2, 5), ([4, 3, 2, 1], 5))]  # fmt: skip
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert not torch.allclose(found[0], found[2], atol=1e-6)
    reverse = [one.flip(0) for one in case]
    again = fn.road(score_images, *reverse, percentiles=[50], seed=[1, 2, 3, 4], batch_size=5).combined
    assert torch.allclose(found[3], again.flip(0), atol=1e-6)
    with pytest.raises(InputError, match="seeds"):
        fn.road(score_images, *case, seed=[1])


def test_wrong_input(score_images, case):
    images, heatmaps, targets = case
    with pytest.raises(InputError, match="expected"):
        fn.removal_curves(score_images, images, heatmaps[:, :5], targets)
    with pytest.raises(InputError, match="fill"):
        fn.removal_curves(score_images, images, heatmaps, targets, fill="black")
    with pytest.raises(InputError, match="outside"):
        fn.masked_scores(score_images, images, heatmaps * 3, targets)
    with pytest.raises(InputError, match="percentiles"):
        fn.road(score_images, images, heatmaps, targets, [0])
    heatmaps[2, 0, 0] = float("nan")
    with pytest.raises(InputError, match="image 2"):
        fn.removal_curves(score_images, images, heatmaps, targets)
