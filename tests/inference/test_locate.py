"""`heatbox locate` on folders, with classes from folders, and the annotation files that it writes."""

import csv
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from heatbox.cli.main import main
from heatbox.config import LocateConfig
from heatbox.data.glyphs import glyphs
from heatbox.errors import AssumptionWarning, InputError
from heatbox.inference.locate import find_images, locate_files, located_split
from heatbox.maps.foreground import load_foreground
from helpers.scenes import write_model
from helpers.shards import tar_shard

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """A model of three classes, and photos/CLASS/NUMBER.png, two for each class."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path)
    split = glyphs("test", 6)
    for number, example in enumerate(split):
        folder = tmp_path / "photos" / CLASSES[number // 2]
        folder.mkdir(parents=True, exist_ok=True)
        split.open_image(example).resize((50, 40)).save(folder / f"{number}.png")
    return tmp_path


def locate(*arguments):
    model = ["--model", "mine.py:blobs", "--num-classes", "3", "--size", "64", "--no-overlays"]
    return main(["locate", *arguments, *model])


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


# ------------------------------------------------------------------------------------------------- folders


def test_a_folder_means_its_images(scene, capsys):
    assert locate("photos") == 0
    named = lines(capsys.readouterr().out)
    assert locate(*sorted(map(str, Path("photos").rglob("*.png")))) == 0
    assert named == lines(capsys.readouterr().out)
    assert len(named) == 6


def test_what_people_have_in_folders(scene):
    image = (scene / "photos/ant/0.png").read_bytes()
    for name in (
        *("x/.hidden.png", "x/._0.png", "x/__MACOSX/0.png", "x/.git/0.png", "x/notes.txt", "x/Thumbs.db"),
        *("x/a/b/deep.PNG", "x/no ending", "x/ünï.jpeg", "x/empty"),
    ):
        path = scene / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name.endswith("empty") else image)
    found = [str(path) for path in find_images([Path("x")])]
    assert found == ["x/no ending", "x/ünï.jpeg", "x/a/b/deep.PNG"]


def test_a_folder_without_images_is_skipped(scene, capsys):
    (scene / "none").mkdir()
    assert locate("none", "photos/ant") == 1
    said = capsys.readouterr()
    assert len(lines(said.out)) == 2
    assert "skipped: none: is a folder without images" in said.err
    assert "1 of 3 images could not be used" in said.err
    assert locate("none") == 1


# ------------------------------------------------------------------------------------- classes from folders


def test_folders_name_the_class(scene, capsys):
    assert locate("photos", "--target", "folder", "--class-names", "cat", "bee", "ant") == 0
    said = capsys.readouterr()
    assert [(line["label"], line["name"]) for line in lines(said.out)] == [
        (2, "ant"), (2, "ant"), (1, "bee"), (1, "bee"), (0, "cat"), (0, "cat")
    ]  # fmt: skip
    assert "classes are unknown" not in said.err
    for line in lines(said.out):
        assert locate(line["file"], "--target", str(line["label"])) == 0
        (alone,) = lines(capsys.readouterr().out)
        assert alone["boxes"] == line["boxes"]


def test_an_assumed_order_is_said(scene):
    config = LocateConfig("mine.py:blobs", num_classes=3, size=64, target="folder")
    with pytest.warns(AssumptionWarning, match="classes are unknown; assumed: 0 is ant, 1 is bee, 2 is cat"):
        found = list(locate_files(sorted(Path("photos").rglob("*.png")), config))
    assert [line["label"] for line in found] == [0, 0, 1, 1, 2, 2]


def test_a_name_that_is_not_the_network_s_is_said(scene, capsys):
    assert locate("photos", "--target", "folder", "--class-names", "ant", "bee", "cow") == 0
    assert "class 'cat' is not among the classes of the network, so their order" in capsys.readouterr().err


def test_class_names_from_a_file(scene, capsys):
    (scene / "names.txt").write_bytes(b"\xef\xbb\xbfcat\r\nbee\r\n\r\nant\r\n")
    assert locate("photos/ant", "--target", "folder", "--class-names", "names.txt") == 0
    assert {line["label"] for line in lines(capsys.readouterr().out)} == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--class-names", "a", "b"], "there are 2 class names, but the model has 3 classes"),
        (
            ["photos", "--target", "folder", "--class-names", "ant", "cow", "bee"],
            "class 'cat' is not among the classes of the network",
        ),
        (
            ["photos/ant", "--target", "folder"],
            "photos/ant: has 1 classes (ant), the network 3, whose names are not known",
        ),
        (["photos", "--target", "3"], "class 3 is out of range: the model has classes 0 to 2"),
        (["photos", "--csv", "photos"], "photos: csv is written to a file"),
        (["photos", "--yolo", "."], ".: exists; choose another output or pass --overwrite"),
        (["photos", "--yolo", ".", "--overwrite"], ".: contains the data set that is to be written"),
    ],
)
def test_what_cannot_be_done_is_said_before_an_image_is_read(scene, capsys, arguments, message):
    assert locate(*arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert not said.out


# ------------------------------------------------------------------------------------------------ annotations


def test_class_folders_become_annotation_files(scene, capsys):
    names = ["--target", "folder", "--class-names", *CLASSES]
    assert (
        locate("photos", *names, "--coco", "b.json", "--csv", "b.csv", "--cvat", "b.zip", "--yolo", "y") == 0
    )
    said = capsys.readouterr()
    wanted = {
        os.path.relpath(line["file"], "photos"): (line["name"], line["boxes"], line["score"])
        for line in lines(said.out)
    }
    assert said.err.count(f"names of images are relative to {scene / 'photos'}\n") == 3
    content = json.loads(Path("b.json").read_text())
    assert [one["name"] for one in content["categories"]] == list(CLASSES)
    category = {one["id"]: one["name"] for one in content["categories"]}
    assert len(content["annotations"]) == sum(len(boxes) for _, boxes, _ in wanted.values())
    files = {one["id"]: one["file_name"] for one in content["images"]}
    assert list(files.values()) == list(wanted)
    for one in content["annotations"]:
        name, boxes, score = wanted[files[one["image_id"]]]
        x, y, w, h = one["bbox"]
        assert np.allclose([[x, y, x + w, y + h]], boxes, atol=1e-6)
        assert (category[one["category_id"]], one["score"]) == (name, score)
    with Path("b.csv").open(newline="") as file:
        assert {(row["image"], row["label"]) for row in csv.DictReader(file)} == {
            (key, name) for key, (name, _, _) in wanted.items()
        }
    with zipfile.ZipFile("b.zip") as archive:
        xml = archive.read("annotations.xml").decode()
    assert all(f'name="{key}"' in xml for key in wanted)
    assert len(list(Path("y/images/all").iterdir())) == len(list(Path("y/labels/all").iterdir())) == 6
    assert "yolo does not hold scores" in said.err


def test_predictions_name_their_model(scene):
    assert locate("photos/ant", "--labelstudio", "tasks.json") == 0
    assert {
        task["predictions"][0]["model_version"] for task in json.loads(Path("tasks.json").read_text())
    } == {"mine.py:blobs cam"}
    assert locate("photos/ant", "--labelstudio", "t.json", "--model-version", "first") == 0
    assert '"first"' in Path("t.json").read_text()


def test_classes_without_names_are_numbers(scene, capsys):
    assert locate("photos", "--target", "1", "--coco", "b.json") == 0
    assert "--class-names names them" in capsys.readouterr().err
    assert [one["name"] for one in json.loads(Path("b.json").read_text())["categories"]] == ["1"]


def test_files_from_several_places_and_links(scene, tmp_path):
    (scene / "elsewhere").mkdir()
    Image.open("photos/ant/0.png").save("elsewhere/real.png")
    (scene / "photos/bee/link.png").symlink_to(scene / "elsewhere/real.png")
    assert locate("photos/bee/link.png", "photos/ant/0.png", "photos/ant/0.png", "--coco", "out") == 0
    assert sorted(str(p.relative_to("out")) for p in Path("out").rglob("*.png")) == [
        "images/all/ant/0.png",
        "images/all/bee/link.png",
    ]
    assert not Path("out/images/all/bee/link.png").is_symlink()


def test_an_image_that_cannot_be_read_is_left_out(scene, capsys):
    (scene / "photos/ant/0.png").write_bytes(b"damaged")
    assert locate("photos", "--coco", "b.json") == 1
    assert "skipped: photos/ant/0.png" in capsys.readouterr().err
    assert len(json.loads(Path("b.json").read_text())["images"]) == 5


def test_equal_names_stay_different_classes():
    line = {"width": 4, "height": 4, "score": 0.5, "boxes": [[0, 0, 1, 1]]}
    cranes = [{"file": f"a/{label}.png", "label": label, "name": "crane", **line} for label in (134, 517)]
    split = located_split(cranes)
    assert [example.label for example in split] == [0, 1]
    assert split.class_names == ["crane", "crane"]


def test_no_image_at_all():
    with pytest.raises(InputError, match="no image was named"):
        next(locate_files([], LocateConfig("x")))


# ------------------------------------------------------------------------------------------- foreground heads


def test_a_head_is_fitted_to_the_images_and_applied_to_others(scene, capsys):
    damaged = scene / "photos/ant/damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = [
        "--model",
        "mine.py:blobs",
        "--num-classes",
        "3",
        "--size",
        "64",
        "--method",
        "walk+foreground",
    ]
    assert main(["locate", "photos", "--out", "first", *arguments]) == 1
    out, err = capsys.readouterr()
    head = Path("first/foreground.safetensors")
    assert f"the foreground head is fitted to 6 of these 7 images and saved: --foreground {head}" in err
    assert "fitted on 6 images only; from fewer than 30" in err
    assert {line["foreground"] for line in lines(out)} == {"fitted to these images"}
    assert {line["method"] for line in lines(out)} == {"walk+foreground"}
    damaged.unlink()
    one = str(scene / "photos/bee/3.png")
    assert main(["locate", one, "--no-overlays", "--foreground", str(head), *arguments]) == 0
    again, err = capsys.readouterr()
    assert "fitted" not in err
    (line,) = lines(again)
    assert line["boxes"] == next(each for each in lines(out) if each["file"].endswith("bee/3.png"))["boxes"]
    assert line["foreground"] == str(head)


def test_a_head_is_fitted_to_maps_of_the_wanted_class(scene, capsys):
    arguments = ["--model", "mine.py:blobs", "--num-classes", "3", "--size", "64", "--method", "foreground"]
    heads = []
    for number, more in enumerate(([], ["--target", "1"], ["--target", "1", "--foreground-seed", "pc1"])):
        assert main(["locate", "photos", "--out", f"out{number}", *arguments, *more]) == 0
        heads.append(load_foreground(scene / f"out{number}/foreground.safetensors"))
    assert [head.fitted_on["seeds"] for head in heads] == ["walk", "walk", "pc1"]
    first, second, _ = (head.members[0][0].weight for head in heads)
    assert not (first == second).all()
    assert "foreground:pc1" in capsys.readouterr().out


# ------------------------------------------------------------------------------------ archives and addresses


@pytest.fixture
def stored(scene):
    """The photos in archives: a zip, two shards in shards/ and a Parquet file; their names → contents."""
    files = {
        str(path.relative_to("photos")): path.read_bytes() for path in sorted(Path("photos").rglob("*.png"))
    }
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("__MACOSX/ant/._0.png", b"")
    Path("shards").mkdir()
    for number in range(2):
        members = list(files.items())[3 * number : 3 * number + 3]
        Path(f"shards/{number:03d}.tar").write_bytes(tar_shard(members))
    table = pa.table({"image": [{"bytes": content, "path": name} for name, content in files.items()]})
    pq.write_table(table, "photos.parquet", row_group_size=4)
    return files


@pytest.mark.parametrize(
    "where", ["photos.zip", "shards/*.tar", "shards", "shards/{000..001}.tar", "photos.parquet", "*.parquet"]
)
def test_images_in_archives_are_located_like_files(stored, capsys, where):
    assert locate("photos", "--coco", "files.json") == 0
    expected = lines(capsys.readouterr().out)
    assert locate(where, "--coco", "stored.json") == 0
    said = capsys.readouterr()
    found = lines(said.out)
    for one, other in zip(found, expected, strict=True):
        assert os.path.relpath(other["file"], "photos") in one["file"]
        assert one | {"file": ""} == other | {"file": ""}
    assert f"names of images are relative to {where}\n" in said.err
    names = [one["file_name"] for one in json.loads(Path("stored.json").read_text())["images"]]
    assert [name.removeprefix("000.tar/").removeprefix("001.tar/") for name in names] == list(stored)


def test_folders_in_archives_name_the_class(stored, capsys):
    assert locate("photos.zip", "shards", "--target", "folder", "--class-names", *CLASSES) == 0
    assert [line["label"] for line in lines(capsys.readouterr().out)] == [0, 0, 1, 1, 2, 2] * 2


def test_images_of_archives_and_files_together(stored, capsys):
    assert locate("photos.zip", "photos/bee", "shards/000.tar", "--coco", "out") == 0
    written = {
        str(path.relative_to("out/images/all")): path.read_bytes() for path in Path("out").rglob("*.png")
    }
    expected = {f"photos.zip/{name}": content for name, content in stored.items()}
    expected |= {f"shards-000.tar/{name}": content for name, content in list(stored.items())[:3]}
    expected |= {
        name.removeprefix("bee/"): content for name, content in stored.items() if name.startswith("bee/")
    }
    assert written == expected
    assert len(lines(capsys.readouterr().out)) == 11


def test_overlays_of_images_in_archives(stored, capsys):
    assert (
        main(
            [
                "locate",
                "photos.zip",
                "shards/000.tar",
                "--out",
                "out",
                "-m",
                "mine.py:blobs",
                "--num-classes",
                "3",
                "--size",
                "64",
            ]
        )
        == 0
    )
    names = ["0", "1", "2", "3", "4", "5", "0-2", "1-2", "2-2"]
    assert [line["overlay"] for line in lines(capsys.readouterr().out)] == [
        f"out/{name}.png" for name in names
    ]


@pytest.mark.parametrize(("name", "message"), [
    ("s3:/bucket/a.jpg", "an address is given as text, with two slashes"),
    ("missing.tar", "expected a folder or a .tar archive"),
    ("no-*.tar", "no-*.tar is no file"),
    ("empty.zip", "has no image"),
    ("text.parquet", "text.parquet: has no image"),
])  # fmt: skip
def test_what_cannot_be_opened_is_skipped(scene, name, message, capsys):
    zipfile.ZipFile("empty.zip", "w").close()
    pq.write_table(pa.table({"text": ["a"]}), "text.parquet")
    assert locate(name, "photos/ant") == 1
    said = capsys.readouterr()
    assert len(lines(said.out)) == 2
    assert message in said.err
