"""Evaluation on real images, against numbers computed elsewhere with the reference evaluator itself."""

import threading

import pytest
import torch

from heatbox.config import EvaluateConfig
from heatbox.data.glyphs import glyphs
from heatbox.data.transforms import Preprocess
from heatbox.errors import InputError
from heatbox.evaluation.predict import evaluate, run_inference
from heatbox.evaluation.run import Run
from heatbox.evaluation.score import score_run
from helpers.scenes import MOBILENET, write_model, write_split


def real_config(shared, tmp_path, **changes):
    (tmp_path / "mobilenet.py").write_text(MOBILENET)
    settings = {
        "model": f"{tmp_path / 'mobilenet.py'}:build",
        "data": str(shared / "data" / "ilsvrc-900.tar"),
        "checkpoint": str(shared / "weights" / "mobilenetv1_075_in1k.safetensors"),
        "size": 224,
        "interpolation": "bilinear",
    }
    return EvaluateConfig(**(settings | changes))


def test_the_models_own_preprocessing_is_taken(shared, tmp_path):
    from heatbox.models.factory import create_model

    config = real_config(shared, tmp_path, size=None, interpolation=None)
    found = config.preprocess(create_model(config.model))
    assert (found.size, found.mean, found.std) == ((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert found.interpolation == "bicubic"
    assert real_config(shared, tmp_path, mean=(0, 0, 0)).preprocess(torch.nn.Identity()).mean == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (224, {"cam": (58.78, 57.74), "pc1": (57.11, 56.67), "centre-gaussian": (62.33, 60.11)}),
        (448, {"cam": (63.56, 61.44), "pc1": (60.44, 60.37), "centre-gaussian": (62.33, 60.11)}),
    ],
)
def test_scores_of_real_images_are_those_of_the_reference_evaluator(shared, tmp_path, size, wanted):
    metrics = evaluate(real_config(shared, tmp_path, size=size), Run(tmp_path / "run"))
    for name, (v1, v2) in wanted.items():
        # The numbers for PC1 were made with constant channels kept as samples of zeros; here they take no
        # part, which moves it by up to 0.52 points (docs/protocols.md).
        tolerance = 0.6 if name == "pc1" else 0.5
        found = metrics["methods"][name]
        assert found["MaxBoxAcc"] == pytest.approx(v1, abs=tolerance), name
        assert found["MaxBoxAccV2"] == pytest.approx(v2, abs=tolerance), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "method", "wanted"),
    [(224, "walk", (71.9, 71.3)), (224, "walk+centre", (73.2, 71.4)), (320, "walk-one-pass", (71.1, 70.8))],
)
def test_the_walk_on_real_images_is_that_of_the_prototype(shared, tmp_path, size, method, wanted):
    metrics = evaluate(real_config(shared, tmp_path, size=size, method=(method,)), Run(tmp_path / "run"))
    found = metrics["methods"][method]
    assert (found["MaxBoxAcc"], found["MaxBoxAccV2"]) == pytest.approx(wanted, abs=0.5)


def test_first_real_images(shared, tmp_path):
    """A part small enough for every run; full-size photographs in the second data set."""
    metrics = evaluate(real_config(shared, tmp_path, limit=30), Run(tmp_path / "ilsvrc"))
    assert metrics["top1"] > 60
    assert metrics["methods"]["cam"]["MaxBoxAcc"] > 40
    birds = real_config(shared, tmp_path, data=str(shared / "data" / "cubv2-20.tar"), target="predicted")
    metrics = evaluate(birds, Run(tmp_path / "birds"))
    assert metrics["images"] == 20
    assert metrics["methods"]["cam"]["MaxBoxAcc"] > 30


def test_scoring_maps_that_a_run_does_not_hold(tmp_path):
    config = EvaluateConfig(
        write_model(tmp_path), str(write_split(tmp_path / "set", 3)), method=("cam",), size=64
    )
    evaluate(config, Run(tmp_path / "run"))
    with pytest.raises(InputError, match=r"contains no maps of 'pc1', only of cam"):
        score_run(Run(tmp_path / "run"), ["pc1"])


def test_a_finished_run_is_not_computed_again(tmp_path, monkeypatch):
    config = EvaluateConfig(write_model(tmp_path), str(write_split(tmp_path / "set", 3)), size=64)
    first = evaluate(config, Run(tmp_path / "run"))
    monkeypatch.setattr("heatbox.evaluation.predict._records", lambda *_: pytest.fail("computed again"))
    assert evaluate(config, Run(tmp_path / "run")) == first


def test_images_without_boxes_cannot_be_scored(tmp_path):
    folder = write_split(tmp_path / "set", 3)
    rows = (folder / "localization.txt").read_text().splitlines()
    (folder / "localization.txt").write_text("\n".join(rows[:2]))
    with pytest.raises(InputError, match=r"image 'test/000002.png' has no box"):
        evaluate(EvaluateConfig(write_model(tmp_path), str(folder), size=64), Run(tmp_path / "run"))


def test_no_method(tmp_path):
    config = EvaluateConfig(write_model(tmp_path), str(write_split(tmp_path / "set", 3)), method=())
    with pytest.raises(InputError, match="no map method"):
        evaluate(config, Run(tmp_path / "run"))


class Slow:
    """A store that ends its first shard only when the next batch is being computed."""

    def __init__(self):
        self.computing, self.shards = threading.Event(), []

    def done(self):
        return set()

    def append(self, records):
        if records and not self.shards:
            assert self.computing.wait(60), "the next batch waits for the shard"
        self.shards.append([record["id"] for record in records])


def test_a_shard_is_written_while_the_next_batch_is_computed():
    split, store = glyphs("test", count=6), Slow()

    def records(examples, images):
        if examples[0].id != split.examples[0].id:
            store.computing.set()
        return [{"id": example.id} for example in examples]

    run_inference(split, Preprocess((32, 32)), 2, store, records, "images", shard_size=2)
    assert [one for shard in store.shards for one in shard] == [example.id for example in split]


def test_a_shard_that_cannot_be_written_ends_the_loop():
    split, computed = glyphs("test", count=20), []

    class Full(Slow):
        def append(self, records):
            if records:
                raise InputError("no space left")

    def records(examples, images):
        computed.extend(examples)
        return [{"id": example.id} for example in examples]

    with pytest.raises(InputError, match="no space left"):
        run_inference(split, Preprocess((32, 32)), 2, Full(), records, "images", shard_size=2)
    assert len(computed) <= 6
