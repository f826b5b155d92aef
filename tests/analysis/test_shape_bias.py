"""Shape bias against golden numbers and counts made by hand."""

import csv
import gzip
import importlib
import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import nn

import heatbox
from heatbox.analysis.shape_bias import CATEGORIES, by_observer, read_responses
from heatbox.data.glyphs import CLASS_NAMES, glyphs_cue_conflict
from heatbox.data.types import Split
from heatbox.errors import AssumptionWarning, InputError
from helpers.scenes import MOBILENET

shape_bias = importlib.import_module("heatbox.analysis.shape_bias")  # the package has a function of that name

ROWS = [
    ("cat1-dog2.png", "cat", "dog", "cat"),
    ("cat2-dog1.png", "cat", "dog", "dog"),
    ("cat3-car1.png", "cat", "car", "cat"),
    ("cat4-cat9.png", "cat", "cat", "cat"),  # no conflict
    ("dog1-cat1.png", "dog", "cat", "na"),
    ("dog2-cat1.png", "dog", "cat", "car"),
    ("car1-cat1.png", "car", "cat", "cat"),
]
DICTIONARIES = [dict(zip(("image", "shape", "texture", "response"), row, strict=True)) for row in ROWS]


def test_counts_by_hand():
    found = shape_bias.from_responses(DICTIONARIES)
    assert found.overall == 2 / 4
    assert found.per_category == {"car": 0.0, "cat": 2 / 3, "dog": pytest.approx(math.nan, nan_ok=True)}
    assert (found.decisions.shape, found.decisions.texture, found.decisions.other) == (2, 2, 2)
    assert found.accuracy == 4 / 6
    assert found.interval[0] <= 0.5 <= found.interval[1]
    assert all(math.isnan(end) for end in found.categories["dog"].interval)


def tables(tmp_path):
    """One table in every form it may come in."""
    path = tmp_path / "answers.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("image", "shape", "texture", "response"), *ROWS])
    (tmp_path / "answers.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "marked.csv").write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    columns = {
        name: [row[i] for row in ROWS] for i, name in enumerate(("image", "shape", "texture", "response"))
    }
    raw = tmp_path / "raw.csv"  # the columns of the published raw data
    lines = ["subj,session,trial,rt,object_response,category,condition,imagename"]
    lines += [
        f"subject-01,1,{i},NaN,{row[3]},{row[1]},0,{i:04}_s5n_s01_0_{row[1]}_00_{row[0]}"
        for i, row in enumerate(ROWS)
    ]
    raw.write_text("\n".join(lines) + "\n")
    return {
        "dictionaries": DICTIONARIES,
        "columns": columns,
        "pandas": pd.DataFrame(columns),
        "read by pandas": pd.read_csv(path),
        "arrow": pa.table(columns),
        "path": path,
        "string": str(path),
        "gzip": tmp_path / "answers.csv.gz",
        "with a mark": tmp_path / "marked.csv",
        "published": raw,
    }


def test_every_form_of_table_gives_the_same(tmp_path):
    wanted = shape_bias.from_responses(DICTIONARIES)
    for name, table in tables(tmp_path).items():
        found = shape_bias.from_responses(table)
        assert found.overall == wanted.overall, name
        assert found.decisions == wanted.decisions, name
        assert str(found.per_category) == str(wanted.per_category), name


def test_missing_answers_count_as_neither():
    rows = [{**DICTIONARIES[0], "response": nothing} for nothing in (None, math.nan, "")]
    found = shape_bias.from_responses([*rows, DICTIONARIES[0]])
    assert (found.decisions.shape, found.decisions.other) == (1, 3)


def test_golden_networks_to_all_digits(shared):
    responses = read_responses(shared / "golden" / "shape_bias_responses_open.csv")
    wanted = json.loads((shared / "golden" / "shape_bias_open.json").read_text())
    groups = by_observer(responses)
    assert set(groups) == set(wanted)
    for name, numbers in wanted.items():
        found = shape_bias.from_responses(groups[name])
        assert found.overall == pytest.approx(numbers["shape_bias"], abs=1e-12)
        assert round(100 * found.overall, 1) == numbers["published_percent"]
        counts = (found.decisions.shape, found.decisions.texture, found.decisions.other)
        assert counts == (numbers["n_shape"], numbers["n_texture"], numbers["n_other"])
        for category, one in numbers["per_shape_category"].items():
            assert found.per_category[category] == pytest.approx(one["shape_bias"], abs=1e-12)


def test_golden_decisions(shared):
    wanted = json.loads((shared / "golden" / "shape_bias_decisions_open.json").read_text())
    logits = np.random.RandomState(10).standard_normal((40, 1000)) * 3
    odds = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = odds / odds.sum(1, keepdims=True)
    for aggregation in ("mean", "sum", "max"):
        assert shape_bias.decide(probabilities, CATEGORIES, aggregation) == wanted[aggregation]
    means = [shape_bias.category_scores(probabilities, CATEGORIES[name]) for name in sorted(CATEGORIES)]
    assert np.allclose(np.stack(means, 1), wanted["aggregated_mean"], atol=1e-12)


def test_golden_categories(shared):
    wanted = json.loads((shared / "golden" / "shape_bias_categories_to_imagenet_indices.json").read_text())
    assert {name: list(indices) for name, indices in CATEGORIES.items()} == wanted


def test_ties_go_to_the_first_category():
    even = np.full((1, 4), 0.25)
    assert shape_bias.decide(even, {"pear": (0, 1), "apple": (2,), "fig": (3,)}) == ["apple"]


def test_interval_is_that_of_resampled_images():
    rng = np.random.default_rng(3)
    said = rng.choice(["cat", "dog", "car"], 300, p=[0.3, 0.4, 0.3])
    rows = [{"image": "", "shape": "cat", "texture": "dog", "response": one} for one in said]
    found = shape_bias.from_responses(rows).interval
    drawn = []
    for _ in range(4000):
        again = said[rng.integers(0, 300, 300)]
        drawn.append((again == "cat").sum() / ((again == "cat") | (again == "dog")).sum())
    assert found == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.01)


class Template(nn.Module):
    """Ten logits that say for one of glyphs' classes whatever the brightness of the picture says."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        said = (images.mean((1, 2, 3)) * 40).long() % 10
        return nn.functional.one_hot(said, 10) * self.scale * 9.0


def test_a_model_on_glyphs_pairs():
    split, model = glyphs_cue_conflict(40), Template()
    found = heatbox.shape_bias(model, split, batch_size=7)
    from heatbox.data.transforms import Preprocess

    prepare = Preprocess()
    for answer, example in zip(found.responses, split, strict=True):
        said = int(model(prepare(split.open_image(example))[None]).argmax())
        assert (answer.image, answer.response) == (example.id, CLASS_NAMES[said])
        assert example.id.startswith(f"{answer.shape}/{answer.shape}")
    assert found.decisions.images == 40


def test_groups_of_a_category():
    bias = shape_bias.from_responses(DICTIONARIES)
    assert shape_bias.groups_of(bias, "cat") == {
        "shape": ["cat1-dog2.png", "cat3-car1.png"],
        "texture": ["cat2-dog1.png"],
    }
    with pytest.raises(InputError, match="no category 'fish'"):
        shape_bias.groups_of(bias, "fish")


def test_first_real_stimuli(shared, tmp_path):
    from heatbox.data.open import open_split
    from heatbox.models.factory import create_model

    (tmp_path / "mobilenet.py").write_text(MOBILENET)
    weights = shared / "weights" / "mobilenetv1_075_in1k.safetensors"
    model = create_model(f"{tmp_path / 'mobilenet.py'}:build", checkpoint=weights)
    split = open_split(str(shared / "data" / "cue-conflict-256.tar"))
    some = heatbox.shape_bias(model, split.take(24))  # the first category is airplane
    agree = sum(example.id.count("airplane") == 3 for example in split.take(24))  # folder, shape, texture
    assert set(some.categories) == {"airplane"}
    assert some.decisions.images == 24 - agree
    assert some.overall < 0.5  # networks trained on ImageNet go by texture (Geirhos et al.)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([], "contains no response"),
        ([{"image": "a", "answer": "b"}], "has the columns image, answer; expected"),
        ([DICTIONARIES[3]], "shape and texture agree"),
        (7, "is a int"),
        ([DICTIONARIES[0], {"image": "x"}], "row 2 has other columns"),
        ([{"image": "what", "response": "cat"}], "SHAPEn-TEXTUREm"),
    ],
)
def test_bad_tables(table, says):
    with pytest.raises(InputError, match=says):
        shape_bias.from_responses(table)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: is not a readable CSV"):
        shape_bias.from_responses(tmp_path / "none.csv")
    (tmp_path / "short.csv").write_text("image,shape,texture,response\na,b,c\n")
    with pytest.raises(InputError, match="line 2 has 3 cells"):
        shape_bias.from_responses(tmp_path / "short.csv")
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(b"image" * 1000)[:-9])
    with pytest.raises(InputError, match=r"torn\.csv\.gz"):
        shape_bias.from_responses(tmp_path / "torn.csv.gz")


def test_classes_that_do_not_fit():
    split = glyphs_cue_conflict(20)
    with pytest.raises(InputError, match="7 classes and the stimuli 10 categories"):
        shape_bias.categories_for(split, 7)
    with pytest.raises(InputError, match="'disc' is not one of the 16"):
        shape_bias.categories_for(split, 1000)


def test_categories_are_classes_of_the_same_name():
    split = Split("stimuli", [], ["cat", "dog", "elephant"], lambda example: None)
    with pytest.warns(AssumptionWarning, match="network's classes are unknown; assumed: 0 is cat"):
        assert shape_bias.categories_for(split, 3) == {"cat": (0,), "dog": (1,), "elephant": (2,)}
    known = ["Elephant", "bear", "cat", "dog"]
    found = shape_bias.categories_for(split, 4, known)
    assert {name: known[place].casefold() for name, (place,) in found.items()} == {n: n for n in found}
    with pytest.raises(InputError, match="class 'cat' is not among the classes of the network"):
        shape_bias.categories_for(split, 4, ["Elephant", "bear", "cow", "dog"])
    with pytest.raises(InputError, match="expected indices from 0 to 3"):
        shape_bias.decide(np.ones((1, 4)), {"a": (4,)})
