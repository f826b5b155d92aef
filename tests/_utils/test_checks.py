"""Public functions reject wrong types, shapes, values and empty input with a clear sentence."""

import doctest
import importlib
import re
import types

import numpy as np
import pytest
import torch
from PIL import Image

import heatbox as hb
from heatbox._utils import checks as arguments
from heatbox.data.formats.wsol import load_wsol

NAN = float("nan")
FEATURES, WEIGHTS = torch.rand(2, 3, 4, 4), torch.rand(2, 3)
NOT_FINITE = FEATURES.clone()
NOT_FINITE[0, 0, 0, 0] = NAN
MAP = np.linspace(0, 1, 64).reshape(8, 8)
MAPS = np.stack([np.linspace(0, 1, 224 * 224).reshape(224, 224)] * 2)
BOXES, SIZES = [np.array([[1, 1, 50, 50.0]])] * 2, [(100, 100)] * 2


@pytest.fixture(scope="module")
def net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    ).eval()


def scored():
    metric = hb.MaxBoxAcc()
    metric.update(MAPS, BOXES, SIZES)
    return metric.compute()


WRONG = {
    "cam numpy": lambda net: hb.cam(FEATURES.numpy(), WEIGHTS),
    "cam list": lambda net: hb.cam([[1]], WEIGHTS),
    "cam weights numpy": lambda net: hb.cam(FEATURES, WEIGHTS.numpy()),
    "cam shape": lambda net: hb.cam(FEATURES[0], WEIGHTS),
    "cam complex": lambda net: hb.cam(FEATURES.to(torch.complex64), WEIGHTS),
    "cam signs": lambda net: hb.cam(FEATURES, WEIGHTS, "none"),
    "pc1 numpy": lambda net: hb.pc1(FEATURES.numpy()),
    "pc1 nan": lambda net: hb.pc1(NOT_FINITE),
    "pc1 shape": lambda net: hb.pc1(FEATURES[0]),
    "pc1 empty": lambda net: hb.pc1(FEATURES[:, :0]),
    "pc1 None": lambda net: hb.pc1(None),
    "walk numpy": lambda net: hb.random_walk(FEATURES[:, 0].numpy(), [FEATURES]),
    "walk feats tensor": lambda net: hb.random_walk(FEATURES[:, 0], FEATURES),
    "walk feats numpy": lambda net: hb.random_walk(FEATURES[:, 0], [FEATURES.numpy()]),
    "walk none": lambda net: hb.random_walk(FEATURES[:, 0], []),
    "walk steps str": lambda net: hb.random_walk(FEATURES[:, 0], [FEATURES], steps="2"),
    "walk steps float": lambda net: hb.random_walk(FEATURES[:, 0], [FEATURES], steps=1.5),
    "walk damping nan": lambda net: hb.random_walk(FEATURES[:, 0], [FEATURES], damping=NAN),
    "walk nan": lambda net: hb.random_walk(FEATURES[:, 0], [NOT_FINITE]),
    "walk shape": lambda net: hb.random_walk(FEATURES, [FEATURES]),
    "prep str": lambda net: hb.normalize_heatmap("a"),
    "prep 1d": lambda net: hb.normalize_heatmap(np.zeros(3)),
    "prep 4d": lambda net: hb.normalize_heatmap(np.zeros((1, 1, 3, 3))),
    "prep empty": lambda net: hb.normalize_heatmap(np.zeros((0, 3))),
    "prep size 0": lambda net: hb.normalize_heatmap(MAP, 0),
    "prep size float": lambda net: hb.normalize_heatmap(MAP, 2.5),
    "prep size 3": lambda net: hb.normalize_heatmap(MAP, (1, 2, 3)),
    "prep complex": lambda net: hb.normalize_heatmap(MAP * 1j),
    "boxes str": lambda net: hb.heatmap_to_boxes("a", [0.5]),
    "boxes nan": lambda net: hb.heatmap_to_boxes(np.full((4, 4), NAN), [0.5]),
    "boxes range": lambda net: hb.heatmap_to_boxes(MAP * 3, [0.5]),
    "boxes 3d": lambda net: hb.heatmap_to_boxes(MAP[None], [0.5]),
    "boxes tau": lambda net: hb.heatmap_to_boxes(MAP, [1.0]),
    "boxes tau nan": lambda net: hb.heatmap_to_boxes(MAP, [NAN]),
    "boxes tau str": lambda net: hb.heatmap_to_boxes(MAP, "a"),
    "boxes contours": lambda net: hb.heatmap_to_boxes(MAP, [0.5], "most"),
    "boxes protocol": lambda net: hb.heatmap_to_boxes(MAP, [0.5], protocol="mine"),
    "boxes empty": lambda net: hb.heatmap_to_boxes(MAP[:0], [0.5]),
    "gauss 0": lambda net: hb.centre_gaussian(0, 4),
    "gauss float": lambda net: hb.centre_gaussian(4.5, 4),
    "gauss sigma": lambda net: hb.centre_gaussian(4, 4, 0),
    "gauss sigma nan": lambda net: hb.centre_gaussian(4, 4, NAN),
    "full -1": lambda net: hb.full_image(-1, 4),
    "full str": lambda net: hb.full_image("a", 4),
    "boot str": lambda net: hb.bootstrap_interval("abc"),
    "boot nan": lambda net: hb.bootstrap_interval(np.array([NAN])),
    "boot empty": lambda net: hb.bootstrap_interval(np.zeros(0)),
    "boot 3d": lambda net: hb.bootstrap_interval(np.zeros((1, 1, 1))),
    "boot none": lambda net: hb.bootstrap_interval(None),
    "boot res": lambda net: hb.bootstrap_interval(np.ones(3), resamples=0),
    "boot level": lambda net: hb.bootstrap_interval(np.ones(3), level=2),
    "boot Ncol0": lambda net: hb.bootstrap_interval(np.ones((3, 0))),
    "boot seed -1": lambda net: hb.bootstrap_interval(np.ones(3), seed=-1),
    "pair shape": lambda net: hb.paired_interval(np.ones(3), np.ones(4)),
    "pair scalar": lambda net: hb.paired_interval(1, 1),
    "mba iou": lambda net: hb.MaxBoxAcc(iou=2),
    "mba iou str": lambda net: hb.MaxBoxAcc(iou="a"),
    "mba contours": lambda net: hb.MaxBoxAcc(contours="x"),
    "mba thr": lambda net: hb.MaxBoxAcc(thresholds=0),
    "mba thr float": lambda net: hb.MaxBoxAcc(thresholds=0.5),
    "mba thr str": lambda net: hb.MaxBoxAcc(thresholds="a"),
    "mba threads": lambda net: hb.MaxBoxAcc(threads=-1).update(MAPS, BOXES, SIZES),
    "mba empty": lambda net: hb.MaxBoxAcc().compute(),
    "mba 2d": lambda net: hb.MaxBoxAcc().update(MAPS[0], BOXES, SIZES),
    "mba str": lambda net: hb.MaxBoxAcc().update("ab", BOXES, SIZES),
    "mba none": lambda net: hb.MaxBoxAcc().update(None, BOXES, SIZES),
    "mba nan": lambda net: hb.MaxBoxAcc().update(np.full((2, 224, 224), NAN), BOXES, SIZES),
    "mba range": lambda net: hb.MaxBoxAcc().update(MAPS * 2, BOXES, SIZES),
    "mba u8": lambda net: hb.MaxBoxAcc().update((MAPS * 255).astype(np.uint8), BOXES, SIZES),
    "mba boxes none": lambda net: hb.MaxBoxAcc().update(MAPS, [None, None], SIZES),
    "mba boxes None": lambda net: hb.MaxBoxAcc().update(MAPS, None, SIZES),
    "mba boxes str": lambda net: hb.MaxBoxAcc().update(MAPS, ["ab", "cd"], SIZES),
    "mba boxes nan": lambda net: hb.MaxBoxAcc().update(MAPS, [np.full((1, 4), NAN)] * 2, SIZES),
    "mba boxes empty": lambda net: hb.MaxBoxAcc().update(MAPS, [np.zeros((0, 4))] * 2, SIZES),
    "mba sizes": lambda net: hb.MaxBoxAcc().update(MAPS, BOXES, [(0, 0)] * 2),
    "mba sizes flat": lambda net: hb.MaxBoxAcc().update(MAPS, BOXES, [1, 2]),
    "mba sizes None": lambda net: hb.MaxBoxAcc().update(MAPS, BOXES, None),
    "mba count": lambda net: hb.MaxBoxAcc().update(MAPS, BOXES[:1], SIZES),
    "mba merge": lambda net: hb.MaxBoxAcc().merge(hb.PxAP()),
    "mba merge None": lambda net: hb.MaxBoxAcc().merge(None),
    "mba load": lambda net: hb.MaxBoxAcc().load_state_dict({}),
    "mba load None": lambda net: hb.MaxBoxAcc().load_state_dict(None),
    "mba at": lambda net: scored().at(-1.0),
    "mba at nan": lambda net: scored().at(NAN),
    "pxap shape": lambda net: hb.PxAP().update(MAPS, np.zeros((2, 4, 4), np.uint8)),
    "pxap val": lambda net: hb.PxAP().update(MAPS, np.full((2, 224, 224), 7, np.uint8)),
    "pxap none": lambda net: hb.PxAP().update(MAPS, None),
    "pxap str": lambda net: hb.PxAP().update(MAPS, ["a", "b"]),
    "pxap thr": lambda net: hb.PxAP("x"),
    "pxap empty": lambda net: hb.PxAP().compute(),
    "la logits": lambda net: hb.LocalizationAccuracy().update(MAPS, BOXES, SIZES, np.zeros(2), [0, 1]),
    "la labels": lambda net: hb.LocalizationAccuracy().update(MAPS, BOXES, SIZES, np.zeros((2, 3)), [0, 7]),
    "la labels str": lambda net: hb.LocalizationAccuracy().update(
        MAPS, BOXES, SIZES, np.zeros((2, 3)), ["a", "b"]
    ),
    "la labels float": lambda net: hb.LocalizationAccuracy().update(
        MAPS, BOXES, SIZES, np.zeros((2, 3)), [0.5, 1.0]
    ),
    "la nan": lambda net: hb.LocalizationAccuracy().update(MAPS, BOXES, SIZES, np.full((2, 3), NAN), [0, 1]),
    "la iou": lambda net: hb.LocalizationAccuracy(iou="x"),
    "stream none": lambda net: hb.score_stream(None),
    "stream empty": lambda net: hb.score_stream([]),
    "stream item": lambda net: hb.score_stream([(1, 2)]),
    "stream str": lambda net: hb.score_stream(["abcd"]),
    "stream protocol": lambda net: hb.score_stream([("a", MAPS[0], BOXES[0], SIZES[0])], protocol="x"),
    "folder": lambda net: hb.score_folder("/nowhere", []),
    "folder none": lambda net: hb.score_folder(None, None),
    "view none": lambda net: hb.ClassifierView(None),
    "view fn": lambda net: hb.ClassifierView(lambda x: x),
    "view linear": lambda net: hb.ClassifierView(torch.nn.Linear(3, 3)),
    "view np": lambda net: hb.ClassifierView(net)(np.zeros((1, 3, 8, 8))),
    "view 3d": lambda net: hb.ClassifierView(net)(torch.rand(3, 8, 8)),
    "view cw": lambda net: hb.ClassifierView(net).class_weights(torch.rand(2, 4, 6, 6), torch.tensor([0, 9])),
    "view cw list": lambda net: hb.ClassifierView(net).class_weights(torch.rand(2, 4, 6, 6), [0, 1]),
    "view cw float": lambda net: hb.ClassifierView(net).class_weights(
        torch.rand(2, 4, 6, 6), torch.tensor([0.0, 1.0])
    ),
    "view cw norm": lambda net: hb.ClassifierView(net).class_weights(
        torch.rand(2, 4, 6, 6), torch.tensor([0, 1]), "x"
    ),
    "view look layers": lambda net: hb.ClassifierView(net).extract(torch.rand(1, 3, 8, 8), layers=-1),
    "loc none": lambda net: hb.Localizer(None),
    "loc method": lambda net: hb.Localizer(net, "best"),
    "loc method int": lambda net: hb.Localizer(net, 3),
    "loc thr": lambda net: hb.Localizer(net, threshold=1),
    "loc thr str": lambda net: hb.Localizer(net, threshold="a"),
    "loc thr nan": lambda net: hb.Localizer(net, threshold=NAN),
    "loc contours": lambda net: hb.Localizer(net, contours="x"),
    "loc norm": lambda net: hb.Localizer(net, norm="x"),
    "loc call none": lambda net: hb.Localizer(net)(None),
    "loc call []": lambda net: hb.Localizer(net)([]),
    "loc call np": lambda net: hb.Localizer(net)(np.zeros((1, 3, 8, 8))),
    "loc call 3d": lambda net: hb.Localizer(net)(torch.rand(3, 8, 8)),
    "loc call img": lambda net: hb.Localizer(net)("cat.jpg"),
    "loc target": lambda net: hb.Localizer(net)(torch.rand(1, 3, 8, 8), [7]),
    "loc target str": lambda net: hb.Localizer(net)(torch.rand(1, 3, 8, 8), ["a"]),
    "loc target float": lambda net: hb.Localizer(net)(torch.rand(1, 3, 8, 8), [0.5]),
    "loc target n": lambda net: hb.Localizer(net)(torch.rand(1, 3, 8, 8), [0, 1]),
    "build none": lambda net: hb.create_model(None),
    "build no": lambda net: hb.create_model("resnet5"),
    "build classes str": lambda net: hb.create_model("test_resnet", num_classes="a"),
    "build ckpt": lambda net: hb.create_model("test_resnet", checkpoint="/nowhere"),
    "build ckpt int": lambda net: hb.create_model("test_resnet", checkpoint=3),
    "build option": lambda net: hb.create_model("test_resnet", nonsense=3),
    "load none": lambda net: hb.load_checkpoint(net, None),
    "load model": lambda net: hb.load_checkpoint(None, "/nowhere"),
    "load nofile": lambda net: hb.load_checkpoint(net, "/nowhere"),
    "conv": lambda net: hb.convert_checkpoint("/nowhere", "/tmp/x"),
    "conv None": lambda net: hb.convert_checkpoint(None, None),
    "list": lambda net: hb.list_models(3),
    "info": lambda net: hb.model_info(num_classes="a"),
    "info 0": lambda net: hb.model_info(num_classes=-1),
    "acc none": lambda net: hb.accelerate(None),
    "acc list": lambda net: hb.accelerate([net]),
    "erf none": lambda net: hb.effective_receptive_field(None, torch.rand(1, 3, 16, 16)),
    "erf imgs none": lambda net: hb.effective_receptive_field(net, None),
    "erf 3d": lambda net: hb.effective_receptive_field(net, torch.rand(3, 16, 16)),
    "erf np": lambda net: hb.effective_receptive_field(net, np.zeros((1, 3, 16, 16))),
    "erf bs": lambda net: hb.effective_receptive_field(net, torch.rand(1, 3, 16, 16), batch_size=0),
    "erf size": lambda net: hb.effective_receptive_field(net, [Image.new("RGB", (8, 8))], size=-3),
    "erf empty": lambda net: hb.effective_receptive_field(net, []),
    "erf area": lambda net: hb.effective_receptive_field(net, torch.rand(1, 3, 16, 16)).area_ratio(2),
    "erf area str": lambda net: hb.effective_receptive_field(net, torch.rand(1, 3, 16, 16)).area_ratio("a"),
    "bias none": lambda net: hb.shape_bias(None, hb.glyphs_cue_conflict(10)),
    "bias split": lambda net: hb.shape_bias(net, None),
    "bias path": lambda net: hb.shape_bias(net, "/nowhere"),
    "bias bs": lambda net: hb.shape_bias(net, hb.glyphs_cue_conflict(10), batch_size=0),
    "glyphs split": lambda net: hb.glyphs("x"),
    "glyphs count": lambda net: hb.glyphs(count=-1),
    "glyphs count str": lambda net: hb.glyphs(count="a"),
    "glyphs size": lambda net: hb.glyphs(size=3),
    "glyphs match": lambda net: hb.glyphs(texture_match=NAN),
    "glyphs seed": lambda net: hb.glyphs(count=2, seed=-1),
    "cue count": lambda net: hb.glyphs_cue_conflict(-1),
    "cue size": lambda net: hb.glyphs_cue_conflict(10, size=1),
    "wsol": lambda net: hb.open_split("/nowhere"),
    "wsol none": lambda net: hb.open_split(None),
    "wsol classes": lambda net: load_wsol("/nowhere", num_classes="a"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_get_a_sentence(name, net):
    with pytest.raises((TypeError, hb.InputError)) as raised:
        WRONG[name](net)
    words = str(raised.value)
    assert "heatbox" in raised.traceback[-1].path.as_posix()  # not by a library that it calls
    assert re.search(
        r"expected|no such|out of range|missing|not finite|cannot|contain|there is no|NaN|none of"
        r"|does not|but the model|neither|leave|other than|is not 0 <=",
        words,
    ), words


FINE = {
    "integers as features": lambda: hb.cam((FEATURES * 9).long(), WEIGHTS),
    "an empty batch": lambda: hb.pc1(FEATURES[:0]),
    "bfloat16": lambda: hb.normalize_heatmap(torch.rand(4, 4).bfloat16()),
    "no map": lambda: hb.normalize_heatmap(np.zeros((0, 3, 3))),
    "integers as a map": lambda: hb.heatmap_to_boxes(np.zeros((4, 4), int), [0.5]),
    "a tensor as a map": lambda: hb.heatmap_to_boxes(torch.rand(4, 4), [0.5]),
    "no threshold": lambda: hb.heatmap_to_boxes(MAP, []),
    "one box as four numbers": lambda: hb.MaxBoxAcc().update(MAPS, [[1, 1, 2, 2]] * 2, SIZES),
    "a NumPy number": lambda: hb.centre_gaussian(np.int64(3), np.int32(4), np.float32(0.5)),
}


@pytest.mark.parametrize("name", FINE)
def test_what_is_allowed(name):
    FINE[name]()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "None"),
        (3, "a int"),
        (np.zeros((2, 3)), "a numpy.ndarray of shape (2, 3)"),
        (torch.zeros(2), "a tensor of shape (2,)"),
    ],
)
def test_kinds(value, says):
    assert arguments.kind_of(value) == says


PUBLIC = [name for name in hb.__all__ if not isinstance(getattr(hb, name), types.ModuleType)]
HOMES = sorted({getattr(hb, name).__module__ for name in PUBLIC if name != "V2_IOU"})


@pytest.mark.parametrize("home", HOMES)
def test_examples_in_the_documentation_are_true(home):
    outcome = doctest.testmod(
        importlib.import_module(home), extraglobs={"np": np, "torch": torch}, optionflags=doctest.ELLIPSIS
    )
    assert outcome.failed == 0


def test_there_are_examples():
    found = {
        home
        for home in HOMES
        for test in doctest.DocTestFinder().find(importlib.import_module(home))
        if test.examples
    }
    assert {
        "heatbox.maps.cam",
        "heatbox.maps.pc1",
        "heatbox.metrics.max_box_acc",
        "heatbox.data.glyphs",
    } <= found


@pytest.mark.parametrize("name", PUBLIC)
def test_documentation_says_what_goes_in_and_what_can_go_wrong(name):
    thing = getattr(hb, name)
    exception = isinstance(thing, type) and issubclass(thing, Exception)
    if exception or name in ("V2_IOU", "ModelSpec"):  # ModelSpec documents each of its fields
        return
    words = thing.__doc__
    assert "Args:" in words or "Attributes:" in words or name == "full_image"
    assert "Raises:" in words or "Attributes:" in words or hasattr(thing, "update")
