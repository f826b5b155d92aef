"""Ordinary JPEGs decode to Pillow's pixels; everything else is left to Pillow."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from heatbox.data.files.jpeg import decode_factor, decode_plain_jpeg, plain_jpeg_size

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
    """The same picture with metadata behind its first two bytes, as older Pillows cannot write it."""
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
    ids=["png", "grey", "cmyk", "turned", "upside down", "turned by xmp", "cut", "empty", "begun", "text"],
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
