"""Data sets of the datasets library and WebDataset."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from heatbox.data.open import open_data_set, open_split
from heatbox.errors import InputError
from helpers import data_trees as trees


def rows(numbers=False, key="categories"):
    """Rows of metadata as the datasets library documents them."""
    for name, (_, objects) in trees.SHOTS.items():
        kinds = [trees.SHOT_CLASSES.index(kind) if numbers else kind for kind, _ in objects]
        boxes = [[x1, y1, x2 - x1, y2 - y1] for _, (x1, y1, x2, y2) in objects]
        yield {"file_name": name, "objects": {"bbox": boxes, key: kinds}}


def features(key="categories"):
    label = {"names": list(trees.SHOT_CLASSES), "_type": "ClassLabel"}
    objects = {
        "bbox": {"feature": {"feature": {"dtype": "float32"}}},
        key: {"feature": label, "_type": "Sequence"},
    }
    content = {"info": {"features": {"image": {"_type": "Image"}, "objects": objects}}}
    return {b"huggingface": json.dumps(content).encode()}


@pytest.mark.parametrize("folder", ["", "train", "validation"])
@pytest.mark.parametrize("key", ["categories", "category", "label"])
def test_metadata_jsonl(tmp_path, folder, key):
    trees.shots(tmp_path / folder)
    trees.write(
        tmp_path / folder / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows(key=key))
    )
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("Hugging Face folder", (folder or "all",))
    trees.same_as_shots(data.load(data.splits[0]))


def test_metadata_csv(tmp_path):
    trees.shots(tmp_path / "train")
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["file_name", "label"])
    table.writerows([name, "b" if name.endswith("png") else "a"] for name in trees.SHOTS)
    trees.write(tmp_path / "train/metadata.csv", text.getvalue())
    split = open_split(f"{tmp_path}:train")
    assert [e.label for e in split] == [0, 0, 1, 0]


def test_metadata_parquet_with_named_numbers(tmp_path):
    trees.shots(tmp_path / "train")
    table = pa.Table.from_pylist(list(rows(numbers=True))).replace_schema_metadata(features())
    pq.write_table(table, tmp_path / "train/metadata.parquet")
    trees.same_as_shots(open_split(f"{tmp_path}:train"))


@pytest.mark.parametrize(
    ("row", "labels", "names"),
    [
        ({"label": "cat"}, (0,), ["cat"]),
        ({"label": 7}, (7,), ()),
        ({"labels": ["dog", "cat"]}, (0, 1), ["cat", "dog"]),
        ({"labels": []}, (), []),
        ({"label": "cat", "objects": {"bbox": [[1, 2, 3, 4]]}}, (0,), ["cat"]),
        ({"objects": [{"bbox": [1, 2, 3, 4], "category": "cat"}]}, (0,), ["cat"]),
        ({"bbox": [[1, 2, 3, 4]], "label": "cat"}, (0,), ["cat"]),
    ],
)
def test_forms_of_labels(tmp_path, row, labels, names):
    trees.write_image(tmp_path / "a.jpg")
    trees.write(tmp_path / "metadata.jsonl", json.dumps({"file_name": "a.jpg", **row}) + "\n")
    split = open_split(str(tmp_path))
    assert (split.examples[0].labels, split.class_names) == (labels, names)
    if "bbox" in str(row):
        assert split.examples[0].boxes.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"row 2: is not JSON"),
        ("[]", r"row 2: is not an object"),
        ('{"label": 1}', "row 2: expected file_name"),
        ('{"file_name": "../../x.jpg"}', r"row 2: file_name .* leads out"),
        ('{"file_name": "b.jpg"}', r"row 2: image 'b\.jpg' is missing"),
        ('{"file_name": "a.jpg", "label": true}', r"row 2: .*listed twice|row 2: expected label"),
        (
            '{"file_name": "c.jpg", "objects": {"bbox": [[1, 2, 3]], "categories": ["x"]}}',
            "row 2: expected label or",
        ),
        (
            '{"file_name": "c.jpg", "objects": {"bbox": [[1, 2, 3, 4]], "categories": []}}',
            "1 boxes, 0 classes",
        ),
        (
            '{"file_name": "c.jpg", "label": "x", "objects": {"bbox": [[1, 2, 50, 4]]}}',
            "row 2, object 0: box .* outside",
        ),
    ],
)
def test_errors_name_file_and_row(tmp_path, line, message):
    for name in "ac":
        trees.write_image(tmp_path / f"{name}.jpg")
    trees.write(tmp_path / "metadata.jsonl", '{"file_name": "a.jpg", "label": "x"}\n' + line + "\n")
    with pytest.raises(InputError, match=rf"metadata\.jsonl, .*{message}"):
        open_split(str(tmp_path))


# ------------------------------------------------------------------------------------------ Parquet shards


def shard(path, names, root, metadata=True, image=None):
    found = {row["file_name"]: row for row in rows(numbers=metadata)}
    content = []
    for name in names:
        data = (root / name).read_bytes()
        content.append({"image": image or {"bytes": data, "path": name}, "objects": found[name]["objects"]})
    table = pa.Table.from_pylist(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(features() if metadata else None), path, row_group_size=1)


@pytest.mark.parametrize("archive", [False, True])
def test_parquet_shards(tmp_path, archive):
    trees.shots(tmp_path / "images")
    names = list(trees.SHOTS)
    shard(tmp_path / "set/data/train-00000-of-00002.parquet", names[:3], tmp_path / "images")
    shard(tmp_path / "set/data/train-00001-of-00002.parquet", names[3:], tmp_path / "images")
    shard(tmp_path / "set/data/test-00000-of-00001-0123456789abcdef.parquet", names[:1], tmp_path / "images")
    if archive:
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            tar.add(tmp_path / "set", "set")
    data = open_data_set(tmp_path / ("set.tar" if archive else "set"))
    assert (data.layout, data.splits) == ("Hugging Face folder", ("test", "train"))
    split = data.load("train")
    trees.same_as_shots(split)
    for example in split:
        with Image.open(tmp_path / "images" / example.id) as image:
            assert np.array_equal(np.asarray(split.open_image(example)), np.asarray(image.convert("RGB")))
    assert len(data.load("test")) == 1


def test_rows_without_names_of_files(tmp_path):
    trees.shots(tmp_path)
    data = (tmp_path / "shot 0.jpg").read_bytes()
    table = pa.table({"image": [{"bytes": data, "path": None}] * 2, "label": [3, 0]})
    pq.write_table(table, tmp_path / "val.parquet")
    split = open_split(str(tmp_path))
    assert [(e.id, e.label) for e in split] == [("val/000000", 3), ("val/000001", 0)]
    assert split.class_names == ()
    assert split.open_image(split.examples[1]).size == (120, 80)


def test_a_damaged_shard(tmp_path):
    trees.shots(tmp_path / "images")
    path = tmp_path / "set/train-00000-of-00001.parquet"
    shard(path, list(trees.SHOTS), tmp_path / "images")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"train-00000-of-00001\.parquet: is not a readable Parquet file"):
        open_split(str(tmp_path / "set"))


def test_a_row_without_an_image(tmp_path):
    data = pa.array(
        [{"bytes": None, "path": "x.jpg"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": data, "label": ["a"]}), tmp_path / "train.parquet")
    split = open_split(str(tmp_path))
    with pytest.raises(
        InputError, match=r"train\.parquet, row 0 of group 0 \(x\.jpg\): has no bytes of an image"
    ):
        split.open_image(split.examples[0])


# ---------------------------------------------------------------------------------- objects of the library


class Feature:
    """A ClassLabel, or a list of one, as the library has them."""

    def __init__(self, names=None, feature=None):
        self.names, self.feature = names, feature


class Dataset:
    """The part of `datasets.Dataset` that is used."""

    def __init__(self, columns, features):
        self.columns, self.features = columns, features
        self.column_names = list(columns)
        self.num_rows = len(next(iter(columns.values())))

    def __len__(self):
        return self.num_rows

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        return {name: column[key] for name, column in self.columns.items()}


def own_dataset():
    images = [Image.new("RGB", size) for size, _ in trees.SHOTS.values()]
    label = Feature(feature=Feature(list(trees.SHOT_CLASSES)))
    objects = [row["objects"] for row in rows(numbers=True)]
    return Dataset(
        {"image": images, "objects": objects},
        {"image": Feature(), "objects": {"bbox": Feature(), "categories": label}},
    )


def test_a_dataset_of_the_library():
    split = open_split(own_dataset())
    assert split.class_names == list(trees.SHOT_CLASSES)
    for example, (size, objects) in zip(split, trees.SHOTS.values(), strict=True):
        assert example.boxes.tolist() == [list(map(float, box)) for _, box in objects]
        assert split.open_image(example).size == size
    assert [e.labels for e in split] == [(1,), (0, 1), (), (0,)]


def test_a_dictionary_of_datasets():
    one = Dataset({"img": [Image.new("L", (4, 4))], "label": [1]}, {"label": Feature(["a", "b"])})
    split = open_split({"train": own_dataset(), "test": one})
    assert (split.name, [e.label for e in split], split.class_names) == ("test", [1], ["a", "b"])
    assert split.open_image(split.examples[0]).mode == "RGB"
    with pytest.raises(InputError, match="no column image, only text"):
        open_split(Dataset({"text": ["a"]}, {}))
    with pytest.raises(TypeError, match=r"expected a path, glyphs:SPLIT or a datasets\.Dataset"):
        open_split(3)


def test_the_library_itself(tmp_path):
    datasets = pytest.importorskip("datasets")
    trees.shots(tmp_path)
    trees.write(tmp_path / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows()))
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), split="train")
    ours, found = open_split(str(tmp_path)), open_split(theirs)
    assert [e.boxes.tolist() for e in found] == [e.boxes.tolist() for e in ours]


# ---------------------------------------------------------------------------------------------- WebDataset


def samples(path, names, root, label=None):
    """An archive of samples with a JSON file each, or with a class."""
    found = {row["file_name"]: row for row in rows()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            suffix = name.rpartition(".")[2]
            content = json.dumps({"objects": found[name]["objects"]}) if label is None else label(number)
            parts = {suffix: (root / name).read_bytes(), "json" if label is None else "cls": content.encode()}
            for ending, data in parts.items():
                info = tarfile.TarInfo(f"{number:06d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_shards_of_webdataset(tmp_path):
    trees.shots(tmp_path / "images")
    names = list(trees.SHOTS)
    samples(tmp_path / "set/train-000000.tar", names[:3], tmp_path / "images")
    samples(tmp_path / "set/train-000001.tar", names[3:], tmp_path / "images")
    samples(tmp_path / "set/val-000000.tar", names[:1], tmp_path / "images")
    data = open_data_set(tmp_path / "set")
    assert (data.layout, data.splits) == ("WebDataset", ("train", "val"))
    split = data.load("train")
    assert [e.id for e in split] == [
        *(f"train-000000.tar/{k:06d}.{'png' if k == 2 else 'jpg'}" for k in range(3)),
        "train-000001.tar/000000.jpg",  # of a name that the first archive has, too
    ]
    for example, (size, objects) in zip(split, trees.SHOTS.values(), strict=True):
        assert example.boxes.tolist() == [list(map(float, box)) for _, box in objects]
        assert split.open_image(example).size == size


def test_classes_of_webdataset(tmp_path):
    trees.shots(tmp_path / "images")
    samples(tmp_path / "a.tar", list(trees.SHOTS), tmp_path / "images", label=lambda k: str(5 - k))
    split = open_split(str(tmp_path / "a.tar"))
    assert [e.label for e in split] == [5, 4, 3, 2]
    samples(tmp_path / "a.tar", list(trees.SHOTS), tmp_path / "images", label=lambda k: "ab"[k % 2])
    assert [(e.label, e.id) for e in open_split(str(tmp_path / "a.tar"))][:2] == [
        (0, "000000.jpg"),
        (1, "000001.jpg"),
    ]
    samples(tmp_path / "a.tar", list(trees.SHOTS), tmp_path / "images", label=lambda k: "\n")
    with pytest.raises(InputError, match=r"a\.tar:000000\.cls: expected a class"):
        open_split(str(tmp_path / "a.tar"))
