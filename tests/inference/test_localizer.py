import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from heatbox.data.glyphs import glyphs
from heatbox.data.transforms import Preprocess
from heatbox.errors import AssumptionWarning, InputError
from heatbox.inference.localizer import Localizer
from heatbox.inference.locate import located_line
from heatbox.models.factory import create_model
from helpers.random_weights import scrambled
from helpers.scenes import write_model


@pytest.fixture
def model(tmp_path):
    return create_model(write_model(tmp_path))


def test_tensors(model):
    images = torch.randn(3, 3, 64, 96)
    found = Localizer(model)(images)
    assert torch.equal(found.labels, found.logits.argmax(1))
    assert torch.equal(found.targets, found.labels)
    assert torch.allclose(found.logits, model(images), atol=1e-6)
    assert found.maps.shape == (3, 8, 12)
    for heatmap, boxes in zip(found.heatmaps, found.boxes, strict=True):
        assert heatmap.shape == (64, 96)
        assert heatmap.min() >= 0
        assert heatmap.max() <= 1
        assert boxes.shape == (1, 4)
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes <= [96, 64, 96, 64]).all()


def test_pictures_of_any_size(model):
    pictures = [Image.new("RGB", (50, 80), "red"), Image.new("L", (90, 30), 9)]
    found = Localizer(model, "pc1")(pictures, targets=[1, 2])
    assert [heatmap.shape for heatmap in found.heatmaps] == [(80, 50), (30, 90)]
    assert found.targets.tolist() == [1, 2]


def pictures(number, side=64):
    return [
        glyph.resize((side, side)) for glyph in map(glyphs("test", number).open_image, glyphs("test", number))
    ]


@pytest.mark.parametrize("scale", [1, 255])
def test_arrays_and_tensors_of_another_scale_are_named(model, scale):
    """Numbers in [0, 255] where mean and std are those of [0, 1]."""
    localizer = Localizer(model, preprocess=Preprocess((64, 64)))
    array = np.random.default_rng(0).random((40, 50, 3), np.float32) * scale
    tensor = torch.from_numpy(array).permute(2, 0, 1)[None]
    for images in ([array], tensor, (tensor * (255 / scale)).to(torch.uint8) if scale > 1 else tensor):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            localizer(images)
        said = [str(one.message) for one in caught if "have to be divided by 255" in str(one.message)]
        assert len(said) == (scale > 1)
    own = Localizer(model, preprocess=Preprocess((64, 64), mean=(0, 0, 0), std=(1 / 255,) * 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own(tensor)  # of a network that normalizes images itself


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_overflow_are_named(model, value):
    images = torch.randn(3, 3, 64, 64)
    images[1, 0, 0, 0] = value
    localizer = Localizer(model)
    with pytest.warns(AssumptionWarning, match="its logits of some images are infinite or NaN"):
        found = localizer(images)
    assert [len(boxes) for boxes in found.boxes] == [1, 0, 1]
    line = located_line(
        replace(
            found,
            boxes=found.boxes[1:],
            targets=found.targets[1:],
            logits=found.logits[1:],
            confidences=[np.zeros(0)],
        ),
        Image.new("RGB", (64, 64)),
        None,
    )
    assert line["score"] is None


def test_a_foreground_head_is_fitted_saved_and_applied(model, tmp_path):
    localizer = Localizer(model, "walk+foreground", preprocess=Preprocess((64, 64)))
    with pytest.raises(InputError, match=r"no foreground head was fitted; Localizer\.fit_foreground"):
        localizer(pictures(1))
    with pytest.warns(AssumptionWarning, match="fitted on 5 images only"):
        head = localizer.fit_foreground(pictures(5), batch_size=2)
    assert localizer.head is head
    wanted = localizer(pictures(6))
    head.save(tmp_path / "head.safetensors", **head.fitted_on)
    other = Localizer(
        model, "walk+foreground", preprocess=Preprocess((64, 64)), foreground=tmp_path / "head.safetensors"
    )
    assert torch.equal(other(pictures(6)).maps, wanted.maps)
    assert head.fitted_on["images"] == "5"
    assert (head.fitted_on["seeds"], head.fitted_on["size"]) == ("walk", "64 x 64")


@pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")
def test_the_fit_depends_on_the_seed_the_images_and_their_targets(model):
    def fitted(method="foreground", images=None, targets=None, seed=0):
        localizer = Localizer(model, method, preprocess=Preprocess((64, 64)))
        head = localizer.fit_foreground(images or pictures(4), targets, seed=seed)
        return head.members[0][0].weight.detach().clone()

    plain = fitted()
    assert torch.equal(plain, fitted())
    assert not torch.equal(plain, fitted(seed=1))
    assert not torch.equal(plain, fitted("foreground:pc1"))
    predicted = Localizer(model, preprocess=Preprocess((64, 64)))(pictures(4)).labels
    assert torch.equal(plain, fitted(targets=predicted))
    assert not torch.equal(plain, fitted(targets=(predicted + 1) % 10))
    assert torch.equal(plain, fitted(images=Numbered(pictures(4)), targets=predicted.tolist()))
    with pytest.raises(InputError, match="2 targets of 4 images"):
        fitted(targets=[0, 1])
    with pytest.raises(InputError, match="no image to fit a foreground head on"):
        Localizer(model, "foreground").fit_foreground(iter(()))
    with pytest.raises(InputError, match="cam has no foreground head"):
        Localizer(model).fit_foreground(pictures(2))


class Numbered(Sequence):
    """Images that are opened one by one."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def test_a_head_for_tokens():
    """A network of one resolution has no larger input; what it walks on is named."""
    torch.manual_seed(0)
    vit = scrambled(create_model("test_vit", num_classes=10), (3, 160, 160))
    with pytest.warns(AssumptionWarning, match="walk is the approximation walk:patch-tokens"):
        localizer = Localizer(vit, "walk+foreground")
    assert localizer.name == "walk:patch-tokens+foreground"
    assert localizer.head_seed == "walk:patch-tokens"
    images = torch.randn(4, 3, 160, 160)
    with pytest.warns(AssumptionWarning, match="4 images only"):
        head = localizer.fit_foreground(images)
    assert head.channels == 3 * 64
    assert localizer(images).maps.shape == (4, 10, 10)


def bright_square(model, images, targets):
    """A method of one's own: the brightness of the picture itself."""
    return images.mean(1)


def test_box_of_a_method_of_ones_own(model):
    images = torch.zeros(1, 3, 224, 224)
    images[..., 50:100, 30:170] = 1
    found = Localizer(model, bright_square, threshold=0.5)(images)
    assert np.allclose(found.boxes[0], [[30, 50, 170, 100]])


def test_all_contours(model):
    images = torch.zeros(1, 3, 224, 224)
    images[..., 10:40, 10:40] = 1
    images[..., 150:200, 150:180] = 1
    found = Localizer(model, bright_square, threshold=0.5, contours="all")(images)
    assert sorted(map(tuple, found.boxes[0])) == [(10, 10, 40, 40), (150, 150, 180, 200)]


def test_a_method_may_use_gradients(model):
    def saliency(model, images, targets):
        with torch.enable_grad():
            images = images.clone().requires_grad_()
            model(images).gather(1, targets[:, None]).sum().backward()
        return images.grad.abs().sum(1)

    found = Localizer(model, saliency)(torch.randn(2, 3, 32, 32))
    assert found.maps.shape == (2, 32, 32)
    assert found.maps.any()


@pytest.mark.parametrize(
    ("options", "images", "says"),
    [
        ({"method": "best"}, None, "no map method 'best'"),
        ({"threshold": 1.0}, None, "threshold is 1.0"),
        ({}, torch.zeros(3, 8, 8), r"expected \(B, 3, H, W\)"),
        ({}, [], "no image"),
        ({}, ["a.png"], "PIL images"),
        ({"method": lambda m, x, t: x}, torch.zeros(1, 3, 32, 32), r"returned \(1, 3, 32, 32\)"),
    ],
)
def test_bad_input(model, options, images, says):
    with pytest.raises(InputError, match=says):
        Localizer(model, **options)(images)


def test_wrong_number_of_targets(model):
    with pytest.raises(InputError, match=r"targets have shape \(2,\), expected \(3,\)"):
        Localizer(model)(torch.zeros(3, 3, 32, 32), [0, 1])


def test_the_mean_box_is_for_walks(model):
    with pytest.warns(AssumptionWarning, match="was measured on random walks; assumed: it suits cam too"):
        found = Localizer(model, "cam", threshold="mean")(torch.rand(2, 3, 32, 32))
    assert [len(boxes) for boxes in found.boxes] == [1, 1]
    with pytest.raises(InputError, match="largest contours"):
        Localizer(model, "cam", threshold="mean", contours="all")
