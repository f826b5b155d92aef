"""Archives are read in place and within limits; nothing in them leads anywhere else."""

import io
import os
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heatbox.data.files import archives
from heatbox.data.files.archives import open_tree
from heatbox.data.files.trees import FolderTree, UnionTree, below, find_folders
from heatbox.errors import InputError

CONTENT = {"top/a.txt": b"hello", "top/inner/b b.txt": b"x" * 10_000, "top/inner/c.txt": b""}


def tar(path, mode="w", content=CONTENT, extra=()):
    with tarfile.open(path, mode) as file:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for info in extra:
            file.addfile(info)
    return path


def zipped(path, content=CONTENT):
    with zipfile.ZipFile(path, "w") as file:
        for number, (name, data) in enumerate(content.items()):
            kind = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            file.writestr(name, data, compress_type=kind)
    return path


def folder(path):
    for name, data in CONTENT.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["folder", ".tar", ".zip", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_all_kinds_show_the_same_tree(tmp_path, kind):
    path = tmp_path / f"set{kind}"
    if kind == "folder":
        folder(path)
    elif kind == ".zip":
        zipped(path)
    else:
        tar(path, {".tar": "w", ".tgz": "w:gz"}.get(kind) or f"w:{kind[5:]}")
    tree = open_tree(path)
    assert (tree.folders(), tree.files()) == (["top"], [])
    assert (tree.folders("top"), tree.files("top")) == (["inner"], ["a.txt"])
    assert list(tree.walk()) == list(CONTENT)
    assert {name: tree.read(name) for name in tree.walk()} == CONTENT
    assert tree.has("top/a.txt")
    assert not tree.has("top")
    assert not tree.has("a.txt")
    inner = below(tree, "top/inner")
    assert inner.files() == ["b b.txt", "c.txt"]
    assert inner.read("c.txt") == b""
    assert list(find_folders(tree, lambda t: t.has("c.txt"))) == ["top/inner"]
    with pytest.raises(InputError):
        tree.read("top/no.txt")


def test_a_compressed_tar_is_decompressed_once_and_again_when_it_changes(tmp_path):
    path = tar(tmp_path / "set.tgz", "w:gz")
    open_tree(path)
    made = tmp_path / "set.heatbox.tar"
    first = made.stat().st_ino
    open_tree(path)
    assert made.stat().st_ino == first
    tar(path, "w:gz", {"new.txt": b"new"})
    os.utime(path, ns=(1, 1))
    assert open_tree(path).read("new.txt") == b"new"
    assert not list(tmp_path.glob(".*.tmp"))


def test_members_that_lead_out_are_not_seen(tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("hard")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../secret"
    bad = {"../out.txt": b"1", "/abs.txt": b"2", "a/../../b.txt": b"3", "good.txt": b"4"}
    tree = open_tree(tar(tmp_path / "a.tar", content=bad, extra=(link, hard)))
    assert list(tree.walk()) == ["good.txt"]
    assert list(open_tree(zipped(tmp_path / "a.zip", bad)).walk()) == ["good.txt"]


def test_a_zip_with_backslashes(tmp_path):
    written = {"cats\\": b"", "cats\\a.txt": b"1", "cats\\b\\c.txt": b"2", "..\\d.txt": b"3", "\\e": b"4"}
    tree = open_tree(zipped(tmp_path / "a.zip", written))
    assert {name: tree.read(name) for name in tree.walk()} == {"cats/a.txt": b"1", "cats/b/c.txt": b"2"}


def test_a_zip_with_a_link(tmp_path):
    info = zipfile.ZipInfo("link.txt")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    assert list(open_tree(tmp_path / "a.zip").walk()) == []


def test_links_out_of_a_folder_are_refused(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.txt").write_text("s")
    inside = folder(tmp_path / "set")
    (inside / "link.txt").symlink_to(tmp_path / "secret" / "s.txt")
    (inside / "linked").symlink_to(tmp_path / "secret")
    tree = FolderTree(inside)
    assert tree.folders() == ["top"]
    for name in ("link.txt", "linked/s.txt", "../secret/s.txt"):
        with pytest.raises(InputError, match="leads out of"):
            tree.read(name)


def test_bombs(tmp_path, monkeypatch):
    zeros = b"\0" * 30_000_000
    bomb = zipped(tmp_path / "a.zip", {"small": b"", "zeros": zeros})
    with pytest.raises(InputError, match="which is not safe"):
        open_tree(bomb).read("zeros")
    monkeypatch.setattr(archives, "MAX_RATIO", 20)
    with pytest.raises(InputError, match="decompresses to more than"):
        open_tree(tar(tmp_path / "b.tgz", "w:gz", {"zeros": zeros}))
    assert not list(tmp_path.glob("*.heatbox.tar"))
    assert not list(tmp_path.glob(".*"))


def test_damaged_members_are_noticed(tmp_path):
    path = zipped(tmp_path / "a.zip", {"small": b"", "a": os.urandom(3000)})
    data = bytearray(path.read_bytes())
    data[1500] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="the archive is damaged"):
        open_tree(path).read("a")


def test_a_member_without_name(tmp_path):
    path = zipped(tmp_path / "a.zip", {"b": b"1234", "c.txt": b"12"})
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02") + 46  # its name in the table of members, not before its content
    assert data[at : at + 1] == b"b"
    path.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    assert list(open_tree(path).walk()) == ["c.txt"]


def test_encrypted_zip(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a": b"1234"})
    data = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    path.write_bytes(data)
    with pytest.raises(InputError, match="is encrypted"):
        open_tree(path).read("a")


def test_union_takes_the_first(tmp_path):
    one = open_tree(tar(tmp_path / "1.tar", content={"d/a": b"1", "d/b": b"1"}))
    two = open_tree(zipped(tmp_path / "2.zip", {"d/b": b"2", "e/c": b"2"}))
    tree = UnionTree("both", [one, two])
    assert {name: tree.read(name) for name in tree.walk()} == {"d/a": b"1", "d/b": b"1", "e/c": b"2"}
    with pytest.raises(InputError):
        tree.read("d/z")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["a.tar", "a.zip", "a.tgz"]),
    st.integers(0, 12_000),
    st.binary(max_size=60),
    st.booleans(),
)
def test_any_damage_is_one_sentence(tmp_path_factory, name, place, noise, cut):
    path = tmp_path_factory.getbasetemp() / name
    zipped(path) if name == "a.zip" else tar(path, "w" if name == "a.tar" else "w:gz")
    data = path.read_bytes()
    place %= len(data)
    path.write_bytes(data[:place] + noise + (b"" if cut else data[place + len(noise) :]))
    path.with_name("a.heatbox.tar").unlink(missing_ok=True)
    message = str(path.parent)
    try:
        tree = open_tree(path)
        for member in tree.walk():
            tree.read(member)
    except InputError as error:
        message = str(error)
    assert str(path.parent) in message


def test_a_pattern_does_not_count_the_copy_of_an_archive(tmp_path):
    tar(tmp_path / "a.tar.gz", "w:gz")
    for _ in range(2):  # the first one writes the copy
        merged = archives.with_archives(open_tree(f"{tmp_path}/*"))
        assert [tree.name for tree in merged.trees[1:]] == ["a.tar.gz"]
    assert (tmp_path / f"a{archives.UNPACKED}").is_file()
