"""The same images as from torchvision's transforms, with less decoding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from heatbox.data.augment import Augment
from heatbox.data.glyphs import glyphs
from heatbox.data.loader import TrainCrop, TrainImages, normalize, preprocessed, resized_crop
from heatbox.data.open import open_split
from heatbox.data.transforms import Preprocess
from heatbox.errors import InputError
from helpers import data_trees as trees

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def photo(tmp_path):
    """A smooth image, as photographs are, so that two methods of resizing agree."""
    y, x = np.mgrid[:448, :448] / 448
    pixels = np.stack([x, y, (np.sin(9 * x) * np.cos(7 * y) + 1) / 2], 2) * 255
    (tmp_path / "train" / "a").mkdir(parents=True)
    path = tmp_path / "train" / "a" / "photo.jpg"
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
    return path


def both(path, size, seed):
    """torchvision's tensor and ours of the same draws, in levels of 255."""
    theirs = transforms.Compose(
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )
    with Image.open(path) as image:
        torch.manual_seed(seed)
        expected = theirs(image.convert("RGB"))
    torch.manual_seed(seed)
    found = TrainCrop(size, mean=(0, 0, 0), std=(1 / 255,) * 3).from_jpeg(path.read_bytes())
    return expected, found


def test_the_crops_of_torchvision_to_two_levels(photo):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (448, 448, 3)).astype(np.uint8))
    noise.save(photo, quality=95)  # the worst case for any interpolation
    for seed in range(30):
        expected, found = both(photo, 300, seed)  # so large that nothing is decoded smaller
        assert (found - expected).abs().max() <= 2  # two passes, each rounded


@pytest.mark.parametrize("size", [56, 112, 224])
def test_crops_decoded_smaller_are_close_to_torchvision(photo, size):
    for seed in range(20):
        expected, found = both(photo, size, seed)
        assert found.shape == expected.shape == (3, size, size)
        assert (found - expected).abs().mean() < 1.5
        assert (found - expected).abs().max() < 16


@pytest.mark.parametrize("ratio", [None, (3 / 4, 4 / 3)])
def test_jpegs_and_opened_images_give_the_same_tensor(photo, ratio):
    for seed in range(10):
        transform = TrainCrop(96, ratio=ratio)
        torch.manual_seed(seed)
        fast = transform.from_jpeg(photo.read_bytes())
        torch.manual_seed(seed)
        with Image.open(photo) as image:
            assert torch.equal(transform(image), fast)


def test_whole_image_is_decoded_at_half_its_size(photo):
    with Image.open(photo) as image:
        found = TrainCrop(224, ratio=None, flip=0)(image)
        assert image.size == (224, 224)
    with Image.open(photo) as image:
        squashed = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)) / 255
    expected = (
        torch.from_numpy(squashed).permute(2, 0, 1) - torch.tensor(MEAN)[:, None, None]
    ) / torch.tensor(STD)[:, None, None]
    assert (found - expected).abs().mean() < 0.03


def test_never_decoded_below_what_the_crop_needs(photo):
    for seed in range(30):
        torch.manual_seed(seed)
        crop = TrainCrop(100)
        left, top, right, bottom = crop.crop(448, 448)
        torch.manual_seed(seed)
        with Image.open(photo) as image:
            crop(image)
            scale = image.width / 448
        if min(right - left, bottom - top) >= 100:
            assert min(right - left, bottom - top) * scale >= 99


def test_dataset_reads_every_kind_and_names_what_is_broken(tmp_path):
    trees.classes(tmp_path, count=1)
    image = Image.new("RGB", (60, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "cat" / "turned.jpg", exif=exif)
    image.convert("CMYK").save(tmp_path / "cat" / "cmyk.jpg")
    image.convert("L").save(tmp_path / "cat" / "gray.jpg")
    (tmp_path / "dog" / "z.jpg").write_bytes((tmp_path / "cat" / "gray.jpg").read_bytes()[:300])
    data = TrainImages(open_split(str(tmp_path)), TrainCrop(32))
    assert len(data) == 6
    for index in range(5):
        image, label = data[index]
        assert image.shape == (3, 32, 32)
        assert label == (index == 4)
    with pytest.raises(InputError, match=r"z\.jpg: cannot be decoded"):
        data[5]


@pytest.mark.parametrize("augment", [None, lambda image: image.rotate(90)])
def test_bytes_are_normalize_later(photo, augment):
    data = photo.read_bytes()
    torch.manual_seed(1)
    now = TrainCrop(64, augment=augment).from_jpeg(data)
    torch.manual_seed(1)
    later = TrainCrop(64, augment=augment, as_bytes=True).from_jpeg(data)
    assert later.dtype == torch.uint8
    assert torch.equal(normalize(later[None], MEAN, STD)[0], now)
    expected = transforms.Normalize(MEAN, STD)(later.float() / 255)
    assert torch.allclose(now, expected, atol=1e-5)


def test_an_odd_batch_is_mixed_but_for_its_last_image():
    images, labels = torch.randn(5, 3, 16, 16), torch.arange(5) % 4
    mixed, soft = Augment(erase=0, mixup=0.8).batch_transform(4)(images.clone(), labels)
    assert torch.equal(mixed[4], images[4])
    assert not torch.equal(mixed[0], images[0])
    assert soft[4].tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025])
    assert torch.allclose(soft.sum(1), torch.ones(5))


def exif(value):
    found = Image.Exif()
    found[0x0112] = value
    return {"exif": found}


RGB = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3)).astype(np.uint8))
GREY16 = Image.fromarray((np.arange(2400, dtype=np.uint16) * 27).reshape(40, 60))
KINDS = {
    "plain.jpg": (RGB, "JPEG", {}),
    "progressive.jpg": (RGB, "JPEG", {"progressive": True, "subsampling": 0}),
    "gray.jpg": (RGB.convert("L"), "JPEG", {}),
    "cmyk.jpg": (RGB.convert("CMYK"), "JPEG", {}),
    "turned.jpg": (RGB, "JPEG", exif(6)),
    "mirrored.jpg": (RGB, "JPEG", exif(2)),
    "upright.jpg": (RGB, "JPEG", exif(1)),
    "misnamed.jpg": (RGB, "PNG", {}),
    "clear.png": (RGB.convert("RGBA").rotate(30), "PNG", {}),
    "palette.png": (RGB.convert("P"), "PNG", {}),
    "deep.png": (GREY16, "PNG", {}),
    "turned.png": (RGB, "PNG", exif(8)),
    "other.webp": (RGB, "WEBP", {"lossless": True}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_has_the_pixels_of_the_decoder(tmp_path, name):
    image, kind, options = KINDS[name]
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / name, kind, **options)
    split = open_split(str(tmp_path))
    transform = TrainCrop(48, ratio=None, flip=0, as_bytes=True)
    found, _ = TrainImages(split, transform)[0]
    expected = split.open_image(split.examples[0]).resize((48, 48), Image.Resampling.BILINEAR)
    assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).max() <= 1


side = st.integers(1, 90)


@settings(max_examples=150, deadline=None)
@given(st.tuples(side, side), st.tuples(*[st.floats(0, 1)] * 4), st.integers(1, 70))
def test_any_crop_is_that_of_torchvision(size, share, wanted):
    width, height = size
    left, top = int(share[0] * (width - 1)), int(share[1] * (height - 1))
    right = left + 1 + int(share[2] * (width - left - 1))
    bottom = top + 1 + int(share[3] * (height - top - 1))
    pixels = np.random.default_rng([width, height]).integers(0, 256, (height, width, 3)).astype(np.uint8)
    found = resized_crop(pixels, (left, top, right, bottom), size, wanted)
    expected = transforms.functional.resized_crop(
        Image.fromarray(pixels), top, left, bottom - top, right - left, [wanted, wanted]
    )
    assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).max() <= 2


def test_policies():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    for policy in (Augment(), Augment(auto="", jitter=0.4)):
        changed = policy.image_transform(64, MEAN)
        assert any(not np.array_equal(np.asarray(changed(image)), np.asarray(image)) for _ in range(10))
        assert changed(image).size == (64, 64)
    assert Augment(auto="", jitter=0).image_transform(64, MEAN) is None


def test_batches():
    images, labels = torch.zeros(8, 3, 32, 32), torch.arange(8) % 4
    plain, soft = Augment(erase=0).batch_transform(4)(images, labels)
    assert torch.equal(plain, images)
    assert torch.allclose(soft.sum(1), torch.ones(8))
    assert torch.equal(soft.argmax(1), labels)
    assert soft.max() == pytest.approx(0.925)
    erased, _ = Augment(erase=1).batch_transform(4)(images.clone(), labels)
    assert all(image.abs().max() > 0 for image in erased)
    mixed, soft = Augment(erase=0, mixup=0.8, cutmix=1.0).batch_transform(4)(
        torch.randn(8, 3, 32, 32), labels
    )
    assert mixed.shape == images.shape
    assert torch.allclose(soft.sum(1), torch.ones(8), atol=1e-5)


@pytest.mark.parametrize("options", [{"erase": 2}, {"jitter": -1}, {"smoothing": 1.0}])
def test_bad_policies(options):
    with pytest.raises(InputError):
        Augment(**options)


def test_bad_policy_string():
    with pytest.raises(InputError, match="is not a policy"):
        Augment(auto="wild-m9").image_transform(64, MEAN)


@pytest.mark.parametrize("count", [0, 1, 3, 7])
@pytest.mark.parametrize("size", [1, 3, 10])
def test_batches_have_all_images_in_order(count, size):
    split, preprocess = glyphs("test", count=7), Preprocess((32, 32))
    examples = split.examples[:count]
    batches = list(preprocessed(split, examples, preprocess, size))
    assert [len(chunk) for chunk, _ in batches] == [len(images) for _, images in batches]
    assert [example for chunk, _ in batches for example in chunk] == list(examples)
    for chunk, images in batches:
        expected = torch.stack([preprocess(split.open_image(example)) for example in chunk])
        torch.testing.assert_close(images, expected, rtol=0, atol=0)
