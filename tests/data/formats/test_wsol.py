"""The metadata layout, as it should be and as it is found."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from heatbox.config import ScoreConfig
from heatbox.data.check import check_data
from heatbox.data.files.archives import open_tree
from heatbox.data.formats.wsol import load_wsol
from heatbox.data.open import open_split
from heatbox.data.problems import LeftOut
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.run import Run
from heatbox.evaluation.score import score_heatmaps
from helpers import data_trees as trees
from helpers.scenes import write_split

FILES = {
    "image_ids.txt": "a/one.png\nb, two.png\n",
    "class_labels.txt": "a/one.png,3\nb, two.png,0\n",
    "image_sizes.txt": "a/one.png,20,10\nb, two.png,8,8\n",
    "localization.txt": "a/one.png,1,2,19,9\na/one.png,0,0,5,5\nb, two.png,2,2,6,6\n",
}


def write(folder, **changes):
    """A split of two images, with some files replaced (None leaves one out)."""
    (folder / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (20, 10), "red").save(folder / "images" / "a" / "one.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "images" / "b, two.png")
    for name, text in FILES.items():
        text = changes.get(name.removesuffix(".txt"), text)
        if text is not None:
            (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def check(split):
    assert [e.id for e in split] == ["a/one.png", "b, two.png"]
    assert [e.label for e in split] == [3, 0]
    assert split.examples[0].size == (20, 10)
    assert np.array_equal(split.examples[0].boxes, [[1, 2, 19, 9], [0, 0, 5, 5]])
    assert split.num_classes == 4
    assert [split.open_image(e).size for e in split] == [(20, 10), (8, 8)]


def test_folder(tmp_path):
    check(load_wsol(write(tmp_path / "set")))


@pytest.mark.parametrize("top", ["", "set/", "./"])
def test_archive(tmp_path, top):
    folder = write(tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(folder, arcname=top or ".")
    check(load_wsol(tmp_path / "set.tar"))


def test_metadata_apart_from_the_images(tmp_path):
    folder = write(tmp_path / "set")
    (tmp_path / "meta").mkdir()
    for name in FILES:
        (folder / name).rename(tmp_path / "meta" / name)
    check(load_wsol(folder, metadata=tmp_path / "meta"))


def test_windows_line_ends_byte_order_mark_and_blank_lines(tmp_path):
    varied = {
        name[:-4]: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n"
        for name, text in FILES.items()
    }
    check(load_wsol(write(tmp_path / "set", **varied)))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("image_ids", None, r"image_ids\.txt: missing"),
        ("localization", None, r"localization\.txt: missing"),
        ("image_ids", "", r"lists no image"),
        ("image_ids", "a/one.png\na/one.png\n", r"'a/one.png' is listed twice"),
        ("image_ids", "a/one.png\n../../etc/passwd\n", r"row 2: image id '\.\./\.\./etc/passwd' leads out"),
        ("image_ids", "/etc/passwd\n", r"row 1: .* leads out"),
        ("image_ids", "a/one.png\nc.png\n", r"class_labels\.txt: has no row for image 'c.png'"),
        ("image_sizes", "a/one.png,20,10\n", r"image_sizes\.txt: has no row for image 'b, two.png'"),
        ("image_sizes", "a/one.png,20,0\n", r"row 1: size 20 x 0 of 'a/one.png' is not positive"),
        ("image_sizes", "a/one.png,20\n", r"row 1: .* is not of the form id,width,height"),
        (
            "class_labels",
            "a/one.png,3\nb, two.png,x\n",
            r"class_labels\.txt, row 2: .* not of the form id,label",
        ),
        ("class_labels", "a/one.png,-1\n", r"row 1: label -1 is out of range"),
        ("class_labels", "a/one.png,5\n", r"row 1: label 5 is out of range, expected 0 to 4"),
        ("localization", "a/one.png,1,2,22,9\n", r"localization\.txt, row 1: .* outside its 20 x 10 image"),
        ("localization", "\na/one.png,5,2,3,9\n", r"row 2: .* has x2 < x1"),
        ("localization", "a/one.png,1,2,3\n", r"row 1: .* not of the form id,x1,y1,x2,y2"),
        ("localization", "a/one.png,1,2,nan,9\n", r"row 1: .* is not finite"),
        ("localization", b"\xff\xfe\x00", r"is not UTF-8 text"),
    ],
)
def test_broken_files_name_file_and_row(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        load_wsol(write(tmp_path / "set", **{name: text}), num_classes=5)


def test_problems_are_collected_and_their_rows_skipped(tmp_path):
    folder = write(tmp_path / "set", localization="a/one.png,1,2,22,9\nb, two.png,2,2,6,6\n")
    by_load, by_open = [], []
    splits = load_wsol(folder, complain=by_load.append), open_split(folder, report=by_open.append)
    assert by_load == by_open
    assert len(by_open) == 1
    assert "outside its 20 x 10 image" in by_open[0]
    assert (by_open[0].image, by_open[0].reason) == ("a/one.png", "box outside the image")
    assert [[len(example.boxes) for example in split] for split in splits] == [[0, 1], [0, 1]]


def test_an_overshoot_of_a_pixel_is_clipped(tmp_path):
    split = load_wsol(write(tmp_path / "set", localization="a/one.png,-1,2,21,9\nb, two.png,2,-.5,6,9\n"))
    assert [example.boxes.tolist() for example in split] == [[[0, 2, 20, 9]], [[2, 0, 6, 8]]]


# The object is the white rectangle 2 to 7, 3 to 13 of the 20 x 30 pixels that the camera stored.
OBJECT, STORED = (2, 3, 7, 13), (20, 30)
ORIENTATIONS = (2, 3, 4, 5, 6, 7, 8)


def photographs(root, sizes, boxes):
    """Photographs with every orientation, and one stored upright, with the listed sizes and boxes."""
    (root / "images").mkdir(parents=True)
    pixels = np.zeros((*STORED[::-1], 3), np.uint8)
    pixels[OBJECT[1] : OBJECT[3], OBJECT[0] : OBJECT[2]] = 255
    names = {f"{number}.png": number for number in (1, *ORIENTATIONS)}
    for name, number in names.items():
        exif = Image.Exif()
        exif[0x0112] = number
        Image.fromarray(pixels).save(root / "images" / name, exif=exif)
    ids = list(names)
    trees.metadata(root, ids, [0] * 8, [sizes(n) for n in names.values()], [boxes(n) for n in names.values()])
    return root


def white(image):
    """xyxy of the white pixels of an image that Pillow turned."""
    return image.convert("L").point(lambda value: 255 * (value > 127)).getbbox()


def upright(number):
    return STORED if number < 5 else STORED[::-1]


@pytest.mark.parametrize("archive", ["", "tar", "zip"])
def test_boxes_of_a_photograph_are_turned_with_it(tmp_path, archive):
    folder = photographs(tmp_path / "set", lambda _: STORED, lambda _: ",".join(map(str, OBJECT)))
    path = Path(shutil.make_archive(str(tmp_path / "a"), archive, folder)) if archive else folder
    with pytest.warns(AssumptionWarning, match=r"image_sizes\.txt: EXIF turns 7 images, .* turned too"):
        split = load_wsol(path)
    for example in split:
        image = split.open_image(example)
        assert example.size == image.size
        assert example.boxes.tolist() == [list(white(image))]


@pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")
def test_score_and_data_check_read_them_as_they_are_opened(tmp_path):
    folder = photographs(tmp_path / "set", lambda _: STORED, lambda _: ",".join(map(str, OBJECT)))
    (tmp_path / "maps").mkdir()
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            heat = ImageOps.exif_transpose(image).convert("L").resize((224, 224), Image.Resampling.NEAREST)
        np.save(tmp_path / "maps" / f"{path.name}.npy", np.asarray(heat, np.float32) / 255)
    config = ScoreConfig(heatmaps=tmp_path / "maps", data=str(folder))
    metrics, _ = score_heatmaps(config, Run(tmp_path / "run"))
    assert metrics["methods"]["maps"]["largest_contour"]["accuracy"] == [100] * 3
    assert check_data(folder, tmp_path / "report", jobs=1).problems == []


def test_boxes_in_the_upright_frame_stay(tmp_path, recwarn):
    folder = photographs(tmp_path / "set", upright, lambda _: "1,2,9,8")
    split = load_wsol(folder)
    assert [example.boxes.tolist() for example in split] == [[[1, 2, 9, 8]]] * 8
    assert [example.size for example in split] == [upright(n) for n in (1, *ORIENTATIONS)]
    (said,) = recwarn
    assert "upright is assumed" in str(said.message)  # 180 degrees and mirrored: no size tells


def test_a_mixture_of_frames_is_refused(tmp_path):
    folder = photographs(tmp_path / "set", lambda n: STORED if n == 6 else upright(n), lambda _: "1,2,9,8")
    with pytest.raises(InputError, match=r"EXIF turns both, but '6\.png' is listed with its stored size"):
        load_wsol(folder)
    left_out = LeftOut()
    kept = left_out.filter(load_wsol(folder, complain=left_out))
    assert [example.id for example in kept] == [f"{n}.png" for n in (1, *ORIENTATIONS) if n != 6]
    assert left_out.counts() == {"malformed entry": 1}


def test_the_head_of_a_member(tmp_path):
    folder = write(tmp_path / "set")
    whole = (folder / "images/a/one.png").read_bytes()
    for kind in ("tar", "zip"):
        tree = open_tree(shutil.make_archive(str(tmp_path / "a"), kind, folder))
        assert tree.head("images/a/one.png", 9) == whole[:9]
        assert tree.head("images/a/one.png", 10**6) == whole
        with pytest.raises(InputError, match=r"has no member 'no\.png'"):
            tree.head("no.png", 9)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_STORED) as file:
        file.write(folder / "images/a/one.png", "one.png")
    assert open_tree(tmp_path / "b.zip").head("one.png", 9) == whole[:9]


def test_truncated_and_missing_images(tmp_path):
    split = load_wsol(write(tmp_path / "set"))
    path = tmp_path / "set" / "images" / "a" / "one.png"
    path.write_bytes(path.read_bytes()[:48])
    with pytest.raises(InputError, match=r"one\.png: the image is damaged"):
        split.open_image(split.examples[0])
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"one\.png: not an image"):
        split.open_image(split.examples[0])
    path.unlink()
    with pytest.raises(InputError, match=r"one\.png: no such image file"):
        split.open_image(split.examples[0])


def test_a_link_does_not_lead_out_of_the_folder(tmp_path):
    folder = write(tmp_path / "set")
    Image.new("RGB", (20, 10)).save(tmp_path / "secret.png")
    (folder / "images" / "a" / "one.png").unlink()
    (folder / "images" / "a" / "one.png").symlink_to(tmp_path / "secret.png")
    split = load_wsol(folder)
    with pytest.raises(InputError, match="leads out of"):
        split.open_image(split.examples[0])


def test_archive_cut_short(tmp_path):
    folder = write(tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(folder, arcname="set")
    split = load_wsol(tmp_path / "set.tar")
    (tmp_path / "set.tar").write_bytes((tmp_path / "set.tar").read_bytes()[:600])
    with pytest.raises(InputError, match="ends inside member"):
        split.open_image(split.examples[0])


@pytest.mark.parametrize("what", ["missing", "file.txt"])
def test_neither_folder_nor_archive(tmp_path, what):
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(InputError, match=r"expected a folder or a \.tar archive"):
        load_wsol(tmp_path / what)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([name[:-4] for name in FILES]), st.data())
def test_any_text_is_read_or_refused_in_one_sentence(tmp_path_factory, name, data):
    lines = FILES[name + ".txt"].splitlines()
    noise = st.one_of(
        st.text(max_size=30), st.sampled_from(lines), st.from_regex(r"a/one\.png(,-?[0-9.e]{1,4}){0,5}")
    )
    text = "\n".join(data.draw(st.lists(noise, max_size=5)))
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    for file, good in FILES.items():
        (folder / file).write_bytes(
            (text if file == f"{name}.txt" else good).encode("utf-8", "surrogatepass")
        )
    try:
        split = load_wsol(folder)
    except InputError:
        return
    for example in split:
        width, height = example.size
        assert (example.boxes >= 0).all()
        assert (example.boxes <= [width, height, width, height]).all()


def test_real_metadata_reads_whole(shared, tmp_path):
    with tarfile.open(shared / "data" / "reference-metadata.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    for name, images, boxes in (
        ("CUB/test", 5794, 5794),
        ("CUB/val", 1000, 1000),
        ("ILSVRC/test", 50000, 80477),
    ):
        split = load_wsol(tmp_path / "metadata" / name)
        assert len(split) == images
        assert sum(len(example.boxes) for example in split) == boxes


def test_compressed_and_cut_archives(tmp_path):
    folder = write_split(tmp_path / "set", 3)
    whole, packed, cut = (tmp_path / name for name in ("whole.tar", "packed.tgz", "cut.tar"))
    for path, mode in ((whole, "w:"), (packed, "w:gz")):
        with tarfile.open(path, mode) as tar:
            tar.add(folder, "set")
    for path in (whole, packed):
        split = load_wsol(path)
        assert [split.open_image(example).size for example in split] == [(64, 64)] * 3
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.tar"):
        load_wsol(cut)


def test_a_size_no_image_has(tmp_path):
    folder = write_split(tmp_path / "set", 1)
    name = (folder / "image_ids.txt").read_text().strip()
    (folder / "image_sizes.txt").write_text(f"{name},{10**30},64")
    with pytest.raises(InputError, match=r"image_sizes\.txt, row 1: size 10+ x 64"):
        load_wsol(folder)
