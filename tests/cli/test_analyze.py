"""`heatbox analyze`, whole commands over small networks."""

import importlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from heatbox.analysis import erf
from heatbox.analysis.shape_bias import Response, from_responses, groups_of
from heatbox.analysis.signed_cam import activated_area, signed_cam
from heatbox.cli.main import main
from heatbox.data.glyphs import glyphs, glyphs_cue_conflict
from heatbox.evaluation.run import Run
from heatbox.models.factory import create_model
from heatbox.models.introspect import ClassifierView
from helpers.scenes import write_checkpoint, write_model, write_split

shape_bias = importlib.import_module("heatbox.analysis.shape_bias")  # the package has a function of that name

SMALL = ["--size", "64", "--batch-size", "8", "--device", "cpu"]
FIELD = ["--erf-size", "48", "--erf-images", "3"]
GRID = ["--erf-grid", "2", "--erf-grid-images", "1"]
DICTIONARY = ["--atoms", "2", "4", "--grid", "4", "--channels-an-image", "4", "--nonzero", "2"]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Two networks, a data set, and the working folder they lie in."""
    write_split(tmp_path / "set", 16)
    write_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glyphs").mkdir()  # "glyphs" means the embedded pairs all the same
    few = glyphs_cue_conflict(40)
    monkeypatch.setattr(shape_bias, "glyphs_cue_conflict", lambda: few)
    return tmp_path


def two_models(scene):
    """One network by name, one as the folder of a run."""
    other = create_model(f"{scene / 'mine.py'}:blobs")
    for parameter in other.parameters():
        parameter.data.mul_(1.1)
    run = Run(scene / "trained")
    run.start({"model": f"{scene / 'mine.py'}:blobs", "size": 64})
    write_checkpoint(other, scene / "trained" / "weights.safetensors")
    return ["--model", "mine.py:blobs", "trained"]


def test_all_over_two_networks(scene, capsys, monkeypatch):
    command = ["analyze", "all", *two_models(scene), "--data", "set", "--stimuli", "glyphs", "--out", "out"]
    command += [*SMALL, *FIELD, *GRID, *DICTIONARY, "--group-images", "2", "--examples", "3", "--json"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["blobs", "trained"]
    saved = json.loads((scene / "out" / "comparison.json").read_text())
    assert saved["models"] == rows
    for label in ("blobs", "trained"):
        for instrument in ("erf", "shape-bias", "channels", "complexity", "maps"):
            folder = scene / "out" / "models" / label / instrument
            assert json.loads((folder / "metrics.json").read_text()), instrument
    drawn = {path.stem for path in (scene / "out" / "figures").glob("*.svg")}
    wanted = {
        "erf-heatmaps", "erf-curves", "erf-positions", "shape-bias", "area-weight", "area-weight-classes",
        "gap-weight", "gap-weight-control", "explained-variance", "reconstruction", "thresholds",
        "signed-cam-scores", "signed-cam-areas", "comparison", "score-against-erf",
    }  # fmt: skip
    assert wanted <= drawn
    for name in drawn:
        with Image.open(scene / "out" / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 150, name
        assert pq.read_table(scene / "out" / "figures" / f"{name}.parquet").num_rows, name
    assert (scene / "out" / "figures" / "signed-cam-blobs.png").exists()
    # A second call measures nothing again, and says the same.
    measuring = {"erf": "contributions", "channels": "_records", "complexity": "_records"}
    for topic, name in {**measuring, "shape_bias": "respond"}.items():
        module = importlib.import_module(f"heatbox.analysis.{topic}")
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr("heatbox.evaluation.predict._records", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # drawing takes seconds
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == rows


def test_headlines_are_those_of_the_pure_functions(scene, capsys):
    import heatbox
    from heatbox.data.open import open_split
    from heatbox.data.transforms import Preprocess
    from heatbox.metrics.max_box_acc import MaxBoxAcc

    main(["analyze", "erf", "-m", "mine.py:blobs", "-d", "set", "--out", "out", *SMALL, *FIELD, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    model, split = create_model("mine.py:blobs"), open_split("set")
    pictures = [split.open_image(example) for example in split.take(3)]
    found = heatbox.effective_receptive_field(model, pictures, size=48)
    assert row["erf_auc"] == pytest.approx(found.auc(), abs=1e-6)
    assert row["erf_gaussian_radius_px"] == pytest.approx(found.gaussian().sigma, rel=1e-3)

    command = ["analyze", "shape-bias", "-m", "mine.py:blobs", "--stimuli", "glyphs", "--group", "none"]
    main([*command, "--out", "bias", *SMALL, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    bias = heatbox.shape_bias(model, heatbox.glyphs_cue_conflict(40), preprocess=Preprocess((64, 64)))
    assert row["shape_bias"] == pytest.approx(bias.overall)

    main(["analyze", "thresholds", "-m", "mine.py:blobs", "-d", "set", "--out", "maps", *SMALL, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    metric = MaxBoxAcc()
    for batch in Run(scene / "maps" / "models" / "blobs" / "maps").records():
        maps = heatbox.normalize_heatmap(np.stack([record["map_cam"] for record in batch]))
        sizes = [(record["width"], record["height"]) for record in batch]
        metric.update(maps, [record["boxes"] for record in batch], sizes)
    score = metric.compute()
    assert row["cam_MaxBoxAcc"] == pytest.approx(score.accuracy)
    assert row["cam_threshold"] == pytest.approx(score.threshold[0])


def test_signed_maps_add_up_and_areas_are_counted(scene, capsys):
    from heatbox.maps.normalize import normalize_heatmap

    main(["analyze", "signed-cam", "-m", "mine.py:blobs", "-d", "set", "--out", "out", *SMALL, "--json"])
    run = Run(scene / "out" / "models" / "blobs" / "maps")
    records = [record for batch in run.records() for record in batch]
    areas = json.loads((run.folder / "instruments.json").read_text())["areas"]
    both = []
    for record in records:
        total = (
            record["map_cam-positive"] - record["map_cam-negative"]
        )  # the negative one is what is taken away
        assert np.allclose(total, record["map_cam"], atol=1e-4)
        both.append([activated_area(normalize_heatmap(record[f"map_{name}"])[None], np.array([0.5]))[0, 0]
                     for name in ("cam", "cam-positive")])  # fmt: skip
    kept = np.mean(both, axis=0)
    assert areas["area"]["cam"][10] == pytest.approx(kept[0])
    assert areas["ratio"] == pytest.approx(kept[0] / kept[1])
    assert areas["ratio_interval"][0] <= areas["ratio"] <= areas["ratio_interval"][1]


def test_channels_of_a_network_whose_scale_differs(scene, capsys):
    command = ["-m", "mine.py:blobs", "-d", "set", "--out", "out", *SMALL, "--control-images", "5"]
    assert main(["analyze", "activation", *command]) == 0
    run = Run(scene / "out" / "models" / "blobs" / "channels")
    numbers = run.metrics()
    records = [record for batch in run.records() for record in batch]
    assert numbers["activated_share"] == 0  # no activation of this network passes 10
    assert numbers["area"]["correlation"]["pearson"] is None
    shares = np.stack([record["area_percentile"] for record in records])
    assert shares.mean() == pytest.approx(0.1, abs=0.01)
    gap = np.stack([record["gap"] for record in records])
    weight = np.stack([record["weight"] for record in records])
    wanted = np.corrcoef(gap.ravel(), weight.ravel())[0, 1]
    assert numbers["gap"]["correlation"]["pearson"] == pytest.approx(wanted, abs=1e-5)
    assert numbers["control"]["random"]["correlation"]["images"] == 5
    assert not np.allclose(weight, np.stack([record["random_weight"] for record in records]))
    counts = np.array(numbers["gap"]["density"]["counts"])
    assert 0.99 * gap.size <= counts.sum() <= gap.size
    assert main(["analyze", "class-weights", *command]) == 0  # the same measurements serve both
    assert (scene / "out" / "figures" / "gap-weight.png").exists()


def test_an_interrupted_field_goes_on(scene, monkeypatch, capsys):
    command = [
        "analyze",
        "erf",
        "-m",
        "mine.py:blobs",
        "-d",
        "set",
        "--out",
        "out",
        *SMALL,
        *FIELD,
        *GRID,
        "--json",
    ]
    real, calls = erf.contributions, []

    def stop_at_third(*arguments):
        if len(arguments) > 2:  # other positions than the centre
            return real(*arguments)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(erf, "contributions", stop_at_third)
    assert main(command) == 130
    assert "rerun the command to resume" in capsys.readouterr().err
    with np.load(scene / "out" / "models" / "blobs" / "erf" / "contribution.npz") as kept:
        assert len(kept["ids"]) == 2
    assert main(command) == 0
    assert len(calls) == 4  # one image was left
    resumed = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(erf, "contributions", real)
    assert main([*command, "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out) == resumed


def test_answers_from_a_table(tmp_path, capsys):
    path = tmp_path / "answers.csv"
    path.write_text(
        "model,image,shape,texture,response\n"
        "a,cat1-dog1,cat,dog,cat\na,cat2-dog1,cat,dog,dog\nb,cat1-dog1,cat,dog,na\nb,cat2-dog1,cat,dog,cat\n"
    )
    assert main(["analyze", "responses", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: one["overall"] for name, one in found.items()} == {"a": 0.5, "b": 1.0, "all pooled": 2 / 3}
    assert main(["analyze", "responses", str(path)]) == 0
    assert "66.67" in capsys.readouterr().out


def without(command, option):
    at = command.index(option)
    return command[:at] + command[at + 2 :]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--model", "nowhere"], "no model named 'nowhere'"),
        (["--checkpoint", "a", "b"], "1 models and 2 checkpoints"),
        (["--label", "a", "b"], "1 models and 2 labels"),
        (["--erf-images", "0"], "erf images is 0"),
        (["--limit", "0"], "limit is 0"),
        (["--data", "nothing-here"], "nothing-here"),
        (["--model", "set"], "contains no config.json"),
    ],
)
def test_bad_input_is_one_sentence(scene, capsys, change, says):
    command = ["analyze", "erf", "--model", "mine.py:blobs", "--data", "set", "--out", "out", *SMALL]
    for option in [one for one in change if one.startswith("--")]:
        if option in command:
            command = without(command, option)
    assert main([*command, *change]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


def test_labels_that_the_network_does_not_have(scene, capsys):
    (scene / "few.py").write_text(
        (scene / "mine.py").read_text() + "\n\ndef few():\n    return blobs(num_classes=3)\n"
    )
    command = ["analyze", "activation", "-m", "few.py:few", "-d", "set", "--out", "out", *SMALL]
    assert main(command) == 2
    assert "set: label 9 is out of range, expected 0 to 2; --target predicted" in capsys.readouterr().err
    assert main([*command, "--target", "predicted"]) == 0


# The names of the classes in another order than that of the folders of a data set.
NAMED = """
def named():
    model = blobs(num_classes=3)
    model.pretrained_cfg = {"label_names": ["owl", "ant", "bee"]}
    return model
"""


def folders_of(scene, names=("ant", "bee", "owl")):
    for number, example in enumerate(list(split := glyphs("test", 6))):
        path = scene / "folders" / names[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        split.open_image(example).save(path)
    rows = [f"{names[k % 3]}/{k}.png,4,4,40,40" for k in range(6)]
    (scene / "folders/boxes.csv").write_text("\n".join(["image,x1,y1,x2,y2", *rows]) + "\n")
    (scene / "named.py").write_text((scene / "mine.py").read_text() + NAMED)


@pytest.mark.parametrize(("instrument", "key"), [("activation", "target"), ("signed-cam", "label")])
def test_classes_of_the_images_are_those_of_the_same_name(scene, monkeypatch, capsys, instrument, key):
    folders_of(scene)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    command = ["analyze", instrument, "-m", "named.py:named", "-d", "folders", "--out", "out", *SMALL]
    assert main(command) == 0
    (run,) = (scene / "out/models").glob("*/*/predictions.parquet")
    place = {"owl": 0, "ant": 1, "bee": 2}
    found = {record["id"]: record[key] for batch in Run(run.parent).records() for record in batch}
    assert found == {name: place[name.partition("/")[0]] for name in found}
    assert len(found) == 6
    capsys.readouterr()
    # A measurement of other classes, as an earlier version made, is not taken for this one.
    path = scene / "named.py"
    path.write_text(path.read_text().replace('"owl", "ant", "bee"', '"ant", "bee", "owl"'))
    assert main(command) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "was measured as class" in said
    assert main([*command, "--overwrite"]) == 0


def test_classes_without_known_names_are_said_to_be_assumed_or_refused(scene, monkeypatch, capsys):
    folders_of(scene)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    path = scene / "named.py"
    path.write_text(path.read_text().replace("pretrained_cfg", "anything"))
    command = ["analyze", "activation", "-m", "named.py:named", "-d", "folders", "--out", "out", *SMALL]
    assert main(command) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("folders: the names of named's classes are unknown; assumed: 0 is ant, 1 is bee") == 1
    assert main([*command, "-m", "mine.py:blobs", "--overwrite"]) == 2
    assert "folders: has 3 classes (ant, bee, owl), blobs 10, whose names" in capsys.readouterr().err


def test_changed_weights_are_refused(scene, capsys):
    command = [
        "analyze",
        "complexity",
        *two_models(scene)[:1],
        "trained",
        "-d",
        "set",
        "--out",
        "out",
        *SMALL,
    ]
    command += DICTIONARY
    assert main(command) == 0
    model = create_model("mine.py:blobs")
    write_checkpoint(model, scene / "trained" / "weights.safetensors")
    assert main(command) == 2
    assert "another weights" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_a_folder_of_something_else_is_left_alone(scene, capsys):
    assert main(["analyze", "complexity", "-m", "mine.py:blobs", "-d", "set", "--out", "set", *SMALL]) == 2
    assert "contains no analysis" in capsys.readouterr().err


def test_matplotlib_is_an_extra(scene, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main(["analyze", "complexity", "-m", "mine.py:blobs", "-d", "set", "--out", "out", *SMALL]) == 2
    assert "pip install 'heatbox[analysis]'" in capsys.readouterr().err
    assert not (scene / "out").exists()


def test_parts_of_a_cam_are_its_channels_and_add_up():
    view = ClassifierView(create_model("resnet10_small"))
    image = torch.randn(3, 64, 64)
    parts = signed_cam(view, image, 4, 2)
    with torch.inference_mode():
        features, logits = view(image[None])
        weights, bias = view.class_weights(features, torch.tensor([4]))
    ranked = np.sort(weights[0].numpy())
    assert parts.weights == pytest.approx([ranked[-1], ranked[-2], ranked[1], ranked[0]])
    for weight, one in zip(parts.weights, parts.channels, strict=True):
        place = int(np.argmin(abs(weights[0].numpy() - weight)))
        assert np.allclose(one, features[0, place].numpy(), atol=1e-6)
    assert np.allclose(parts.maps["positive"] + parts.maps["negative"], parts.maps["all"], atol=1e-5)
    assert parts.maps["all"].mean() + float(bias[0]) == pytest.approx(float(logits[0, 4]), abs=1e-4)


def test_groups_of_all_categories_are_those_of_each_together():
    said = {"a1-b1": "a", "a2-b2": "b", "b1-a1": "b", "b2-a2": "c", "b3-b3": "b"}
    answers = [Response(name, name[0], name[3], response) for name, response in said.items()]
    bias = from_responses(answers)
    every = groups_of(bias, "all")
    assert every == {"shape": ["a1-b1", "b1-a1"], "texture": ["a2-b2"]}
    each = [groups_of(bias, name) for name in ("a", "b")]
    assert every["shape"] == each[0]["shape"] + each[1]["shape"]
    assert shape_bias.chosen_categories(bias, ("all", "a", "all")) == ["all", "a"]
