"""Whole commands, as a person or a program would use them."""

import json
import os
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from heatbox.cli.main import main
from heatbox.evaluation import predict as evaluation
from heatbox.models.factory import create_model
from helpers.scenes import write_checkpoint, write_model, write_split


@pytest.fixture
def scene(tmp_path):
    """A data set, a model and an output folder, and the command that brings them together."""
    write_split(tmp_path / "set")
    write_model(tmp_path)
    return tmp_path


def command(scene, *more, data="set"):
    model = f"{scene / 'mine.py'}:blobs"
    return [
        "evaluate",
        "--model",
        model,
        "--data",
        str(scene / data),
        "--out",
        str(scene / "run"),
        "--size",
        "64",
        *more,
    ]


def test_evaluate_and_score_again(scene, capsys):
    assert main(command(scene, "--json")) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["images"] == 20
    assert set(first["methods"]) == {"cam", "pc1", "centre-gaussian", "full-image"}
    assert main(["evaluate", "--from-run", str(scene / "run"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == first  # the integer curves included
    assert sum(first["methods"]["cam"]["largest_contour"]["correct"][0]) > 0


def test_evaluate_prints_a_table(scene, capsys):
    assert main(command(scene)) == 0
    printed = capsys.readouterr()
    assert "MaxBoxAccV2" in printed.out
    assert "pc1 minus cam: MaxBoxAcc " in printed.out
    assert "pc1" in printed.out
    assert "run:" in printed.err
    assert " ".join(printed.err.split()).count("assumed: softmax scores, for one class per image") == 1
    assert "Traceback" not in printed.err


def test_run_folder_is_complete(scene):
    main(command(scene))
    table = pq.read_table(scene / "run" / "predictions.parquet")
    wanted = {"id", "label", "top5", "logits", "boxes", "map_cam", "map_pc1", "box_cam", "iou_cam", "iou_pc1"}
    assert wanted <= set(table.column_names)
    assert table.num_rows == 20
    assert str(table.schema.field("map_cam").type) == "list<element: float>"
    for name in ("config.json", "environment.json", "metrics.json"):
        assert json.loads((scene / "run" / name).read_text())
    assert not list((scene / "run").rglob("*.tmp"))


def test_boxes_in_the_run_agree_with_the_score(scene):
    main(command(scene))
    metrics = json.loads((scene / "run" / "metrics.json").read_text())
    iou = pq.read_table(scene / "run" / "predictions.parquet")["iou_cam"].to_numpy()
    assert 100 * (iou >= 0.5).mean() == pytest.approx(metrics["methods"]["cam"]["MaxBoxAcc"])


def test_archive_gives_the_scores_of_the_folder(scene, capsys):
    with tarfile.open(scene / "set.tar", "w") as tar:
        tar.add(scene / "set", arcname="set")
    main(command(scene, "--json"))
    folder = json.loads(capsys.readouterr().out)
    main(command(scene, "--json", "--overwrite", data="set.tar"))
    assert json.loads(capsys.readouterr().out) == folder


def test_a_bad_image_loses_nothing_and_the_run_goes_on_after_it_is_mended(scene, capsys):
    bad = scene / "set" / "images" / "test" / "000017.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:200])
    assert main(command(scene, "--batch-size", "4")) == 2
    said = capsys.readouterr().err
    assert "000017.png" in said
    assert "Traceback" not in said
    saved = [
        name for part in (scene / "run" / "parts").glob("*") for name in pq.read_table(part)["id"].to_pylist()
    ]
    assert len(saved) == 16
    bad.write_bytes(whole)
    assert main(command(scene, "--batch-size", "4", "--json")) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert main(command(scene, "--batch-size", "4", "--json", "--overwrite")) == 0
    assert json.loads(capsys.readouterr().out) == resumed


def test_interrupted_run_goes_on(scene, capsys, monkeypatch):
    real, calls = evaluation._records, []

    def stop_at_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(evaluation, "_records", stop_at_third)
    assert main(command(scene, "--batch-size", "4")) == 130
    assert "interrupted" in capsys.readouterr().err
    assert main(command(scene, "--batch-size", "4", "--json")) == 0
    assert len(calls) == 3 + 3  # 8 of 20 images were kept
    assert json.loads(capsys.readouterr().out)["images"] == 20


def test_predicted_target_and_other_options_change_the_run(scene, capsys):
    main(command(scene, "--json"))
    label = json.loads(capsys.readouterr().out)
    assert main(command(scene, "--target", "predicted")) == 2
    assert "another configuration (another target)" in capsys.readouterr().err
    main(command(scene, "--json", "--target", "predicted", "--overwrite"))
    predicted = json.loads(capsys.readouterr().out)
    assert predicted["methods"]["pc1"] == label["methods"]["pc1"]  # PC1 knows no class
    assert predicted["methods"]["cam"] != label["methods"]["cam"]


def append(path, text):
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s: (s / "set" / "localization.txt").unlink(), "localization.txt: missing"),
        (
            lambda s: append(s / "set" / "image_ids.txt", "new.png\n"),
            "class_labels.txt: has no row for image 'new.png'",
        ),
        (
            lambda s: append(s / "set" / "localization.txt", "test/000001.png,9,9,3,3\n"),
            "localization.txt, row 21",
        ),
        (
            lambda s: append(s / "set" / "localization.txt", "test/000001.png,9,9,66,30\n"),
            "outside its 64 x 64 image",
        ),
        (
            lambda s: append(s / "set" / "class_labels.txt", "x.png,10\n"),
            "row 21: label 10 is out of range, expected 0 to 9",
        ),
        (lambda s: (s / "set" / "image_ids.txt").write_text(""), "lists no image"),
        (lambda s: [p.unlink() for p in (s / "set").glob("*.txt")], "image_ids.txt: missing"),
    ],
)
def test_bad_data_is_one_sentence_and_exit_code_2(scene, capsys, spoil, says):
    spoil(scene)
    assert main(command(scene)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("heatbox: ")]
    assert len(said) == 1
    assert says in said[0]


def test_checkpoint_of_another_architecture(scene, capsys):
    path = write_checkpoint(create_model("test_resnet"), scene / "other.pth")
    assert main(command(scene, "--checkpoint", str(path))) == 2
    assert "other.pth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--method", "best"], "no map method 'best'"),
        (["--device", "toaster"], "device 'toaster' is not available"),
        (["--device", "meta"], "device 'meta' is not available"),
        (["--metadata", "nowhere"], "image_ids.txt: missing"),
        (["--num-classes", "3"], "out of range, expected 0 to 2"),
        (["--limit", "0"], "limit is 0, expected 1 or more"),
        (["--limit", "-1"], "limit is -1, expected 1 or more"),
        (["--batch-size", "0"], "batch size is 0, expected 1 or more"),
        (["--size", "0"], "size is 0, expected 1 or more"),
        (["--thresholds", "0"], "thresholds is 0, expected a positive number"),
        (["--std", "1", "0", "1"], "std above 0"),
        (["--fullsup", "nowhere"], "nowhere: expected a folder or a .tar"),
    ],
)
def test_bad_options_are_said_before_anything_is_computed(scene, capsys, more, says):
    assert main(command(scene, *more)) == 2
    assert says in capsys.readouterr().err
    assert not (scene / "run").exists()


def test_names_are_no_markup(scene, capsys):
    name = "set[/b][bold]\x1b[31mred"
    (scene / "set[").mkdir()
    (scene / "set").rename(scene / name)
    assert main(command(scene, "--method", "cam", data=name)) == 0
    printed = capsys.readouterr()
    assert "set[/b][bold]" in printed.out
    assert "b][bold]" in printed.err
    assert "\x1b" not in printed.out + printed.err


def test_an_unfinished_run_is_not_scored_as_if_it_were_whole(scene, capsys, monkeypatch):
    def stop(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("heatbox.evaluation.predict.score_run", stop)
        assert main(command(scene)) == 130
    assert "rerun the command to resume" in capsys.readouterr().err
    assert main(["evaluate", "--from-run", str(scene / "run")]) == 2
    assert "is an unfinished run that contains maps of 20 images" in capsys.readouterr().err
    assert main(command(scene)) == 0
    capsys.readouterr()
    assert main(command(scene)) == 0
    assert "contains maps already" in capsys.readouterr().err


def test_weights_that_changed_after_their_maps_were_made(scene, capsys):
    path = scene / "weights.safetensors"
    write_checkpoint(create_model(f"{scene / 'mine.py'}:blobs"), path)
    weights = ["--checkpoint", str(path), "--method", "cam"]
    assert main(command(scene, *weights)) == 0
    assert main(command(scene, *weights)) == 0
    later = path.stat().st_mtime + 60
    os.utime(path, (later, later))
    assert main(command(scene, *weights)) == 2
    assert "weights.safetensors: has changed since maps were made" in capsys.readouterr().err


def test_locate_leaves_the_pictures_alone(scene, capsys, monkeypatch):
    monkeypatch.chdir(scene)
    Image.new("RGB", (30, 20), "red").save("cat.png")
    before = (scene / "cat.png").read_bytes()
    locate = ["locate", "cat.png", "--model", "mine.py:blobs", "--size", "64", "--out"]
    assert main([*locate, "."]) == 0
    assert json.loads(capsys.readouterr().out)["overlay"] == "cat-2.png"
    assert (scene / "cat.png").read_bytes() == before
    assert main([*locate, "cat.png"]) == 2
    assert "the overlay could not be written" in capsys.readouterr().err


def test_interrupting_what_cannot_go_on(scene, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("heatbox.models.zoo.model_info", stop)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "heatbox: interrupted\n"


def test_from_run_of_nothing(tmp_path, capsys):
    assert main(["evaluate", "--from-run", str(tmp_path)]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err


def test_locate(scene, capsys, monkeypatch):
    monkeypatch.chdir(scene)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (90, 140, 4), dtype=np.uint8)
    Image.fromarray(picture).save("rgba.png")
    Image.fromarray(picture[..., 0]).save("grey.png")
    Image.fromarray(picture[..., 0].astype(np.uint16) * 200).save("deep.png")
    Image.fromarray(picture).convert("CMYK").save("cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture[..., :3]).save("turned.jpg", exif=exif)
    (scene / "broken.jpg").write_bytes((scene / "cmyk.jpg").read_bytes()[:300])
    (scene / "other").mkdir()
    Image.new("RGB", (1, 1)).save("other/grey.png")
    files = [
        "rgba.png",
        "grey.png",
        "broken.jpg",
        "deep.png",
        "cmyk.jpg",
        "turned.jpg",
        "other/grey.png",
        "none.png",
    ]
    assert main(["locate", *files, "--model", "mine.py:blobs", "--size", "64", "--out", "boxes"]) == 1
    printed = capsys.readouterr()
    lines = {line["file"]: line for line in map(json.loads, printed.out.splitlines())}
    assert set(lines) == set(files) - {"broken.jpg", "none.png"}
    assert "broken.jpg" in printed.err
    assert "2 of 8 images" in printed.err
    assert (lines["turned.jpg"]["width"], lines["turned.jpg"]["height"]) == (90, 140)
    overlays = {line["overlay"] for line in lines.values()}
    assert len(overlays) == len(lines)
    for line in lines.values():
        assert Image.open(line["overlay"]).size == (line["width"], line["height"])
        for x1, y1, x2, y2 in line["boxes"]:
            assert 0 <= x1 <= x2 <= line["width"]
            assert 0 <= y1 <= y2 <= line["height"]


def test_locate_with_nothing_to_do(scene, capsys):
    assert main(["locate", "--model", f"{scene / 'mine.py'}:blobs"]) == 2
    assert "no image was named" in capsys.readouterr().err


def test_locate_of_a_class_that_is_not_there(scene, capsys):
    picture = str(next((scene / "set" / "images" / "test").glob("*.png")))
    assert main(["locate", picture, "--model", f"{scene / 'mine.py'}:blobs", "--target", "10"]) == 2
    assert "classes 0 to 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["evaluate", "--help"], ["locate", "--help"], ["demo", "--help"]]
)
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert "usage: heatbox" in capsys.readouterr().out


def test_a_failing_disk_is_said_in_a_sentence(capsys, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error", "/dev/broken")

    monkeypatch.setattr("heatbox.models.zoo.model_info", fail)
    assert main(["models"]) == 2
    assert capsys.readouterr().err == "heatbox: /dev/broken: Input/output error\n"


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise OSError("of no file")

    monkeypatch.setattr("heatbox.models.zoo.model_info", fail)
    with pytest.raises(OSError, match="of no file"):
        main(["models"])
