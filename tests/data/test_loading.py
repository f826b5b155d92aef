"""The same pictures as torchvision's transforms give, from less decoding."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import data_trees as trees
from heatbox.data.augment import Augment
from heatbox.data.loading import TrainCrop, TrainImages
from heatbox.data.open import open_split
from heatbox.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def photo(tmp_path):
    """A smooth picture, as photographs are, so that two ways of shrinking it agree."""
    y, x = np.mgrid[:448, :448] / 448
    pixels = np.stack([x, y, (np.sin(9 * x) * np.cos(7 * y) + 1) / 2], 2) * 255
    (tmp_path / "train" / "a").mkdir(parents=True)
    path = tmp_path / "train" / "a" / "photo.jpg"
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
    return path


@pytest.mark.parametrize("size", [56, 112, 224])
def test_same_crops_as_torchvision(photo, size):
    theirs = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    for seed in range(20):
        with Image.open(photo) as image:
            torch.manual_seed(seed)
            expected = theirs(image.convert("RGB"))
        with Image.open(photo) as image:
            torch.manual_seed(seed)
            found = TrainCrop(size)(image)
        assert found.shape == expected.shape == (3, size, size)
        assert (found - expected).abs().mean() < 0.03  # a grey level is 0.017
        assert (found - expected).abs().max() < 0.3


def test_whole_picture_is_decoded_at_half_its_size(photo):
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
    picture = Image.new("RGB", (60, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "cat" / "turned.jpg", exif=exif)
    picture.convert("CMYK").save(tmp_path / "cat" / "cmyk.jpg")
    picture.convert("L").save(tmp_path / "cat" / "grey.jpg")
    (tmp_path / "dog" / "z.jpg").write_bytes((tmp_path / "cat" / "grey.jpg").read_bytes()[:300])
    data = TrainImages(open_split(str(tmp_path)), TrainCrop(32))
    assert len(data) == 6
    for index in range(5):
        image, label = data[index]
        assert image.shape == (3, 32, 32)
        assert label == (index == 4)
    with pytest.raises(InputError, match=r"z\.jpg: cannot be decoded"):
        data[5]


def test_policies():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    for policy in (Augment(), Augment(auto="", jitter=0.4)):
        changed = policy.on_picture(64, MEAN)
        assert any(not np.array_equal(np.asarray(changed(picture)), np.asarray(picture)) for _ in range(10))
        assert changed(picture).size == (64, 64)
    assert Augment(auto="", jitter=0).on_picture(64, MEAN) is None


def test_batches():
    images, labels = torch.zeros(8, 3, 32, 32), torch.arange(8) % 4
    plain, soft = Augment(erase=0).on_batch(4)(images, labels)
    assert torch.equal(plain, images)
    assert torch.allclose(soft.sum(1), torch.ones(8))
    assert torch.equal(soft.argmax(1), labels)
    assert soft.max() == pytest.approx(0.925)
    erased, _ = Augment(erase=1).on_batch(4)(images.clone(), labels)
    assert all(image.abs().max() > 0 for image in erased)
    mixed, soft = Augment(erase=0, mixup=0.8, cutmix=1.0).on_batch(4)(torch.randn(8, 3, 32, 32), labels)
    assert mixed.shape == images.shape
    assert torch.allclose(soft.sum(1), torch.ones(8), atol=1e-5)


@pytest.mark.parametrize("options", [{"erase": 2}, {"jitter": -1}, {"smoothing": 1.0}])
def test_bad_policies(options):
    with pytest.raises(InputError):
        Augment(**options)


def test_bad_policy_string():
    with pytest.raises(InputError, match="is not a policy"):
        Augment(auto="wild-m9").on_picture(64, MEAN)
