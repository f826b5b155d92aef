"""Images of every kind decode to upright 8-bit RGB; plain JPEGs take the fast path to the same pixels."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from heatbox.data.files.images import (
    _register_heif,
    decode_factor,
    decode_image,
    decode_plain_jpeg,
    header_size,
    is_image,
    plain_jpeg_size,
    stored_header,
)
from heatbox.data.files.trees import FolderTree
from heatbox.data.formats.frames import orientation_of
from heatbox.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (31, 45, 3)).astype(np.uint8)


def saved(image=None, kind="JPEG", **options):
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, kind, **options)
    return buffer.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_pixels_are_those_of_pillow(subsampling, progressive, factor):
    data = saved(subsampling=subsampling, progressive=progressive)
    assert plain_jpeg_size(data) == (45, 31)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (45 // factor, 31 // factor))
        expected = np.asarray(image)
    assert np.array_equal(decode_plain_jpeg(data, (45, 31), factor), expected)


def test_factors():
    shrinks = (0.2, 1, 1.99, 2, 3.9, 4, 7.9, 8, 50)
    assert [decode_factor(shrink) for shrink in shrinks] == [1, 1, 1, 2, 2, 4, 4, 8, 8]


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'tiff:Orientation="6"/></x:xmpmeta>'
)


def with_xmp(data):
    """The same image with metadata behind its first two bytes, as older Pillows cannot write it."""
    content = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    return data[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + data[2:]


@pytest.mark.parametrize(
    "data",
    [
        saved(kind="PNG"),
        saved(Image.fromarray(PIXELS).convert("L")),
        saved(Image.fromarray(PIXELS).convert("CMYK")),
        saved(exif=orientation(6)),
        saved(exif=orientation(3)),
        with_xmp(saved()),
        saved()[:100],
        b"",
        b"\xff\xd8\xff",
        b"hello",
    ],
    ids=["png", "gray", "cmyk", "turned", "upside down", "turned by xmp", "cut", "empty", "begun", "text"],
)
def test_what_is_not_plain(data):
    assert plain_jpeg_size(data) is None


@pytest.mark.parametrize(
    "options", [{"exif": orientation(1)}, {"exif": Image.Exif()}, {"comment": b"a" * 500}]
)
def test_what_else_is_plain(options):
    assert plain_jpeg_size(saved(**options)) == (45, 31)


def test_more_pixels_than_pillow_allows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 45 * 31 - 1)
    assert plain_jpeg_size(saved()) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert plain_jpeg_size(saved()) == (45, 31)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3000), st.binary(max_size=8), st.booleans())
def test_damaged_files_give_pixels_of_their_size_or_none(place, noise, cut):
    whole = saved()
    place %= len(whole)
    data = whole[:place] + noise + (b"" if cut else whole[place + len(noise) :])
    size = plain_jpeg_size(data)
    if size is not None and size[0] * size[1] < 10**7:
        pixels = decode_plain_jpeg(data, size)
        assert pixels is None or pixels.shape == (size[1], size[0], 3)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3000), st.binary(max_size=8), st.booleans())
def test_images_are_what_pillow_makes_of_them_also_damaged_ones(place, noise, cut):
    whole = saved()
    place %= len(whole)
    data = whole[:place] + noise + (b"" if cut else whole[place + len(noise) :])
    try:
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # whatever Pillow raises
        with pytest.raises(InputError):
            decode_image(data, "a.jpg")
        return
    assert np.array_equal(np.asarray(decode_image(data, "a.jpg")), expected)


def reread(image, path, **options):
    image.save(path, **options)
    return np.asarray(decode_image(path, path.name))


def test_grayscale(tmp_path):
    assert (reread(Image.new("L", (5, 4), 77), tmp_path / "a.png") == 77).all()


def test_sixteen_bit_grayscale_keeps_its_levels(tmp_path):
    ramp = np.linspace(0, 65535, 20).astype(np.uint16).reshape(4, 5)
    found = reread(Image.fromarray(ramp), tmp_path / "a.png")
    assert np.abs(found[..., 0].astype(int) - ramp / 257).max() <= 0.5


def test_transparent_pixels_are_white(tmp_path):
    image = np.zeros((4, 5, 4), np.uint8)
    image[:, :2] = (200, 10, 20, 255)
    found = reread(Image.fromarray(image), tmp_path / "a.png")
    assert (found[:, :2] == (200, 10, 20)).all()
    assert (found[:, 2:] == 255).all()


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    found = reread(image, tmp_path / "a.png", transparency=0)
    assert (found == 255).all()


def test_cmyk(tmp_path):
    found = reread(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg")
    assert found[..., 0].min() > 200
    assert found[..., 1:].max() < 60


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right to see it upright
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 2, 4))
    found = reread(image, tmp_path / "a.png", exif=exif)
    assert found.shape == (8, 4, 3)
    assert found[:2].min() == 255
    assert found[2:].max() == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_sizes_of_headers_are_those_of_decoded_images(kind, value, tmp_path):
    data = saved(kind=kind, exif=orientation(value))
    (tmp_path / "a").write_bytes(data)
    assert header_size(data, "a") == header_size(tmp_path / "a", "a") == decode_image(data, "a").size
    assert stored_header(data, "a") == ((45, 31), value)
    found = (value, (45, 31)) if value > 1 else (1, (0, 0))
    assert orientation_of(FolderTree(tmp_path), "a") == found


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.avif", "a.HEIC", "a.heif", "a.jp2"])
def test_photographs_of_any_ending_count(name):
    assert is_image(name)
    assert not is_image(f"{name}.txt")


def test_a_package_that_reads_heic_is_used(tmp_path, monkeypatch):
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    _register_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    with pytest.raises(InputError, match=r"supported format; HEIC is read if pillow-heif is installed$"):
        decode_image(tmp_path / "a.HEIC", "a.HEIC")
    calls = []
    package = SimpleNamespace(register_heif_opener=lambda: calls.append("registered"))
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    _register_heif.cache_clear()
    for _ in range(2):
        with pytest.raises(InputError):
            header_size(tmp_path / "a.HEIC", "a.HEIC")
    assert calls == ["registered"]


def test_bytes_are_read_like_files(tmp_path):
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a.png")
    assert decode_image((tmp_path / "a.png").read_bytes(), "a").size == (3, 2)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff\xe0" + b"\0" * 40]
)
def test_a_file_that_is_not_an_image_is_reported(content):
    with pytest.raises(InputError, match=r"^x\.png: (not an image|the image is damaged)"):
        decode_image(content, "x.png")


def test_decompression_bomb(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    buffer = io.BytesIO()
    Image.new("1", (100, 100)).save(buffer, "PNG")
    with pytest.raises(InputError, match="too large to decode safely"):
        decode_image(buffer.getvalue(), "bomb.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "AVIF", "DDS", "SPIDER"])
def test_flipped_bytes_are_read_or_reported_as_damage(kind):
    rng = np.random.default_rng(3)
    buffer = io.BytesIO()
    image = Image.fromarray(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8))
    try:
        image.save(buffer, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {kind}")
    whole = np.frombuffer(buffer.getvalue(), np.uint8)
    refused = 0
    for _ in range(60):
        broken = whole.copy()
        at = rng.integers(0, min(len(whole), 200), 4)
        broken[at] = rng.integers(0, 256, 4)
        try:
            assert decode_image(broken.tobytes(), "an image").mode == "RGB"
        except InputError as error:
            assert str(error).startswith("an image: ")  # noqa: PT017 - either outcome is right
            refused += 1
    assert refused
