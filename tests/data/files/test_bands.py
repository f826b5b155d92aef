"""What networks of any number of input channels read of images and arrays."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from heatbox.data.files.images import (
    decode_for_network,
    decode_image,
    displayed,
    header_size,
    images_among,
    is_upright,
    network_image,
    shown_image,
    to_rgb,
)
from heatbox.errors import InputError

RANDOM = np.random.default_rng(0)
LEVELS = RANDOM.integers(0, 256, (12, 17, 4)).astype(np.uint8)
RGB = Image.fromarray(LEVELS[..., :3])
SIXTEEN = (LEVELS[..., 0].astype(np.uint16) * 257).astype(np.uint16)


def with_transparency():
    image = RGB.convert("P", palette=Image.Palette.ADAPTIVE)
    image.info["transparency"] = 3
    return image


def turned():
    image = RGB.copy()
    image.getexif()[0x0112] = 6
    return image


MODES = {
    "RGB": (RGB, "PNG"),
    "L": (Image.fromarray(LEVELS[..., 0]), "PNG"),
    "1": (RGB.convert("1"), "PNG"),
    "P": (RGB.convert("P"), "PNG"),
    "P transparent": (with_transparency(), "PNG"),
    "RGBA": (Image.fromarray(LEVELS), "PNG"),
    "LA": (Image.fromarray(LEVELS[..., :2], "LA"), "PNG"),
    "CMYK": (Image.fromarray(LEVELS, "CMYK"), "TIFF"),
    "I;16": (Image.fromarray(SIXTEEN), "PNG"),
    "I": (Image.fromarray(SIXTEEN.astype(np.int32)), "TIFF"),
    "F": (Image.fromarray(LEVELS[..., 0].astype(np.float32) / 7), "TIFF"),
    "LAB": (Image.fromarray(LEVELS[..., :3], "LAB"), "TIFF"),
    "YCbCr": (RGB.convert("YCbCr"), "TIFF"),
    "turned": (turned(), "JPEG"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_opened_image_is_read_as_its_file(mode, channels, tmp_path):
    image, kind = MODES[mode]
    path = tmp_path / f"it.{kind.lower()}"
    options = {"transparency": 3} if mode == "P transparent" else {}
    options |= {"exif": image.getexif()} if mode == "turned" else {}
    image.save(path, kind, **options)
    try:
        Image.open(path).load()
    except OSError:
        pytest.skip("this Pillow does not read what it writes")
    expected = np.asarray(decode_for_network(path, "it", channels))
    with Image.open(path) as opened:
        found = network_image(opened, channels)
    assert found.mode == "RGB"
    assert np.array_equal(found, expected)
    assert np.array_equal(decode_image(path, "it"), expected)
    assert found.size == ((12, 17) if mode == "turned" else (17, 12))
    assert header_size(path, "it") == found.size
    assert is_upright(found)
    assert np.array_equal(network_image(found, channels), expected)  # once more changes nothing
    with Image.open(path) as opened:
        assert np.array_equal(shown_image(opened), expected)


def test_values_of_other_modes():
    grey = LEVELS[..., 0]
    assert np.array_equal(np.asarray(to_rgb(MODES["I;16"][0]))[..., 0], grey)
    assert np.array_equal(np.asarray(to_rgb(MODES["I"][0]))[..., 0], grey)
    wide = Image.fromarray(grey.astype(np.int32) * 1000)
    assert np.abs(np.asarray(to_rgb(wide))[..., 0] - grey.astype(float) * 255 / grey.max()).max() < 1
    alpha = LEVELS[..., 3:].astype(float) / 255
    blended = LEVELS[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(to_rgb(MODES["RGBA"][0])) - blended).max() <= 1
    keyed = RGB.copy()
    keyed.info["transparency"] = tuple(LEVELS[2, 3, :3].tolist())
    assert np.asarray(to_rgb(keyed))[2, 3].tolist() == [255, 255, 255]
    for mode in ("La", "RGBa"):
        whole = Image.merge(
            "LA" if mode == "La" else "RGBA", [*RGB.split()[: len(mode) - 1], Image.new("L", RGB.size, 255)]
        )
        assert np.array_equal(to_rgb(whole.convert(mode)), to_rgb(whole))


# -------------------------------------------------------------------------------------------------- arrays


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_arrays_of_8_bits_are_pictures():
    assert np.array_equal(network_image(LEVELS[..., :3]), RGB)
    assert np.array_equal(network_image(LEVELS[..., :3].transpose(2, 0, 1)), RGB)
    grey = network_image(LEVELS[..., 0], 3)
    assert np.array_equal(grey, Image.fromarray(LEVELS[..., 0]).convert("RGB"))
    assert np.array_equal(network_image(LEVELS[..., :3], 1), RGB)


@pytest.mark.parametrize("channels", [2, 4, 5, 7])
@pytest.mark.parametrize(
    ("dtype", "scale"), [("uint8", 255), ("uint16", 65535), ("float32", 1), ("float64", 1)]
)
def test_bands_are_scaled_by_their_full_scale(channels, dtype, scale):
    array = RANDOM.integers(0, 200, (12, 17, channels)).astype(dtype)
    for one in (array, array.transpose(2, 0, 1)):
        found = network_image(one, channels)
        assert found.dtype == np.float32
        assert np.allclose(found, array / scale, rtol=1e-6)
    assert np.array_equal(decode_for_network(npy(array), "a.npy", channels), found)
    assert header_size(npy(array.transpose(2, 0, 1)), "a.npy") == (17, 12)


def test_grey_floats_for_other_channels():
    values = RANDOM.random((12, 17)).astype(np.float32)
    assert np.array_equal(network_image(values, 1)[..., 0], values)
    assert np.array_equal(network_image(values, 3), np.repeat(values[..., None], 3, axis=2))
    colour = RANDOM.random((12, 17, 3)).astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114])
    assert np.allclose(network_image(colour, 1)[..., 0], colour @ weights, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "channels", "words"),
    [
        (LEVELS.astype(np.int64), 4, "int64 have no known full scale"),
        (LEVELS, 5, r"has 4 bands, but the network reads 5 channels"),
        (LEVELS, 3, r"has 4 bands, but the network reads 3 channels"),
        (LEVELS[..., 0], 4, "has 1 band, but the network reads 4 channels"),
        (LEVELS[None], 3, r"shape \(1, 12, 17, 4\), expected"),
        (LEVELS[:0], 4, "expected numbers of shape"),
        (LEVELS.astype(complex), 4, "array of complex128"),
    ],
)
def test_arrays_that_do_not_fit(array, channels, words):
    with pytest.raises(InputError, match=words) as raised:
        network_image(array, channels, "x.npy")
    assert str(raised.value).startswith("x.npy: ")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff", npy(LEVELS)[:-5], npy(np.array([{}], object))],
)
def test_damaged_arrays(content, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    for data in (content, tmp_path / "a.npy"):
        with pytest.raises(InputError, match=r"a\.npy: is not a NumPy array"):
            decode_for_network(data, "a.npy", 4)
    with pytest.raises(InputError, match="no such image"):
        decode_image(tmp_path / "b.npy", "b.npy")


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6), st.sampled_from(["uint8", "uint16", "float32", "bool", "int32"]), st.floats(0.1, 1e6)
)
def test_anything_can_be_shown(bands, dtype, scale):
    array = (RANDOM.random((9, 11, bands)) * scale).astype(dtype)
    found = displayed(array)
    assert (found.mode, found.size) == ("RGB", (11, 9))
    array = array.astype(float)
    array[0, 0] = np.nan
    assert displayed(array).size == (11, 9)


# ---------------------------------------------------------------------------------- images of several bands


def test_stored_bands_of_images():
    rgba = Image.fromarray(LEVELS)
    assert np.allclose(network_image(rgba, 4), LEVELS / 255)
    assert np.allclose(network_image(Image.fromarray(LEVELS, "CMYK"), 4), LEVELS / 255)
    assert np.allclose(network_image(Image.fromarray(LEVELS[..., :2], "LA"), 2), LEVELS[..., :2] / 255)


def test_pages_of_a_tiff_are_bands(tmp_path):
    planes = [Image.fromarray((SIXTEEN + 3 * i).astype(np.uint16)) for i in range(5)]
    planes[0].save(tmp_path / "a.tif", save_all=True, append_images=planes[1:])
    found = decode_for_network(tmp_path / "a.tif", "a.tif", 5)
    assert np.allclose(found, np.stack([np.asarray(one) for one in planes], axis=2) / 65535)
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(2)
        network_image(image, 5)
        assert image.tell() == 2
    with pytest.raises(InputError, match=r"a\.tif: has 1 band \(I;16\), but the network reads 6 channels"):
        decode_for_network(tmp_path / "a.tif", "a.tif", 6)


def tiff(bands, bits=8, photometric=1, extra=()):
    """A TIFF of (H, W, C) as multispectral tools write it: contiguous, its bands of no stated meaning."""
    height, width, count = bands.shape
    tags = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * count),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, [0]),
        (277, 3, [count]),
        (278, 4, [height]),
        (279, 4, [bands.nbytes]),
        (284, 3, [1]),
    ]
    if extra:
        tags.append((338, 3, extra))
    start = 8 + 2 + 12 * len(tags) + 4
    body, entries = b"", b""
    for tag, kind, values in sorted(tags):
        size = {3: 2, 4: 4}[kind]
        data = b"".join(int(value).to_bytes(size, "little") for value in values)
        if len(data) > 4:
            entries += (
                tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + len(values).to_bytes(4, "little")
            )
            entries += (start + len(body)).to_bytes(4, "little")
            body += data
        else:
            entries += (
                tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + len(values).to_bytes(4, "little")
            )
            entries += b"PPPP" if tag == 273 else data.ljust(4, b"\0")
    entries = entries.replace(b"PPPP", (start + len(body)).to_bytes(4, "little"))
    head = b"II*\0" + (8).to_bytes(4, "little") + len(tags).to_bytes(2, "little")
    return head + entries + bytes(4) + body + bands.tobytes()


def test_tiffs_that_pillow_does_not_read_are_named_as_such():
    wide = RANDOM.integers(0, 65536, (12, 17, 4)).astype(np.uint16)
    with pytest.raises(InputError, match=r"Pillow does not read the bands of this TIFF; save them as \.npy"):
        decode_for_network(tiff(wide, 16), "a.tif", 4)
    five = RANDOM.integers(0, 256, (12, 17, 5)).astype(np.uint8)
    content = tiff(five, photometric=2, extra=(0, 0))
    with pytest.raises(InputError, match=r"a\.tif: has 5 bands, of which Pillow reads 3; save them as \.npy"):
        decode_for_network(content, "a.tif", 5)
    four = tiff(five[..., :4].copy(), photometric=2, extra=(2,))
    assert np.allclose(decode_for_network(four, "a.tif", 4), five[..., :4] / 255)


@pytest.mark.parametrize(("image", "words"), [(RGB, r"3 bands \(RGB\)"), (RGB.convert("L"), r"1 band \(L\)")])
def test_images_without_the_bands_of_a_network(image, words):
    with pytest.raises(InputError, match=rf"x: has {words}, but the network reads 4 channels"):
        network_image(image, 4, "x")


def test_arrays_are_images_where_there_are_no_others():
    names = ["a.npy", "b.txt", "c.jpg", "d.NPY"]
    assert list(images_among(names)) == ["c.jpg"]
    assert list(images_among(names[:2] + names[3:])) == ["a.npy", "d.NPY"]
    assert list(images_among([])) == []
