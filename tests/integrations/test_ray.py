"""Boxes batch by batch: those of heatbox locate and heatbox label, as callables and on a cluster of Ray."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from heatbox.cli.main import main
from heatbox.data import glyphs
from heatbox.errors import InputError
from heatbox.integrations.ray import Label, Localize

pytestmark = pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")
MODEL = {"model": "resnet10_small", "checkpoint": "pretrained", "method": "cam"}
KINDS = sorted(glyphs("test", 1).class_names)
"""The folders in the order of their classes, which are those of the network."""
WORDS = [word for key, value in MODEL.items() for word in (f"--{key}", value)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders of glyphs; one photograph is turned by EXIF."""
    folder, split = tmp_path_factory.mktemp("photos"), glyphs("test", 200)
    firsts = [next(e for e in split if e.label == label) for label in range(split.num_classes)]
    for number, example in enumerate(firsts):
        path = folder / KINDS[example.label] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        image = split.open_image(example).resize((96, 64 if number else 80))
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        image.save(path, exif=exif)
    return folder


def batches(photos, size=3):
    files = sorted(photos.rglob("*.png"))
    for start in range(0, len(files), size):
        some = files[start : start + size]
        yield {
            "bytes": [path.read_bytes() for path in some],
            "path": np.array(list(map(str, some))),
            "kind": [KINDS.index(path.parent.name) for path in some],
        }


@pytest.fixture(scope="module")
def located(photos, tmp_path_factory):
    """What heatbox locate prints, by file."""
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main(["locate", str(photos), *WORDS, "--no-overlays"]) == 0
    lines = map(json.loads, text.getvalue().splitlines())
    return {line["file"]: line for line in lines}


@pytest.fixture(scope="module")
def labelled(photos, tmp_path_factory):
    """The boxes (xyxy and class) that heatbox label writes, by the end of the path."""
    folder = tmp_path_factory.mktemp("labelled")
    words = ["label", str(photos), *WORDS, "--to", "coco", "--review", "0", "--images", "none"]
    assert main([*words, "--run", str(folder / "run"), "--out", str(folder / "out")]) == 0
    content = json.loads((folder / "out/coco.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    files = {one["id"]: one["file_name"] for one in content["images"]}
    found = {name: [] for name in files.values()}
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        found[files[one["image_id"]]].append(([x, y, x + width, y + height], names[one["category_id"]]))
    return found


def same_as_located(rows, located):
    assert len(rows) == len(located)
    for row in rows:
        line = located[row["path"]]
        for key in ("width", "height", "label", "name", "score", "boxes", "expected_confidence"):
            assert row[key] == line[key]
        assert row["error"] is None


def same_as_labelled(rows, labelled):
    assert len(rows) == len(labelled)
    for row in rows:
        name = next(name for name in labelled if row["path"].endswith(name))
        assert len(row["boxes"]) == len(labelled[name]) == len(row["confidences"])
        for (box, kind), mine, own in zip(labelled[name], row["boxes"], row["names"], strict=True):
            assert np.allclose(mine, box, atol=0.01)
            assert own == str(KINDS.index(kind))


def test_localize_is_heatbox_locate(photos, located):
    localize = Localize(**MODEL)
    rows = [row for batch in batches(photos) for row in localize(batch).to_pylist()]
    same_as_located(rows, located)
    assert all(KINDS[row["kind"]] in row["path"] for row in rows)


def test_label_is_heatbox_label(photos, labelled):
    label = Label("kind", **MODEL)
    same_as_labelled([row for batch in batches(photos) for row in label(batch).to_pylist()], labelled)


def test_decoded_images(photos, located):
    localize = Localize(**MODEL)
    files = [path for path in sorted(photos.rglob("*.png")) if path.name != "3.png"]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in files]
    rows = localize({"image": images, "path": list(map(str, files))}).to_pylist()
    assert [row["boxes"] for row in rows] == [located[str(path)]["boxes"] for path in files]


def test_bad_images_have_a_sentence(photos):
    batch = next(batches(photos))
    batch["bytes"][1] = b"no image"
    for one in (Localize(**MODEL), Label("kind", **MODEL)):
        rows = one(batch).to_pylist()
        assert [row["error"] is None for row in rows] == [True, False, True]
        assert f"{batch['path'][1]}: not an image in a supported format" in rows[1]["error"]
        assert rows[1]["boxes"] == []


def test_rows_without_a_file_have_a_sentence(photos):
    batch = next(batches(photos, 2))
    batch["bytes"] = [batch["bytes"][0], None]
    first, second = Localize(**MODEL)(batch).to_pylist()
    assert first["boxes"]
    assert first["error"] is None
    assert second["boxes"] == []
    assert "has None, expected the content of a file" in second["error"]


def test_other_columns_keep_their_types(photos):
    batch = next(batches(photos, 2))
    batch["taken"] = np.array(["2026-11-29T13:00", "2026-11-29T14:00"], "datetime64[ns]")
    batch["mask"] = [np.eye(2, dtype=np.int64)] * 2
    found = Localize(**MODEL)(batch)
    assert str(found.schema.field("taken").type) == "timestamp[ns]"
    assert found["taken"].to_numpy().tolist() == batch["taken"].tolist()
    assert found["mask"].to_pylist() == [[[1, 0], [0, 1]]] * 2


def test_an_image_that_is_left_out_is_not_named_as_its_reason(photos, monkeypatch):
    monkeypatch.setattr("heatbox.integrations.ray.label", lambda *_, **__: iter(()))
    (row,) = Label(**MODEL)(next(batches(photos, 1))).to_pylist()
    assert row["error"] == "the image is left out; a warning has the reason"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Localize(**MODEL | {"method": "walk+foreground"}),
            "learns a foreground head from all images",
        ),
        (lambda: Label(model="resnet10_small", checkpoint="pretrained"), "learns a foreground head from all"),
        (lambda: Label(), "Label needs a model"),
        (lambda: Localize(**MODEL, target="folder"), "expected a class index"),
        (lambda: Localize(**MODEL)({"pixels": []}), "there is no column bytes or image, only pixels"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.slow
def test_two_workers_of_ray(photos, located, labelled, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default workers yield to all other programs
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    try:
        files = ray.data.read_binary_files(str(photos), include_paths=True, override_num_blocks=4)

        def with_class(batch):
            return {**batch, "kind": np.array([KINDS.index(path.split("/")[-2]) for path in batch["path"]])}

        for cls, words in ((Localize, ()), (Label, ("kind",))):
            boxes = files.map_batches(with_class).map_batches(
                cls,
                fn_constructor_args=words,
                fn_constructor_kwargs=MODEL,
                batch_size=2,
                compute=ray.data.ActorPoolStrategy(size=2),
                num_cpus=0.5,
            )
            boxes.write_parquet(str(tmp_path / cls.__name__))
    finally:
        ray.shutdown()
    same_as_located(pq.read_table(tmp_path / "Localize").to_pylist(), located)
    same_as_labelled(pq.read_table(tmp_path / "Label").to_pylist(), labelled)
