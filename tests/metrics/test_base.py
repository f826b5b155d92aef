"""Merging, saving and adding up over processes, for every accumulating metric."""

import itertools
import multiprocessing as mp

import numpy as np
import pytest
import torch

from heatbox.errors import InputError
from heatbox.metrics.localization import LocalizationAccuracy
from heatbox.metrics.max_box_acc import MaxBoxAcc
from heatbox.metrics.pxap import PxAP
from helpers.awkward_maps import random_map, random_truth

pytestmark = pytest.mark.filterwarnings("ignore:the reference protocol compares")  # most maps are small

METRICS = {
    "largest": lambda: MaxBoxAcc((0.3, 0.5), threads=1),
    "all": lambda: MaxBoxAcc((0.3, 0.5, 0.7), "all", threads=1),
    "exact": lambda: MaxBoxAcc((0.3, 0.5), "all", "exact"),
    "localization": lambda: LocalizationAccuracy(threads=1),
    "pxap": lambda: PxAP(threads=1),
    "per image": lambda: PxAP(threads=1, per_image=True),
}


def add(metric, seeds):
    maps = [random_map(seed, 24) for seed in seeds]
    truth = [random_truth(seed) for seed in seeds]
    boxes, sizes = [t[0] for t in truth], [t[1] for t in truth]
    if isinstance(metric, PxAP):
        metric.update(maps, [(np.arange(m.size) % 3 == 0).reshape(m.shape).astype(np.uint8) for m in maps])
    elif isinstance(metric, LocalizationAccuracy):
        logits = np.random.default_rng(seeds[0]).normal(size=(len(seeds), 4))
        metric.update(maps, boxes, sizes, logits, np.zeros(len(seeds), int))
    else:
        metric.update(maps, boxes, sizes)
    return metric


def outcome(metric):
    """Every field of the score as lists; NaN as -1, since NaN is not equal to itself; images in any order."""
    score = {k: np.nan_to_num(v, nan=-1).tolist() for k, v in vars(metric.compute()).items()}
    if "histograms" in score:
        score["histograms"].sort()
    return score


@pytest.fixture(params=METRICS)
def make(request):
    return METRICS[request.param]


def test_merging_does_not_depend_on_order_or_grouping(make):
    parts = [list(range(0, 5)), list(range(5, 6)), list(range(6, 14))]
    whole = make()
    for part in parts:
        add(whole, part)
    expected = outcome(whole)
    for order in itertools.permutations(parts):
        a, b, c = (add(make(), part) for part in order)
        assert outcome(make().merge(a, b, c)) == expected
        assert outcome(a.merge(b.merge(c))) == expected


def test_merging_leaves_the_merged_as_it_was(make):
    a, b = add(make(), [1, 2]), add(make(), [3])
    before = outcome(b)
    a.merge(b)
    add(a, [4])
    assert outcome(b) == before


def test_a_saved_state_continues(make):
    whole = add(add(make(), [1, 2]), [3])
    half = add(make(), [1, 2])
    other = make()
    other.load_state_dict(half.state_dict())
    assert outcome(add(other, [3])) == outcome(whole)
    assert outcome(half) != outcome(whole)
    other.reset()
    assert outcome(add(other, [1, 2])) == outcome(half)


def test_other_settings_do_not_merge():
    with pytest.raises(InputError, match="cannot merge"):
        MaxBoxAcc().merge(MaxBoxAcc((0.3,)))
    with pytest.raises(InputError, match="'correct' has shape"):
        MaxBoxAcc().load_state_dict(MaxBoxAcc(thresholds=10).state_dict())


def _process(rank, path, queue):
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    seeds = [[1, 2, 3], [7]][rank]
    queue.put((rank, {name: outcome(add(make(), seeds).all_reduce()) for name, make in METRICS.items()}))
    torch.distributed.destroy_process_group()


def test_two_processes_add_up(tmp_path):
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_process, args=(r, tmp_path / "meet", queue)) for r in (0, 1)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    for name, make in METRICS.items():
        expected = outcome(make().merge(add(make(), [1, 2, 3]), add(make(), [7])))
        assert found[0][name] == expected
        assert found[1][name] == expected


def test_a_fabric_is_asked_to_gather():
    class Fabric:
        def all_gather(self, tensor):
            return torch.stack([tensor, tensor, tensor])

    for name in ("largest", "exact"):
        metric = add(METRICS[name](), [1, 2])
        single = metric.compute()
        tripled = metric.all_reduce(Fabric()).compute()
        assert tripled.images == 3 * single.images
        np.testing.assert_array_equal(tripled.correct, 3 * single.correct)
        np.testing.assert_array_equal(tripled.per_iou, single.per_iou)


def test_in_a_torchmetrics_collection():
    torchmetrics = pytest.importorskip("torchmetrics")
    from heatbox.metrics.adapters import TorchMetric

    collection = torchmetrics.MetricCollection(
        {"v1": TorchMetric(MaxBoxAcc()), "v2": TorchMetric(METRICS["exact"]())}
    )
    maps, truth = np.stack([random_map(3, 1)] * 2), [random_truth(s) for s in (1, 2)]
    for part in (slice(0, 1), slice(1, 2)):
        collection.update(maps[part], [t[0] for t in truth[part]], [t[1] for t in truth[part]])
    direct = MaxBoxAcc()
    direct.update(maps, [t[0] for t in truth], [t[1] for t in truth])
    found = collection.compute()
    assert len(found) == 2
    assert float(next(iter(v for k, v in found.items() if "v1" in k))) == direct.compute().accuracy
    collection.reset()
    with pytest.raises(InputError, match="no image"), pytest.warns(UserWarning, match="before the"):
        collection["v1"].compute()
