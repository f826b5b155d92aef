"""heatbox metrics as torchmetrics uses them: over two processes, in collections, in figures and in Lightning.

torchmetrics does not publish the helper that tests its own metrics; what it checks is checked here: values
over processes and batches, `forward`, `reset`, `clone`, pickles and the state of a checkpoint.
"""

import pickle

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from heatbox.errors import InputError
from heatbox.metrics import (
    EnergyPointingGame,
    LocalizationAccuracy,
    LocalizationScores,
    MapIoU,
    MaxBoxAcc,
    MaxBoxAccV2,
    MaxBoxAccV3,
    PointingGame,
    PxAP,
    RelevanceRank,
)

torchmetrics = pytest.importorskip("torchmetrics")
from heatbox.metrics.adapters import TorchMetric  # noqa: E402

BOXES = {
    "v1": lambda: MaxBoxAcc(thresholds=50),
    "v2": lambda: MaxBoxAccV2(thresholds=50),
    "v3": lambda: MaxBoxAccV3(thresholds=50),
    "exact": lambda: MaxBoxAcc(protocol="exact"),
    "pointing": PointingGame,
    "tolerant": lambda: PointingGame(15),
    "energy": EnergyPointingGame,
    "rank": RelevanceRank,
    "otsu": lambda: MapIoU("otsu"),
    "every": LocalizationScores,
}
MASKS = {"pxap": PxAP, "each": lambda: PxAP(per_image=True)}
IMAGES = (0, 1, 2, 3)


def batch(numbers):
    """Maps with a peak each, their boxes and masks, of images by number."""
    axis = torch.arange(224.0)
    maps, boxes, masks = [], [], []
    for number in numbers:
        rng = np.random.default_rng(number)
        x, y, size = rng.uniform(70, 150, 3)
        peak = torch.exp(-((axis[:, None] - y) ** 2 + (axis[None] - x) ** 2) / (2 * 40**2))
        maps.append((peak + 0.1 * torch.from_numpy(rng.random((224, 224), np.float32))).clamp(0, 1))
        boxes.append(np.array([[x - size / 2, y - size / 3, x + size / 2, y + size / 2]]).clip(0, 224))
        masks.append((peak > 0.6).to(torch.uint8))
    return torch.stack(maps), boxes, [(224, 224)] * len(numbers), torch.stack(masks)


def update(metric, numbers, masks=False):
    maps, boxes, sizes, pixels = batch(numbers)
    if masks:
        metric.update(maps, pixels)
    else:
        metric.update(maps, boxes, sizes)


def scalars(found):
    return {name: float(value) for name, value in found.items()}


def whole(make, masks):
    """What the heatbox metric itself says of all images: the oracle."""
    metric = make()
    update(metric, IMAGES, masks)
    score = metric.compute()
    if isinstance(score, dict):
        return {name: one.value for name, one in score.items()}
    return {name: value for name, value in vars(score).items() if isinstance(value, float)}


def _process(rank, path, queue):
    """One of two processes: images 0 to 2 of four, or the last one; of "idle", none in the second."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    mine = [(0, 1, 2), (3,)][rank]
    found = {}
    for name, make in (BOXES | MASKS).items():
        metric = TorchMetric(make())
        update(metric, mine, name in MASKS)
        found[name] = scalars(metric.compute()), metric._is_synced
    collection = torchmetrics.MetricCollection({name: TorchMetric(make()) for name, make in BOXES.items()})
    update(collection, mine)
    found["collection"] = scalars(collection.compute())
    idle = TorchMetric(LocalizationScores())
    if rank == 0:
        update(idle, IMAGES)
    else:
        idle._update_count = 1  # so that compute does not warn
    found["idle"] = scalars(idle.compute())
    queue.put((rank, found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes of one group compute, through torchmetrics' own synchronization."""
    context = mp.get_context("spawn")
    queue, path = context.Queue(), tmp_path_factory.mktemp("group") / "meet"
    processes = [context.Process(target=_process, args=(rank, path, queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=180) for _ in processes)
    for process in processes:
        process.join()
    return found


def test_processes_compute_the_score_of_all_images(two_processes):
    for rank in (0, 1):
        for name, make in (BOXES | MASKS).items():
            values, synced = two_processes[rank][name]
            assert values == pytest.approx(whole(make, name in MASKS), nan_ok=True), name
            assert not synced  # torchmetrics puts the state of the process back
    expected = whole(LocalizationScores, False)
    assert two_processes[0]["idle"] == two_processes[1]["idle"] == pytest.approx(expected)


def test_a_collection_over_processes_computes_them_too(two_processes):
    for rank in (0, 1):
        found = two_processes[rank]["collection"]
        assert found["v1_accuracy"] == pytest.approx(whole(BOXES["v1"], False)["accuracy"])
        for name in ("v1", "v2", "v3", "exact"):
            assert whole(BOXES[name], False)["accuracy"] in [pytest.approx(one) for one in found.values()]
        for name in ("pointing", "tolerant", "energy", "rank", "otsu"):
            assert found[f"{name}_value"] == pytest.approx(whole(BOXES[name], False)["value"])


def test_metrics_that_agree_on_one_batch_stay_apart():
    """In one map with one peak all contours are the largest: their first states are equal."""
    metrics = {
        "largest": TorchMetric(MaxBoxAcc(0.5), score="accuracy"),
        "all": TorchMetric(MaxBoxAcc(0.5, "all"), score="accuracy"),
        "at": TorchMetric(PointingGame(), score="value"),
        "near": TorchMetric(PointingGame(15), score="value"),
        "mass": TorchMetric(EnergyPointingGame(), score="value"),
        "rank": TorchMetric(RelevanceRank(), score="value"),
    }
    collection = torchmetrics.MetricCollection(metrics)
    one = torch.zeros(1, 224, 224)
    one[:, 50:150, 60:160] = 1.0
    collection.update(one, [np.array([[60, 50, 160, 150]])], [(224, 224)])
    assert {frozenset(group) for group in collection.compute_groups.values()} == {
        frozenset({"largest"}),
        frozenset({"all"}),
        frozenset({"at"}),
        frozenset({"near", "mass", "rank"}),  # one pass over the maps for all of these
    }
    two = torch.zeros(1, 224, 224)
    two[:, 20:40, 20:40], two[:, 100:200, 100:200] = 0.9, 1.0
    two[0, 30, 30] = 0.5
    collection.update(two, [np.array([[20, 20, 40, 40]])], [(224, 224)])
    found = scalars(collection.compute())
    assert found["largest"] == 50
    assert found["all"] == 100
    assert found["mass"] != found["rank"]


@pytest.mark.parametrize("name", [*BOXES, *MASKS])
def test_forward_reset_clone_pickle_and_checkpoint(name):
    make, masks = (BOXES | MASKS)[name], name in MASKS
    metric = TorchMetric(make())
    maps, boxes, sizes, pixels = batch(IMAGES[:2])
    alone = TorchMetric(make())
    update(alone, IMAGES[:2], masks)
    first = metric(maps, pixels) if masks else metric(maps, boxes, sizes)
    assert scalars(first) == pytest.approx(scalars(alone.compute()), nan_ok=True)
    copies = [metric.clone(), pickle.loads(pickle.dumps(metric))]
    saved = TorchMetric(make())
    metric.persistent(True)
    saved.persistent(True)
    saved.load_state_dict(metric.state_dict())
    saved._update_count = 1
    for one in (metric, *copies, saved):
        update(one, IMAGES[2:], masks)
        assert scalars(one.compute()) == pytest.approx(whole(make, masks), nan_ok=True)
    metric.reset()
    update(metric, IMAGES[:2], masks)
    assert scalars(metric.compute()) == pytest.approx(scalars(first), nan_ok=True)
    assert hash(metric) != hash(copies[0])


def test_one_scalar_and_an_unknown_one():
    metric = TorchMetric(LocalizationAccuracy(), score="top1")
    maps, boxes, sizes, _ = batch(IMAGES[:1])
    metric.update(maps, boxes, sizes, torch.eye(3)[:1], torch.tensor([1]))
    assert float(metric.compute()) == 0  # the first class is predicted
    unknown = TorchMetric(MaxBoxAcc(), score="acc")
    update(unknown, IMAGES[:1])
    with pytest.raises(InputError, match="score is 'acc', expected one of accuracy"):
        unknown.compute()


def test_figures_of_a_metric_and_of_a_collection():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    single = TorchMetric(MaxBoxAcc(), score="accuracy")
    collection = torchmetrics.MetricCollection(
        {"MaxBoxAcc": single, "PointingGame": TorchMetric(PointingGame(), score="value")}
    )
    update(collection, IMAGES[:2])
    history = [collection.compute()]
    figure, axes = single.plot()
    assert figure is not None
    assert axes.get_ylim()[0] <= float(single.compute()) <= axes.get_ylim()[1] + 1
    assert len(collection.plot(history)) == 2
    assert single.plot([torch.tensor(10.0), torch.tensor(20.0)])[0] is not None
    pyplot.close("all")


def test_a_lightning_module_logs_them():
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.accuracy = TorchMetric(MaxBoxAcc(), score="accuracy")
            self.scores = torchmetrics.MetricCollection(
                {
                    "V2": TorchMetric(MaxBoxAccV2(), score="accuracy"),
                    "energy": TorchMetric(EnergyPointingGame(), score="value"),
                },
                prefix="val/",
            )

        def training_step(self, numbers):
            return self.layer(torch.ones(1, 1)).sum()

        def validation_step(self, numbers):
            maps, boxes, sizes, _ = batch(numbers.tolist())
            self.accuracy.update(maps, boxes, sizes)
            self.scores.update(maps, boxes, sizes)
            self.log("val/MaxBoxAcc", self.accuracy)
            self.log_dict(self.scores)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    loader = torch.utils.data.DataLoader(torch.tensor(IMAGES), batch_size=2)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader, loader)
    found = trainer.callback_metrics
    assert float(found["val/MaxBoxAcc"]) == pytest.approx(whole(MaxBoxAcc, False)["accuracy"])
    assert float(found["val/V2"]) == pytest.approx(whole(MaxBoxAccV2, False)["accuracy"])
    assert float(found["val/energy"]) == pytest.approx(whole(EnergyPointingGame, False)["value"])
