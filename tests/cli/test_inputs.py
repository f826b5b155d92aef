"""From files to what networks read: preprocessing, channels and crops of whole commands."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatbox.cli.main import main
from heatbox.config import ModelOptions
from heatbox.data.transforms import Preprocess
from heatbox.evaluation.run import Run
from heatbox.inference.localizer import Localizer
from heatbox.models.factory import create_model

NETS = """
import timm, torch
from torch import nn

def bare(in_chans=3):
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=2, in_chans=in_chans)
    size = (in_chans if in_chans == 1 else 3, 96, 96)
    net.pretrained_cfg = dict(net.pretrained_cfg, mean=(0.5, 0.4, 0.3), std=(0.25,) * 3, input_size=size)
    return net

def parallel():
    return nn.DataParallel(bare())

def compiled():
    return torch.compile(bare(), backend="eager")

class Normalized(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net((x - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.25)

def normalized():
    return Normalized(bare())

def bent():
    net = Normalized(bare())
    net.register_forward_pre_hook(lambda module, args: (args[0].clamp_min(0) ** 3,))
    return net

def grey():
    return bare(1)

def four():
    return bare(4)

def unknown():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 2))
"""
RANDOM = np.random.default_rng(0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with nets.py, and the working directory."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(seed=0, size=(70, 50)):
    """Smooth colours, on which a map has contrast."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def located(capsys, *args):
    """The lines on standard output, and on standard error, of heatbox locate."""
    code = main(["locate", "--scores", "softmax", *map(str, args)])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return code, [json.loads(line) for line in printed.out.splitlines()], printed.err.splitlines()


def data_set(root, save, count=4):
    """CLASS/image with boxes in a table; `save` writes an image to a path without ending and names it."""
    rows = ["image,x1,y1,x2,y2"]
    for label in "ab":
        (root / label).mkdir(parents=True)
        for index in range(count):
            name = save(root / label / str(index), 10 * ord(label) + index)
            rows.append(f"{label}/{name},10,8,50,40")
    (root / "boxes.csv").write_text("\n".join(rows) + "\n")
    return str(root)


def save_picture(path, seed):
    picture(seed).save(path.with_suffix(".png"))
    return f"{path.name}.png"


def save_array(path, seed):
    small = np.random.default_rng(seed).random((4, 4, 5)).astype(np.float32)
    bands = [np.asarray(Image.fromarray(band).resize((70, 50), Image.Resampling.BICUBIC)) for band in small]
    np.save(path.with_suffix(".npy"), np.stack(bands))
    return f"{path.name}.npy"


# --------------------------------------------------------------------------------------------- preprocessing


def test_wrappers_do_not_change_scores(place, capsys):
    picture().save("p.png")
    code, (expected,), notes = located(capsys, "p.png", "--model", "nets.py:bare", "--no-overlays")
    assert (code, notes) == (0, [])
    for name in ("parallel", "compiled", "normalized"):
        code, (line,), notes = located(capsys, "p.png", "--model", f"nets.py:{name}", "--no-overlays")
        assert (code, notes) == (0, [])
        assert line["score"] == pytest.approx(expected["score"], abs=2e-6)
        assert np.allclose(line["boxes"], expected["boxes"], atol=0.5)


def test_what_is_assumed_is_said_once_a_command(place, capsys):
    for seed in range(3):
        picture(seed).save(f"{seed}.png")
    data = data_set(place / "set", save_picture, 2)
    start = "note: Sequential: no preprocessing was found"
    photos = ["0.png", "1.png", "2.png"]
    _, lines, notes = located(capsys, *photos, "--model", "nets.py:unknown", "--no-overlays")
    assert len(lines) == 3
    assert len(notes) == 1
    assert notes[0].startswith(start)
    for option in ("--mean", "--std", "--size", "--interpolation"):
        assert option in notes[0]
    commands = [
        [
            "evaluate",
            "--model",
            "nets.py:unknown",
            "--data",
            data,
            "--fullsup",
            data,
            "--out",
            "run",
            "--json",
        ],
        [
            "analyze",
            "complexity",
            "--model",
            "nets.py:unknown",
            "--data",
            data,
            "--out",
            "complexity",
            "--atoms",
            "2",
        ],
    ]
    for command in commands:
        assert main(command) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: Seq")]
        assert len(said) == 1
        assert said[0].startswith(start)
    told = ["--mean", "0.5", "--std", "0.5", "--size", "64", "--interpolation", "bicubic"]
    assert located(capsys, *photos, "--model", "nets.py:unknown", "--no-overlays", *told)[2] == []
    assert len(located(capsys, "0.png", "--model", "nets.py:bent", "--no-overlays")[2]) == 1


def test_the_options_replace_what_the_model_has(place, capsys):
    picture().save("p.png")
    told = ["--size", "64", "--interpolation", "bicubic", "--std", "0.6", "--mean", "0.1", "0.2", "0.3"]
    _, (line,), notes = located(capsys, "--model", "nets.py:bent", "--no-overlays", *told, "p.png")
    assert notes == []
    prepare = Preprocess((64, 64), (0.1, 0.2, 0.3), (0.6,) * 3, "bicubic")
    found = Localizer(create_model("nets.py:bent"), preprocess=prepare)([picture()])
    assert line["score"] == round(float(found.scores()[0]), 6)


@pytest.mark.parametrize(
    "command",
    [
        ["locate"],
        ["evaluate"],
        *(["analyze", one] for one in ("erf", "shape-bias", "complexity", "activation")),
    ]
    + [["analyze", one] for one in ("class-weights", "signed-cam", "thresholds", "all")],
)
def test_every_command_that_runs_a_model_takes_its_preprocessing(command, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    text = capsys.readouterr().out
    for option in ("mean", "std", "size", "interpolation", "crop-pct"):
        assert f"--{option} " in text


def test_localizer_warns_once(place):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        localizer = Localizer(create_model("nets.py:unknown"))
        localizer([picture()])
        localizer([picture(1), picture(2)])
    assert [one.filename for one in caught] == [__file__]
    assert "no preprocessing was found" in str(caught[0].message)


# -------------------------------------------------------------------------- one way from file to pixels

GREY16 = np.asarray(picture().convert("L")).astype(np.uint16) * 200


def transparent():
    image = picture().convert("RGBA")
    image.putalpha(picture(3).convert("L"))
    return image


def exif_turned():
    image = picture()
    image.getexif()[0x0112] = 8
    return image


FILES = {
    "16.png": lambda: Image.fromarray(GREY16),
    "32.tif": lambda: Image.fromarray(GREY16.astype(np.int32)),
    "float.tif": lambda: Image.fromarray(GREY16.astype(np.float32)),
    "alpha.png": transparent,
    "la.png": lambda: transparent().convert("LA"),
    "cmyk.tif": lambda: picture().convert("CMYK"),
    "turned.jpg": exif_turned,
    "palette.png": lambda: picture().convert("P"),
    "1.png": lambda: picture().convert("1"),
    "a.png": picture,
}


@pytest.mark.parametrize("name", ["bare", "grey"])
def test_localizer_and_locate_read_the_same_pixels(name, place, capsys):
    for file, make in FILES.items():
        image = make()
        image.save(file, **({"exif": image.getexif()} if file == "turned.jpg" else {}))
    picture().save("clear.png", transparency=picture().getpixel((3, 4)))
    np.save("a.npy", np.asarray(picture()))
    files = [*FILES, "clear.png", "a.npy"]
    code, lines, _ = located(capsys, *files, "--model", f"nets.py:{name}", "--no-overlays")
    assert code == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        localizer = Localizer(create_model(f"nets.py:{name}"))
    for file, line in zip(files, lines, strict=True):
        image = np.load(file) if file == "a.npy" else Image.open(file)
        found = localizer([image])
        assert round(float(found.scores()[0]), 6) == line["score"], file
        assert np.round(found.boxes[0], 2).tolist() == line["boxes"], file
        assert found.heatmaps[0].shape == (line["height"], line["width"]), file
    by_file = dict(zip(files, lines, strict=True))
    assert by_file["a.npy"]["score"] == by_file["a.png"]["score"]
    assert (by_file["turned.jpg"]["width"], by_file["turned.jpg"]["height"]) == (50, 70)


# -------------------------------------------------------------------------------------------------- channels


def test_networks_of_one_channel_read_grey(place, capsys):
    picture().save("p.png")
    picture().convert("L").save("grey.png")
    code, (colour, grey), notes = located(
        capsys, "p.png", "grey.png", "--model", "nets.py:grey", "--out", "o"
    )
    assert code == 0
    assert len(notes) == 1
    assert "reads 1 channel, with the averages of mean and std over RGB" in notes[0]
    assert colour["score"] == grey["score"]
    assert Image.open(colour["overlay"]).size == (70, 50)
    data = data_set(place / "set", save_picture)
    assert (
        main(
            [
                "evaluate",
                "--model",
                "nets.py:grey",
                "--data",
                data,
                "--out",
                "run",
                "--json",
                "--method",
                "cam",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["images"] == 8


def test_networks_of_four_channels(place, capsys):
    save_array(Path("x"), 1)
    bands = np.load("x.npy")
    np.save("last.npy", bands.transpose(1, 2, 0))
    planes = [Image.fromarray((band * 65535).clip(0, 65535).astype(np.uint16)) for band in bands]
    planes[0].save("pages.tif", save_all=True, append_images=planes[1:])
    picture().save("p.jpg")
    files = ["x.npy", "last.npy", "pages.tif", "p.jpg"]
    code, lines, notes = located(capsys, *files, "--model", "nets.py:four", "--out", "o")
    assert code == 1
    assert [one["file"] for one in lines] == files[:3]
    assert lines[0]["score"] == lines[1]["score"]
    assert lines[2]["score"] == pytest.approx(lines[0]["score"], abs=0.01)
    assert all(Image.open(one["overlay"]).size == (70, 50) for one in lines)
    assert notes[1].startswith("skipped: p.jpg: has 3 bands (RGB), but the network reads 4 channels")
    data = data_set(place / "set", save_array)
    model = ["--model", "nets.py:four"]
    assert main(["evaluate", *model, "--data", data, "--out", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 8
    assert main(["export", "run", "--overlays", "overlays"]) == 0
    assert len(list(Path("overlays").rglob("*.png"))) == 8
    assert (
        main(["analyze", "signed-cam", *model, "--data", data, "--out", "signed", "--thresholds", "10"]) == 0
    )
    assert (
        main(
            ["analyze", "erf", *model, "--data", data, "--out", "erf", "--erf-size", "64", "--erf-grid", "0"]
        )
        == 0
    )
    capsys.readouterr()
    photos = data_set(place / "photos", save_picture)
    assert main(["evaluate", *model, "--data", photos, "--out", "other"]) == 2
    assert "0.png: has 3 bands (RGB), but the network reads 4 channels" in capsys.readouterr().err
    assert main(["evaluate", "--model", "nets.py:bare", "--data", data, "--out", "another"]) == 2
    assert "has 4 bands, but the network reads 3 channels" in capsys.readouterr().err


def test_tensors_of_another_number_of_channels(place):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        localizer = Localizer(create_model("nets.py:four"))
    torch = pytest.importorskip("torch")
    assert len(localizer(torch.rand(2, 4, 96, 96)).boxes) == 2
    with pytest.raises(ValueError, match=r"shape \(1, 3, 96, 96\), expected \(B, 4, H, W\)"):
        localizer(torch.rand(1, 3, 96, 96))
    with pytest.raises(ValueError, match="preprocess has 1 channels, but the model reads 4"):
        Localizer(localizer.view.model, preprocess=ModelOptions().preprocess(create_model("nets.py:grey")))


# ----------------------------------------------------------------------------------------------------- crops


def test_maps_of_a_crop_lie_in_the_whole_image(place, capsys):
    data = data_set(place / "set", save_picture)
    crop = ["--model", "nets.py:bare", "--crop-pct", "0.875"]
    methods = ["--method", "cam", "walk", "--target", "predicted", "--json"]
    assert main(["evaluate", *crop, "--data", data, "--out", "run", *methods]) == 0
    threshold = json.loads(capsys.readouterr().out)["methods"]["cam"]["threshold"]
    records = {record["id"]: record for batch in Run(place / "run").records() for record in batch}
    files = [f"set/{name}" for name in records]
    _, lines, _ = located(capsys, *files, *crop, "--threshold", threshold, "--out", "o")
    prepare = ModelOptions(crop_pct=0.875).preprocess(create_model("nets.py:bare"))
    x1, y1, x2, y2 = prepare.region((70, 50))
    assert 0 < x1 < x2 < 70
    assert 0 < y1 < y2 < 50
    for record, line in zip(records.values(), lines, strict=True):
        assert record["map_cam"].shape == record["map_walk"].shape == (224, 224)
        outside = record["map_cam"][:, : int(x1 / 70 * 224)]
        assert (outside == record["map_cam"].min()).all()
        assert np.allclose(line["boxes"], record["box_cam"], atol=0.01)
        (box,) = line["boxes"]
        slack = 70 / 224
        assert x1 - slack <= box[0] <= box[2] <= x2 + slack
        assert y1 - slack <= box[1] <= box[3] <= y2 + slack
    assert main(["export", "run", "--overlays", "overlays", "--npy", "maps"]) == 0
    assert main(["report", "run", "--out", "report"]) == 0
    assert (
        main(["analyze", "signed-cam", *crop, "--data", data, "--out", "signed", "--thresholds", "10"]) == 0
    )


def test_the_map_of_a_crop_is_that_of_the_cropped_picture(place):
    """What the classifier is tested on, cut out by hand, has the same logits and the same map."""
    network = create_model("nets.py:bare")
    prepare = ModelOptions(crop_pct=0.75).preprocess(network)
    image = picture(size=(256, 128))  # resized to 256 x 128: no rounding
    cut = image.crop((80, 16, 176, 112))
    whole = Localizer(network, preprocess=prepare)([image])
    part = Localizer(network)([cut])
    assert np.allclose(whole.logits, part.logits, atol=1e-4)
    assert np.allclose(whole.maps, part.maps, atol=1e-4)
    inside = whole.heatmaps[0][16:112, 80:176]
    assert np.corrcoef(inside.ravel(), part.heatmaps[0].ravel())[0, 1] > 0.99
    assert np.abs(whole.boxes[0] - (part.boxes[0] + [80, 16, 80, 16])).max() < 3
