import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from heatbox.analysis.complexity import (
    components_for,
    explained_variance,
    reconstruction_error,
    sample_channels,
)
from heatbox.errors import InputError


@pytest.mark.parametrize("norm", ["minmax", None])
@pytest.mark.parametrize("shape", [(2, 40, 4, 5), (2, 9, 4, 5)])  # more and fewer channels than pixels
def test_shares_are_those_of_a_plain_pca(norm, shape):
    features = torch.randn(shape).cumsum(3).relu()
    features[0, 3] = 2.0  # constant: takes no part
    found = explained_variance(features, norm)
    assert found.shape == (2, 20)
    for image, wanted in zip(features.numpy(), found.numpy(), strict=True):
        rows = [channel.ravel() for channel in image if channel.max() > channel.min()]
        if norm:
            rows = [(row - row.min()) / (row.max() - row.min()) for row in rows]
        shares = PCA(svd_solver="full").fit(np.stack(rows).astype(np.float64)).explained_variance_ratio_
        assert np.allclose(wanted[: len(shares)], shares, atol=1e-5)
        assert wanted[len(shares) :] == pytest.approx(0, abs=1e-5)
        assert wanted.sum() == pytest.approx(1, abs=1e-5)


def test_nothing_to_decompose():
    features = torch.randn(2, 6, 3, 3)
    features[0] = 5.0
    assert np.isnan(explained_variance(features)[0]).all()
    assert np.isfinite(explained_variance(features)[1]).all()
    alike = torch.randn(1, 1, 3, 3).expand(1, 6, 3, 3)  # all channels the same: no variance between them
    assert np.isnan(explained_variance(alike)).all()


def test_components_for_a_share():
    explained = np.array([[0.5, 0.3, 0.15, 0.05], [0.96, 0.02, 0.01, 0.01]])
    assert components_for(explained, 0.9).tolist() == [3, 1]
    assert components_for(explained, 1.0).tolist() == [4, 4]


def test_sampled_channels_are_pooled_centred_and_of_unit_length():
    features = torch.randn(3, 20, 8, 8)
    features[1, 5:] = 3.0  # five channels vary
    features[2] = -1.0  # none does
    drawn = sample_channels(features, 8, 4, seeds=[10, 11, 12])
    pooled = features.reshape(3, 20, 4, 2, 4, 2).mean((3, 5)).flatten(2)
    pooled = pooled - pooled.mean(2, keepdim=True)
    units = pooled / pooled.norm(dim=2, keepdim=True)
    for image, varying in ((0, 20), (1, 5)):
        nearest = (drawn[image] @ units[image, :varying].T).max(1)
        assert torch.allclose(nearest.values, torch.ones(8), atol=1e-5)
        assert len(set(nearest.indices.tolist())) == min(8, varying)
    assert not drawn[2].any()
    alone = sample_channels(features[1:2], 8, 4, seeds=[11])
    assert torch.allclose(alone[0], drawn[1])  # whatever batch the image is in
    with pytest.raises(InputError, match="cannot be averaged to 9 x 9"):
        sample_channels(features, 8, 9, seeds=[0, 1, 2])


def test_maps_made_of_few_atoms_are_reconstructed():
    """Maps that are each one of four patterns need four atoms and no more."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(4, 16))
    patterns = np.linalg.qr(patterns.T)[0].T
    simple = patterns[rng.integers(0, 4, (60, 5))]
    noise = rng.normal(size=(60, 5, 16))
    noise /= np.linalg.norm(noise, axis=2, keepdims=True)
    found = reconstruction_error(simple[:30], simple[30:], [2, 4, 8], nonzero=1)
    assert found.error[0] > 0.2
    assert found.error[2] < 0.02
    assert found.atoms.tolist() == [2, 4, 8]
    assert (found.learned_from, found.unseen) == (150, 150)
    noisy = reconstruction_error(noise[:30], noise[30:], [2, 4, 8], nonzero=1)
    assert (noisy.error > found.error).all()  # the more complex, the larger the error
    assert ((noisy.interval[:, 0] <= noisy.error) & (noisy.error <= noisy.interval[:, 1])).all()
    again = reconstruction_error(noise[:30], noise[30:], [2, 4, 8], nonzero=1)
    assert np.array_equal(again.error, noisy.error)


def test_error_is_the_energy_that_orthogonal_matching_pursuit_leaves():
    """Codes by hand: the best pair of atoms of a learned dictionary, found by trying all pairs in turn."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    rng = np.random.default_rng(1)
    maps = rng.normal(size=(40, 1, 9))
    maps /= np.linalg.norm(maps, axis=2, keepdims=True)
    found = reconstruction_error(maps[:20], maps[20:], [5], nonzero=2)
    atoms = (
        MiniBatchDictionaryLearning(5, max_iter=20, batch_size=256, random_state=0)
        .fit(maps[:20, 0])
        .components_
    )
    left = []
    for row in maps[20:, 0]:
        chosen, residual = [], row
        for _ in range(2):  # greedy: the atom most like what is left, then all chosen ones refitted
            chosen.append(int(np.argmax(abs(atoms @ residual))))
            code = np.linalg.lstsq(atoms[chosen].T, row, rcond=None)[0]
            residual = row - code @ atoms[chosen]
        left.append((residual**2).sum())
    assert found.error[0] == pytest.approx(np.mean(left), rel=1e-6)


def test_bad_input():
    with pytest.raises(InputError, match="expected"):
        explained_variance(torch.zeros(3, 4))
    with pytest.raises(InputError, match="not finite"):
        explained_variance(torch.full((1, 2, 2, 2), torch.inf))
    with pytest.raises(InputError, match="channel_norm is 'max'"):
        explained_variance(torch.zeros(1, 2, 2, 2), "max")
    with pytest.raises(InputError, match="too few"):
        reconstruction_error(np.zeros((2, 2, 4)), np.ones((2, 2, 4)), [3])
    with pytest.raises(InputError, match="to be reconstructed"):
        reconstruction_error(np.ones((2, 2, 4)), np.ones((0, 2, 4)), [3])
