"""Data sets at addresses: listed, indexed, read by ranges, and what is said when they cannot be."""

import io
import itertools
import json
import multiprocessing
import pickle
import tarfile
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

import heatbox as hb
from heatbox._utils import processes
from heatbox.cli.main import main
from heatbox.data import glyphs
from heatbox.data.files import remote, tar_index
from heatbox.data.files.archives import open_tree
from heatbox.data.files.remote import RemoteFile, expand_braces, files_at, shown
from heatbox.data.formats.options import WriteOptions
from heatbox.data.open import images_at, path_and_split
from heatbox.errors import AssumptionWarning, InputError, UnreachableError
from heatbox.evaluation import located, predict
from heatbox.evaluation.run import Run
from heatbox.labeling.pipeline import default_run
from helpers import shards

pytestmark = pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    remote._after_fork()


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.fixture
def counted(monkeypatch):
    """The (path, start, end) of each range that is read from memory://."""
    from fsspec.implementations.memory import MemoryFileSystem

    ranges, read = [], MemoryFileSystem.cat_file

    def cat_file(self, path, start=None, end=None, **more):
        ranges.append((path, start, end))
        return read(self, path, start, end, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    return ranges


def same_images(split, expected):
    assert [e.label for e in split] == [e.label for e in expected]
    for mine, theirs in zip(split, expected, strict=True):
        assert mine.size == theirs.size
        assert np.array_equal(mine.boxes, np.trunc(theirs.boxes))
        pixels = np.asarray(split.open_image(mine), float)
        assert np.abs(pixels - np.asarray(expected.open_image(theirs), float)).mean() < 12  # JPEG


# --------------------------------------------------------------------------------------------- names


def test_braces():
    assert list(expand_braces("a-{08..11}.tar")) == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert list(expand_braces("{train,val}/{0..1}.tar")) == [
        f"{name}/{n}.tar" for name, n in itertools.product(("train", "val"), (0, 1))
    ]
    assert list(expand_braces("plain.tar")) == ["plain.tar"]
    assert list(expand_braces("{a,{b,c}}.tar")) == ["a.tar", "b.tar", "c.tar"]


def test_braces_that_count_down(memory):
    for start in ("/x/", "memory://x/"):
        with pytest.raises(InputError, match=r"\{5\.\.3\} counts down, expected the smaller number first"):
            hb.open_split(f"{start}{{5..3}}.tar")


def test_secrets_are_not_shown():
    assert shown("https://me:word@host/a.tar?Signature=x%2F&b=1") == "https://host/a.tar"
    assert shown("url='https://host/a.tar?Signature=x' failed") == "url='https://host/a.tar' failed"
    assert shown("URL('https://me:word@host/a?b=(c)&d'), again") == "URL('https://host/a'), again"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://u:p@ss@h/x", "https://h/x"),
        ("ftp://u:pa/ss@h/x", "ftp://h/x"),
        ("ftp://u:pa?ss@h/x", "ftp://h/x"),
        ("https://u:123@h:8080/a?x=(1) '2' 3", "https://h:8080/a"),
        ("https://h/x?mail=me@b.c", "https://h/x"),
        ("https://u:p@h/x?mail=me@b.c", "https://h/x"),
        ("simplecache::https://u:p@h/x.tar", "simplecache::https://h/x.tar"),
        ("zip://a.csv::https://u:p@h/b.zip?sig", "zip://a.csv::https://h/b.zip"),
        ("hf://datasets/me/birds@main/a.tar", "hf://datasets/me/birds@main/a.tar"),
        ("https://h:8080/a@b.tar", "https://h:8080/a@b.tar"),
        ("photos?/a@b", "photos?/a@b"),
    ],
)
def test_secrets_of_addresses(address, expected):
    assert shown(address) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("https://host:8080", ("https://host:8080", "")),
        ("https://h/x.tar?se=2026-01-01T00:00:00", ("https://h/x.tar?se=2026-01-01T00:00:00", "")),
        ("https://h/x.tar?se=2026-01-01T00:00:00Z", ("https://h/x.tar?se=2026-01-01T00:00:00Z", "")),
        ("https://h/x.zip?se=1:train", ("https://h/x.zip?se=1", "train")),
        ("https://u:p@h", ("https://u:p@h", "")),
        ("s3://bucket/set/:2017", ("s3://bucket/set/", "2017")),
        ("memory://a.tar:val", ("memory://a.tar", "val")),
        ("set:val", ("set", "val")),
    ],
)
def test_splits_of_addresses(data, expected):
    assert path_and_split(data) == expected


def test_a_pattern_keeps_the_host(memory):
    """Paths of many stores, such as ftp's, have no host."""
    from fsspec.implementations.memory import MemoryFileSystem

    class Hosted(MemoryFileSystem):
        protocol = "hosted"

        @classmethod
        def _strip_protocol(cls, path):
            path = "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path
            return path.rstrip("/")

    fsspec.register_implementation("hosted", Hosted, clobber=True)
    expected = shards.write_shards(memory, "/set")
    for pattern in ("hosted://u:p@host/set/*.tar", "hosted://u:p@host/*/test-*.tar"):
        assert [file.address for file in files_at(pattern).values()] == [
            f"hosted://u:p@host/set/test-{number:06d}.tar" for number in range(3)
        ]
        same_images(hb.open_split(pattern), expected)


def test_lists_are_not_old(memory):
    """File systems keep their lists; files that are new since then are found."""
    from fsspec.implementations.memory import MemoryFileSystem

    class Listed(MemoryFileSystem):
        protocol, lists = "listed", {}

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("listed://", "memory://"))

        def find(self, path, **more):
            return self.lists.setdefault(path, super().find(path, **more))

        def invalidate_cache(self, path=None):
            self.lists.clear()

    fsspec.register_implementation("listed", Listed, clobber=True)
    shards.write_shards(memory, "/set", 4, 2)
    assert len(files_at("listed://set")) == len(files_at("listed://set/*.tar")) == 2
    shards.write_shards(memory, "/set", 6, 3)
    assert len(files_at("listed://set/*.tar")) == len(files_at("listed://set")) == 3


@pytest.mark.parametrize(
    ("photos", "name"),
    [
        ("s3://b/shards/:train", "label-shards-train"),
        ("https://u:p@h/birds.tar?sig=a", "label-birds.tar"),
        ("photos/", "label-photos"),
    ],
)
def test_run_folders_of_addresses(photos, name):
    assert default_run(photos).name == name


def test_a_linked_folder_keeps_its_name(tmp_path, monkeypatch):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert default_run(f"{tmp_path}/link").name == "label-link"
    monkeypatch.chdir(tmp_path / "target")
    assert default_run(".").name == default_run("../target").name == "label-target"


@pytest.mark.parametrize(
    "address",
    [
        "memory://set/shards",
        "memory://set/shards/",
        "memory://set/shards/:test",
        "memory://set/shards/test-{000000..000002}.tar",
        "memory://set/shards/*.tar",
        "memory://set/*/test-*.tar",
    ],
)
def test_shards_at_an_address(memory, address):
    expected = shards.write_shards(memory, "/set/shards")
    split = hb.open_split(address)
    same_images(split, expected)
    assert split.examples[5].id.endswith("test-000001.tar/000001.jpg")


def test_one_shard(memory):
    expected = shards.write_shards(memory, "/set", shards=1)
    split = hb.open_split("memory://set/test-000000.tar")
    same_images(split, expected)
    assert split.examples[0].id == "000000.jpg"


@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_shards_in_folders_are_of_splits_named_like_these(memory, tmp_path, kind, place):
    split = glyphs("test", 8)
    address = "memory://set" if place == "memory" else str(tmp_path)
    for number, folder in enumerate(("test", "test", "train", "train")):
        part = split.examples[2 * number : 2 * number + 2]
        tar = shards.tar_shard(shards.samples(split, part))
        data = tar if kind == "tar" else shards.parquet_shard(split, part)
        with fsspec.open(f"{address}/{folder}/{number:04d}.{kind}", "wb", auto_mkdir=True) as file:
            file.write(data)
    opened = hb.data.open_data_set(address)
    assert sorted(opened.splits) == ["test", "train"]
    for found, start in ((hb.open_split(address), 0), (opened.load("train"), 4)):
        expected = split.examples[start : start + 4]
        assert [e.label for e in found] == [e.label for e in expected]
        one, other = found.open_image(found.examples[2]), split.open_image(expected[2])
        assert np.abs(np.asarray(one, float) - np.asarray(other, float)).mean() < 12  # JPEG
    assert len(images_at(address)) == 8


@pytest.mark.parametrize("folder", ["", "data"])
def test_parquet_files_named_by_numbers_are_one_split(tmp_path, folder):
    split = glyphs("test", 6)
    (tmp_path / folder).mkdir(exist_ok=True)
    for number in range(3):
        part = split.examples[2 * number : 2 * number + 2]
        (tmp_path / folder / f"{number:04d}.parquet").write_bytes(shards.parquet_shard(split, part))
    found = hb.open_split(str(tmp_path))
    assert [e.label for e in found] == [e.label for e in split]
    assert [e.id for e in found][2:4] == ["0001/000000", "0001/000001"]  # of the names 0000.jpg again
    assert len(hb.open_split(f"{tmp_path / folder}/0000.parquet")) == 2


def test_archives_beside_images_in_other_folders_are_no_shards(tmp_path):
    split = glyphs("test", 4)
    for name in ("a/0.jpg", "a/1.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(shards.jpeg(split, split.examples[0]))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "000.tar").write_bytes(shards.tar_shard(shards.samples(split, split.examples)))
    assert [str(image) for image in images_at(str(tmp_path))] == [f"{tmp_path}/a/{n}.jpg" for n in range(2)]


def test_shards_of_equal_names_in_two_folders(memory):
    for name in ("train", "val"):
        shards.write_shards(memory, f"/set/{name}", 4, 2, name="{:03d}.tar")
    data = hb.data.open_data_set("memory://set/{train,val}/{000..001}.tar")
    assert data.splits == ("train", "val")
    assert [e.id for e in data.load("val")][:3] == ["val/000.tar/000000.jpg", "val/000.tar/000001.jpg",
                                                    "val/001.tar/000000.jpg"]  # fmt: skip


def test_a_pattern_on_a_disk(tmp_path, memory):
    expected = shards.write_shards(fsspec.filesystem("file"), str(tmp_path))
    same_images(hb.open_split(f"{tmp_path}/test-{{000000..000002}}.tar"), expected)
    same_images(hb.open_split(f"{tmp_path}/test-*.tar:test"), expected)
    with pytest.raises(InputError, match=r"test-000003\.tar is no file"):
        hb.open_split(f"{tmp_path}/test-{{000000..000003}}.tar")


def test_a_folder_of_classes_at_an_address(memory):
    split = glyphs("test", 6)
    for number, example in enumerate(split):
        memory.pipe(f"/set/{'ab'[number % 2]}/{number}.jpg", shards.jpeg(split, example))
    found = hb.open_split("memory://set")
    assert [(e.id, e.label) for e in found][:4] == [
        ("a/0.jpg", 0),
        ("a/2.jpg", 0),
        ("a/4.jpg", 0),
        ("b/1.jpg", 1),
    ]
    assert found.open_image(found.examples[0]).size == split.examples[0].size


def test_members_never_leave_the_archive(memory):
    image = shards.jpeg(glyphs("test", 1), glyphs("test", 1).examples[0])
    members = [
        ("../../a.jpg", image),
        ("/b.jpg", image),
        ("c/../../d.jpg", image),
        ("e.jpg", image),
        ("e.cls", b"0"),
    ]
    memory.pipe("/evil.tar", shards.tar_shard(members))
    assert [e.id for e in hb.open_split("memory://evil.tar")] == ["e.jpg"]


# --------------------------------------------------------------------------------------- indexes, ranges


def test_labels_and_sizes_need_no_second_reading(memory, counted):
    shards.write_shards(memory, "/set")
    with pytest.warns(AssumptionWarning, match="3 of 3 archives are read once to list their files"):
        hb.open_split("memory://set")
    counted.clear()
    remote._after_fork()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = hb.open_split("memory://set")
    assert counted == []
    assert split.examples[0].size == (64, 64)


def test_a_shard_that_changed_is_listed_again(memory):
    shards.write_shards(memory, "/set", 6, 1)
    assert len(hb.open_split("memory://set/test-000000.tar")) == 6
    shards.write_shards(memory, "/set", 4, 1)
    remote._after_fork()
    assert len(hb.open_split("memory://set/test-000000.tar")) == 4


def test_a_shard_of_the_same_size_that_changed_is_listed_again(memory):
    first, second = (
        shards.tar_shard(
            [("a.jpg", shards.jpeg(glyphs("test", 1), glyphs("test", 1).examples[0])), ("a.cls", kind)]
        )
        for kind in (b"cat", b"dog")
    )
    assert len(first) == len(second)
    for data, kind in ((first, "cat"), (second, "dog")):
        memory.pipe("/a.tar", data)
        assert hb.open_split("memory://a.tar").class_names == [kind]


def test_names_of_any_encoding(memory, tmp_path):
    """A tar from a machine with another encoding is refused as on a disk, by a sentence."""
    image = shards.jpeg(glyphs("test", 1), glyphs("test", 1).examples[0])
    data = shards.tar_shard([("\udce9.jpg", image), ("\udce9.cls", b"0")])
    memory.pipe("/a.tar", data)
    (tmp_path / "a.tar").write_bytes(data)
    for path in ("memory://a.tar", str(tmp_path / "a.tar")):
        with pytest.raises(InputError, match=r"the image id .*udce9\.jpg' is not UTF-8 text; rename it"):
            hb.open_split(path)


def test_an_image_that_is_listed_but_missing(memory, tmp_path):
    """The same images and problems as on a disk, in one archive and among several."""
    split = glyphs("test", 2)
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 64} for n in range(3)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9]} for n in range(3)]
    text = json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]})
    members = [(f"{n}.jpg", shards.jpeg(split, one)) for n, one in enumerate(split)]
    data = shards.tar_shard([("coco.json", text.encode()), *members])
    memory.pipe("/a.tar", data)
    (tmp_path / "a.tar").write_bytes(data)
    found = []
    for path in (str(tmp_path / "a.tar"), "memory://a.tar"):
        problems = []
        found.append((len(hb.open_split(path, report=problems.append)), len(problems)))
    assert found[0] == found[1]
    shards.write_shards(memory, "/set")
    tree = hb.open_split("memory://set").open_image.tree
    assert tree.header("test-000000.tar/none.jpg") is tree.header("none.tar/none.jpg") is None


def test_a_killed_listing_resumes_by_shard(memory, monkeypatch, counted):
    shards.write_shards(memory, "/set")
    data = memory.cat_file("/set/test-000002.tar")
    memory.pipe("/set/test-000002.tar", data[: len(data) // 2])
    with pytest.raises(InputError, match=r"memory://set/test-000002\.tar: the archive is damaged"):
        hb.open_split("memory://set")
    memory.pipe("/set/test-000002.tar", data)
    remote._after_fork()
    counted.clear()
    hb.open_split("memory://set")
    assert {path for path, _, _ in counted} == {"/set/test-000002.tar"}


def test_damaged_indexes_are_made_again(memory):
    shards.write_shards(memory, "/set")
    hb.open_split("memory://set")
    for file in tar_index._folder().iterdir():
        file.write_bytes(b"PAR1 no longer")
    assert len(hb.open_split("memory://set")) == 12


def test_large_members_are_skipped(memory, counted):
    image = shards.jpeg(glyphs("test", 1), glyphs("test", 1).examples[0])
    members = [
        (f"{n}.{end}", image + bytes(3 * 2**20) if end == "jpg" else b"0")
        for n in range(8)
        for end in ("jpg", "cls")
    ]
    memory.pipe("/large.tar", shards.tar_shard(members))
    split = hb.open_split("memory://large.tar")
    assert len(split) == 8
    assert sum(end - start for _, start, end in counted) < 4 * 2**20  # of 24


@pytest.mark.parametrize(("size", "share"), [(200_000, 0.4), (500_000, 0.2)])
def test_listing_reads_a_part(memory, counted, size, share):
    memory.pipe("/a.tar", shards.tar_shard([(f"{n}.bin", bytes(size)) for n in range(60)]))
    open_tree("memory://a.tar")
    assert sum(end - start for _, start, end in counted) < share * memory.size("/a.tar")


def test_images_in_any_order_are_read_alone(memory, counted):
    size, count = 70_000, 400
    memory.pipe("/a.bin", bytes(size * count))
    file = RemoteFile("memory://a.bin")
    for number in np.random.default_rng(0).permutation(count):
        file.read(int(number) * size, size)
    assert sum(end - start for _, start, end in counted) < 1.5 * memory.size("/a.bin")


def test_images_in_order_take_few_requests(memory, counted):
    image = shards.jpeg(glyphs("test", 1), glyphs("test", 1).examples[0])
    members = [
        (f"{n:03d}.{end}", image + bytes(20_000) if end == "jpg" else b"0")
        for n in range(200)
        for end in ("jpg", "cls")
    ]
    memory.pipe("/many.tar", shards.tar_shard(members))
    split = hb.open_split("memory://many.tar")
    counted.clear()
    remote._after_fork()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(split.open_image, split.examples))
    assert len(counted) < 20
    assert sum(end - start for _, start, end in counted) < 1.5 * memory.size("/many.tar")


def test_memory_is_bounded(memory, monkeypatch):
    monkeypatch.setattr(remote, "KEPT", 2**20)
    memory.pipe("/a.bin", bytes(2**23))
    file = RemoteFile("memory://a.bin")
    for start in range(0, 2**23, 2**15):
        file.read(start, 2**15)
        assert sum(map(len, remote._parts._parts.values())) <= 2**20


@pytest.mark.parametrize("seed", range(3))
def test_any_ranges_equal_the_file(memory, seed):
    draw = np.random.default_rng(seed)
    data = draw.bytes(3_000_000)
    memory.pipe("/a.bin", data)
    file = RemoteFile("memory://a.bin")
    at = 0
    for _ in range(300):
        at = (
            int(draw.integers(0, 3_100_000))
            if draw.random() < 0.2
            else at + int(draw.integers(-2000, 90_000))
        )
        start, count = max(at, 0), int(draw.integers(0, 200_000))
        assert file.read(start, count) == data[start : start + count]
    with file.open() as opened:
        opened.seek(-100, io.SEEK_END)
        assert opened.read() == data[-100:]


def test_parquet_is_read_by_columns(memory, counted):
    split = glyphs("test", 12)
    memory.pipe(
        "/set/test-00000-of-00001.parquet", shards.parquet_shard(split, split.examples, padding=200_000)
    )
    tree = open_tree("memory://set")
    import pyarrow.parquet as pq

    pq.ParquetFile(tree.open("test-00000-of-00001.parquet")).read(columns=["label", "image.path"])
    assert sum(end - start for _, start, end in counted) < 500_000  # of 2.4 million
    found = hb.open_split("memory://set")
    assert [e.label for e in found] == [e.label for e in split]
    counted.clear()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(found.open_image, found.examples[:4]))
    assert sum(end - start for _, start, end in counted) < 2 * 4 * 210_000  # one group, once


def test_threads_keep_no_more_groups_than_one(memory):
    """All of them look how many are kept before any adds its own."""
    split = glyphs("test", 16)
    memory.pipe("/set/test-00000-of-00001.parquet", shards.parquet_shard(split, split.examples, group=1))
    found = hb.open_split("memory://set")
    tree = found.open_image.tree

    class Slow(dict):
        def __len__(self):
            number = super().__len__()
            time.sleep(0.02)
            return number

    tree._groups = Slow()
    with ThreadPoolExecutor(16) as pool:
        images = list(pool.map(found.open_image, found.examples))
    for image, example in zip(images, split, strict=True):
        assert (
            np.abs(np.asarray(image, float) - np.asarray(split.open_image(example), float)).mean() < 12
        )  # JPEG
    assert len(dict(tree._groups)) <= 4
    assert len(pickle.dumps(found)) < 30_000


def read_all(split):
    return [np.asarray(split.open_image(example)).sum() for example in split]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_worker_processes(start):
    expected = glyphs("test", 4)
    data = shards.tar_shard(shards.samples(expected, expected.examples))
    with shards.served({"/a.tar": data}) as server:
        split = hb.open_split(f"{server.address}/a.tar")
        own = read_all(split)
        with multiprocessing.get_context(start).Pool(2) as pool:
            assert pool.map(read_all, [split, split]) == [own, own]


def test_a_split_is_pickled_without_what_was_read(memory):
    shards.write_shards(memory, "/set")
    split = hb.open_split("memory://set")
    read_all(split)
    assert len(pickle.dumps(split)) < 30_000


def test_processes_share_the_listing(memory, monkeypatch):
    """Each lists its part, and gets the others' from them."""
    shards.write_shards(memory, "/set")
    files = files_at("memory://set")
    whole = tar_index.index_tars(files)
    for file in tar_index._folder().iterdir():
        file.unlink()
    monkeypatch.setattr(processes, "_count", 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(processes, "_rank", rank)
        monkeypatch.setattr(processes, "gathered", lambda own: parts.append(own) or [whole])
        tar_index.index_tars(files)
    assert [sorted(part) for part in parts] == [["test-000000.tar"], ["test-000001.tar", "test-000002.tar"]]


# -------------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://nothing/here.tar", "memory://nothing/here.tar: no such file, folder or bucket"),
        ("memory://nothing/", "memory://nothing/: no such file or folder, or an empty one"),
        ("memory://nothing/*.tar", "no file is named like that"),
        ("memory://nothing/{0..1}.tar", "memory://nothing/0.tar: no such file"),
        ("nonsense://a/b.tar", "nonsense://a/b.tar: cannot be opened .*nonsense"),
        ("memory://set/a.tar.gz", "a compressed archive is read from a disk only"),
        ("memory://set/text.tar", r"memory://set/text\.tar: the archive is damaged"),
        ("memory:/set/a.tar", "an address is given as text, with two slashes"),
    ],
)
def test_what_cannot_be_opened(memory, address, message):
    memory.pipe("/set/a.tar.gz", b"x")
    memory.pipe("/set/text.tar", b"this is no tar" * 200)
    with pytest.raises(InputError, match=message):
        hb.open_split(address)


def test_a_missing_library_is_named(monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(InputError, match=r"s3://bucket/a\.tar: fsspec needs another package for s3://.*s3fs"):
        hb.open_split("s3://bucket/a.tar")


@pytest.mark.parametrize("cut", [700, 512, -512])
def test_truncated_shards(memory, cut):
    data = shards.tar_shard(shards.samples(glyphs("test", 3), glyphs("test", 3).examples))
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    memory.pipe("/a.tar", data[: end - cut])
    with pytest.raises(InputError, match=r"memory://a\.tar: the archive is damaged"):
        hb.open_split("memory://a.tar") if cut > 0 else _garbage(memory, data, end)


def _garbage(memory, data, end):
    memory.pipe("/a.tar", data[:end] + b"x" * 512)
    hb.open_split("memory://a.tar")


def test_an_archive_without_end_mark_is_said(memory):
    data = shards.tar_shard([*shards.samples(glyphs("test", 3), glyphs("test", 3).examples)])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.getmembers()
        end = tar.offset
    memory.pipe("/a.tar", data[:end])
    with pytest.warns(AssumptionWarning, match="ends without the mark"):
        assert len(hb.open_split("memory://a.tar")) == 3


def test_a_server_that_fails_for_a_while():
    data = shards.tar_shard(shards.samples(glyphs("test", 3), glyphs("test", 3).examples))
    with shards.served({"/a.tar": data}) as server:
        server.failures = [503, 500]
        assert len(hb.open_split(f"{server.address}/a.tar")) == 3
        remote._after_fork()
        server.failures = [503] * 10
        split = hb.open_split(f"{server.address}/a.tar")
        with pytest.raises(
            UnreachableError, match=r"bytes \d+ to \d+ of http.*a\.tar: cannot be read after 3 tries.*503"
        ):
            split.open_image(split.examples[0])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (404, "no such file"),
        (403, "access is refused or credentials are missing"),
        (401, "access is refused"),
    ],
)
def test_answers_that_do_not_pass_are_not_asked_again(answer, message):
    data = shards.tar_shard(shards.samples(glyphs("test", 3), glyphs("test", 3).examples))
    with shards.served({"/a.tar": data}) as server:
        split = hb.open_split(f"{server.address}/a.tar?token=secret")
        remote._after_fork()
        server.failures, before = [answer], len(server.requests)
        kind = InputError if answer == 404 else UnreachableError
        with pytest.raises(kind, match=message) as found:
            split.open_image(split.examples[0])
        assert "secret" not in str(found.value)
        assert len(server.requests) == before + 1


def test_a_server_without_ranges():
    data = shards.tar_shard(shards.samples(glyphs("test", 3), glyphs("test", 3).examples))
    with shards.served({"/a.tar": data + bytes(2**17)}) as server:
        server.ranges = False
        with pytest.raises(
            InputError, match=r"a\.tar: the server sends whole files, expected one with byte ranges$"
        ):
            hb.open_split(f"{server.address}/a.tar")


def test_a_file_that_became_shorter(memory):
    shards.write_shards(memory, "/set")
    split = hb.open_split("memory://set")
    memory.pipe("/set/test-000001.tar", bytes(600))
    remote._after_fork()
    with pytest.raises(
        UnreachableError, match=r"of memory://set/test-000001\.tar: cannot be read after 3 tries .*bytes came"
    ):
        split.open_image(split.examples[5])


class EndpointConnectionError(Exception):
    """As botocore's, which is no OSError."""


class HttpError(Exception):
    """As gcsfs's."""

    code = 503


def failing(errors):
    def work(fs, path):
        if errors:
            raise errors.pop()
        return "came"

    return work


@pytest.mark.parametrize("kind", [EndpointConnectionError, HttpError, ConnectionResetError])
def test_errors_of_libraries_that_pass(kind):
    assert remote.tried("memory://a", "", failing([kind("once"), kind("twice")])) == "came"


def test_errors_that_quote_an_address_have_no_secrets():
    address = "memory://u:p@h/a.tar?sig=very secret"
    with pytest.raises(UnreachableError) as found:
        remote.tried(address, "", failing([KeyError(f"{address} is missing")]))
    assert str(found.value).count("memory://h/a.tar") == 2
    assert "secret" not in str(found.value)
    assert "u:p" not in str(found.value)


# ---------------------------------------------------------------------------------------------- commands


@pytest.fixture
def sets(tmp_path):
    """The same shards on a disk and on a server: their paths and the server."""
    (tmp_path / "set").mkdir()
    shards.write_shards(fsspec.filesystem("file"), str(tmp_path / "set"))
    files = {f"/{path.name}": path.read_bytes() for path in (tmp_path / "set").iterdir()}
    with shards.served(files) as server:
        yield (
            f"{tmp_path}/set/test-{{000000..000002}}.tar",
            f"{server.address}/test-{{000000..000002}}.tar",
            server,
        )


def test_names_and_tables_have_no_secrets(sets, tmp_path, capsys, monkeypatch):
    _, address, _ = sets
    monkeypatch.chdir(tmp_path)
    data = f"{address.replace('{000000..000002}', '000000')}?sig=SECRET"
    assert main(["data", "check", data]) == 0
    assert main(["evaluate", *MODEL, "--thresholds", "20", "--data", data]) == 0
    assert main(["label", data, *MODEL, "--to", "coco", "--out", "boxes", "--images", "none"]) == 0
    said = capsys.readouterr()
    assert "SECRET" not in said.out + said.err
    assert not list(tmp_path.rglob("*SECRET*"))
    assert "SECRET" not in (tmp_path / "boxes" / "review.html").read_text()


MODEL = ("--model", "resnet10_small", "--checkpoint", "pretrained", "--method", "cam")


def scores_of(run):
    metrics = json.loads((run / "metrics.json").read_text())
    for one in metrics["methods"].values():
        one.pop("ms_per_image", None)
    return metrics


def test_evaluate_at_an_address_is_interrupted_and_resumed(sets, tmp_path, capsys, monkeypatch):
    disk, address, server = sets
    monkeypatch.setattr(predict, "RECORDS_A_SHARD", 2)
    words = ["evaluate", *MODEL, "--batch-size", "2", "--thresholds", "20", "--on-bad", "skip", "--json"]
    assert main([*words, "--data", disk, "--out", str(tmp_path / "disk")]) == 0
    hb.open_split(address)
    remote._after_fork()
    broken = server.files["/test-000002.tar"]
    server.failing = "/test-000002.tar"
    assert main([*words, "--data", address, "--out", str(tmp_path / "far")]) == 2
    said = capsys.readouterr().err
    assert "test-000002.tar: cannot be read after 3 tries" in said
    assert "rerun the command to resume" in said
    assert {record["id"][:15] for batch in Run(tmp_path / "far").records() for record in batch} == {
        "test-000000.tar", "test-000001.tar"
    }  # fmt: skip
    server.failing, server.requests[:] = "", []
    remote._after_fork()
    assert main([*words, "--data", address, "--out", str(tmp_path / "far")]) == 0
    assert {path for path, _ in server.requests} == {"/test-000002.tar"}
    assert scores_of(tmp_path / "far") == scores_of(tmp_path / "disk")
    assert broken == server.files["/test-000002.tar"]


def test_score_at_an_address(sets, tmp_path, capsys):
    disk, address, _ = sets
    split = hb.open_split(disk)
    for example in split:
        path = tmp_path / "maps" / f"{example.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(len(example.id)).random((224, 224), np.float32))
    found = []
    words = ["score", "--heatmaps", str(tmp_path / "maps"), "--json"]
    for name, data in (("disk", disk), ("far", address)):
        assert main([*words, "--data", data, "--out", str(tmp_path / name)]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]


@pytest.mark.parametrize("labels", [".json", ""])
def test_label_at_an_address(tmp_path, labels):
    (tmp_path / "set").mkdir()
    shards.write_shards(fsspec.filesystem("file"), str(tmp_path / "set"), labels=labels)
    with shards.served(
        {f"/{path.name}": path.read_bytes() for path in (tmp_path / "set").iterdir()}
    ) as server:
        disk, address = (
            f"{folder}/test-{{000000..000002}}.tar" for folder in (tmp_path / "set", server.address)
        )
        for name, photos in (("disk", disk), ("far", address)):
            words = ["label", photos, *MODEL, "--to", "coco", "yolo", "--review", "0", "--images", "none"]
            assert main([*words, "--run", str(tmp_path / f"run-{name}"), "--out", str(tmp_path / name)]) == 0
        both = [json.loads((tmp_path / name / "coco.json").read_text()) for name in ("disk", "far")]
        assert both[0]["annotations"] == both[1]["annotations"] != []
        found = {image.id: image.boxes.tolist() for image in hb.label(address, "resnet10_small",
                 checkpoint="pretrained", method="cam")}  # fmt: skip
        assert len(found) == 12
    memory = {image["id"]: image["file_name"] for image in both[1]["images"]}
    boxes = {name: [] for name in memory.values()}
    for one in both[1]["annotations"]:
        x, y, width, height = one["bbox"]
        boxes[memory[one["image_id"]]].append([x, y, x + width, y + height])
    assert {name: len(some) for name, some in boxes.items()} == {
        name: len(some) for name, some in found.items()
    }


LOCATE = ("locate", "--model", "resnet10_small", "--checkpoint", "pretrained", "--no-overlays")


def lines_of(capsys, *words, code=0):
    """The lines of heatbox locate, and what it says beside them."""
    assert main([LOCATE[0], *words, *LOCATE[1:]]) == code
    said = capsys.readouterr()
    return [json.loads(line) for line in said.out.splitlines()], said.err


def test_locate_at_an_address_is_interrupted_and_resumed(sets, tmp_path, capsys, monkeypatch):
    disk, address, server = sets
    monkeypatch.chdir(tmp_path)
    expected, _ = lines_of(capsys, disk, "--coco", "disk.json")
    words = [f"{address}?sig=SECRET", "--coco", "far.json"]
    hb.open_split(words[0])
    remote._after_fork()
    server.failing = "/test-000002.tar"
    found, said = lines_of(capsys, *words, code=2)
    assert len(found) == 8
    assert "test-000002.tar: cannot be read after 3 tries" in said
    assert "rerun the command to resume" in said
    server.failing, server.requests[:] = "", []
    remote._after_fork()
    found, _ = lines_of(capsys, *words)
    assert {path.partition("?")[0] for path, _ in server.requests} == {"/test-000002.tar"}
    assert [line | {"file": ""} for line in found] == [line | {"file": ""} for line in expected]
    assert found[4]["file"] == f"{server.address}/test-000001.tar:000000.jpg"
    boxes = [json.loads((tmp_path / name).read_text()) for name in ("disk.json", "far.json")]
    assert boxes[0]["annotations"] == boxes[1]["annotations"] != []
    assert [one["file_name"] for one in boxes[1]["images"]][4] == "test-000001.tar/000000.jpg"
    assert not any("SECRET" in path.read_text() for path in tmp_path.glob("*.json"))
    assert not (tmp_path / "heatbox-boxes").exists()


def test_locate_begins_again_where_files_have_changed(memory, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(located, "LINES_A_SHARD", 2)
    split = glyphs("test", 8)
    for number in range(4):
        memory.pipe(f"/photos/{number}.jpg", shards.jpeg(split, split.examples[number]))
    seen, opened = [], hb.Localizer.__call__

    def until_last(self, images, *more):
        seen.append(images)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return opened(self, images, *more)

    monkeypatch.setattr(hb.Localizer, "__call__", until_last)
    found, _ = lines_of(capsys, "memory://photos", code=130)
    assert len(found) == 3
    again, _ = lines_of(capsys, "memory://photos")
    assert again[:3] == found
    assert len(seen) == 5
    seen.clear()
    lines_of(capsys, "memory://photos", code=130)
    memory.pipe("/photos/1.jpg", shards.jpeg(split, split.examples[5]))
    changed, _ = lines_of(capsys, "memory://photos")
    assert [line["file"] for line in changed] == [f"memory://photos/{number}.jpg" for number in range(4)]
    assert len(seen) == 4 + 4
    assert changed[1] != again[1]


@pytest.mark.parametrize(
    ("address", "count"),
    [
        ("memory://photos/a/0.jpg", 1),
        ("memory://photos", 4),
        ("memory://photos/a/*.jpg", 2),
        ("memory://photos/{a,b}/0.jpg", 2),
        ("memory://table", 6),
        ("memory://table/test-00000-of-00001.parquet", 4),
        ("memory://table/:train", 2),
        ("memory://shards", 4),
        ("memory://shards/:train", 2),
        ("memory://shards/train-000.tar", 2),
        ("memory://photos.zip", 4),
    ],
)
def test_locate_reads_what_is_at_addresses(memory, address, count, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split = glyphs("test", 6)
    images = [shards.jpeg(split, example) for example in split]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, name in enumerate(("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg")):
            memory.pipe(f"/photos/{name}", images[number])
            archive.writestr(name, images[number])
    memory.pipe("/photos.zip", packed.getvalue())
    for name, part in (("test", slice(4)), ("train", slice(4, 6))):
        memory.pipe(
            f"/table/{name}-00000-of-00001.parquet", shards.parquet_shard(split, split.examples[part])
        )
    for name, part in (("test", slice(2)), ("train", slice(2, 4))):
        memory.pipe(f"/shards/{name}-000.tar", shards.tar_shard(shards.samples(split, split.examples[part])))
    for number, content in enumerate(images):
        (tmp_path / f"{number}.jpg").write_bytes(content)
    expected = {line["file"]: line for line in lines_of(capsys, *(f"{n}.jpg" for n in range(6)))[0]}
    found, _ = lines_of(capsys, address, "--csv", "boxes.csv")
    assert len(found) == count
    assert len({line["file"] for line in found}) == count
    known = [line | {"file": ""} for line in expected.values()]
    assert all(line | {"file": ""} in known for line in found)
    assert all(line["file"].startswith("memory://") for line in found)


def test_locate_reads_only_what_it_needs(memory, counted, tmp_path, capsys, monkeypatch):
    """Of Parquet files, the names and the images: not twice for their sizes."""
    monkeypatch.chdir(tmp_path)
    split = glyphs("test", 12)
    data = shards.parquet_shard(split, split.examples, padding=200_000)
    memory.pipe("/set/test-00000-of-00001.parquet", data)
    lines_of(capsys, "memory://set")
    assert sum(end - start for _, start, end in counted) < 1.5 * len(data)


def test_locate_skips_a_missing_address(memory, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split = glyphs("test", 1)
    memory.pipe("/a/0.jpg", shards.jpeg(split, split.examples[0]))
    found, said = lines_of(capsys, "memory://a/{0..1}.jpg", "memory://nothing/", code=1)
    assert len(found) == 1
    assert "skipped: memory://a/1.jpg: no such file" in said
    assert "skipped: memory://nothing/: no such file or folder, or an empty one" in said
    assert "2 of 3 images could not be used" in said


def test_locate_copies_no_images_of_an_address_unasked(memory, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards.write_shards(memory, "/set", 4, 2)
    lines_of(capsys, "memory://set", "--yolo", "boxes")
    assert not list((tmp_path / "boxes").rglob("*.jpg"))
    lines_of(capsys, "memory://set", "--yolo", "copies", "--images", "copy")
    assert len(list((tmp_path / "copies").rglob("*.jpg"))) == 4


def test_images_at_an_address_are_not_copied_unasked(memory, tmp_path):
    shards.write_shards(memory, "/set")
    split = hb.open_split("memory://set")
    written = hb.data.write_splits(split, tmp_path / "yolo", "yolo")
    assert not list((tmp_path / "yolo").rglob("*.jpg"))
    assert any("relative to memory://set" in note for note in written.notes)
    hb.data.write_splits(split, tmp_path / "copy", "yolo", WriteOptions(images="copy"))
    assert len(list((tmp_path / "copy").rglob("*.jpg"))) == 12
