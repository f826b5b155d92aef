import numpy as np
import pytest

from heatbox.errors import InputError
from heatbox.metrics.collection import BoxMetrics, update_together
from heatbox.metrics.max_box_acc import MaxBoxAcc, MaxBoxAccV2
from helpers.awkward_maps import random_map, random_truth

pytestmark = pytest.mark.filterwarnings("ignore:the reference protocol compares")


def images(seeds):
    truth = [random_truth(seed) for seed in seeds]
    return [random_map(seed, 24) for seed in seeds], [t[0] for t in truth], [t[1] for t in truth]


def collection(**options):
    return BoxMetrics({"v1": MaxBoxAcc(**options), "v2": MaxBoxAccV2(**options)})


@pytest.mark.parametrize("protocol", ["reference", "exact"])
def test_a_collection_scores_as_its_metrics_do_alone(protocol):
    together = collection(protocol=protocol)
    curves = together.update(*images(range(6)), return_iou=True)
    assert curves.shape == (2, 6, 1000)
    assert together.update(*images(range(6, 9))) is None
    for name, metric in (("v1", MaxBoxAcc(protocol=protocol)), ("v2", MaxBoxAccV2(protocol=protocol))):
        metric.update(*images(range(9)))
        np.testing.assert_array_equal(together[name].correct, metric.correct)
        assert together.compute()[name].accuracy == metric.compute().accuracy
    first = MaxBoxAccV2(protocol=protocol)
    first.update(*images(range(6)))
    np.testing.assert_array_equal((curves[1][:, None] >= first.iou[:, None]).sum(0), first.correct)


def test_a_call_returns_the_score_of_the_batch_and_adds_it():
    for metrics in (collection(), MaxBoxAccV2(protocol="exact")):
        metrics.update(*images(range(4)))
        batch = metrics(*images(range(4, 9)))
        state = metrics.state_dict()
        metrics.reset()
        metrics.update(*images(range(4, 9)))
        alone = metrics.compute()
        metrics.update(*images(range(4)))
        for name, value in metrics.state_dict().items():
            np.testing.assert_array_equal(
                np.sort(np.atleast_1d(value), axis=0), np.sort(np.atleast_1d(state[name]), axis=0), name
            )
        for one, other in zip(
            *(list(s.values()) if isinstance(s, dict) else [s] for s in (batch, alone)), strict=True
        ):
            np.testing.assert_array_equal(one.correct, other.correct)
            assert one.images == other.images == 5


def test_states_are_saved_and_merged():
    whole, half, rest = collection(), collection(), collection()
    whole.update(*images(range(7)))
    half.update(*images(range(3)))
    rest.update(*images(range(3, 7)))
    other = collection()
    other.load_state_dict(half.state_dict())
    other.merge(rest).all_reduce()
    for name in ("v1", "v2"):
        np.testing.assert_array_equal(other[name].correct, whole[name].correct)
    other.reset()
    assert [metric.images for metric in other] == [0, 0]
    with pytest.raises(InputError, match=r"'v1\.correct' has shape"):
        other.load_state_dict({})
    with pytest.raises(InputError, match="cannot merge metrics"):
        other.merge(BoxMetrics([MaxBoxAcc()]))


def test_metrics_that_do_not_go_together():
    with pytest.raises(InputError, match="must share protocol and thresholds"):
        BoxMetrics([MaxBoxAcc(), MaxBoxAcc(protocol="exact")])
    with pytest.raises(InputError, match="must share protocol and thresholds"):
        BoxMetrics([])
    with pytest.raises(TypeError, match="expected MaxBoxAcc"):
        BoxMetrics([0.5])


def test_the_old_function_warns_and_updates():
    metrics = [MaxBoxAcc(), MaxBoxAccV2()]
    with pytest.warns(DeprecationWarning, match="BoxMetrics"):
        curves = update_together(metrics, *images(range(3)), records=True)
    assert curves.shape == (2, 3, 1000)
    assert metrics[0].images == metrics[1].images == 3
