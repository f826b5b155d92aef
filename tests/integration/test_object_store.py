"""Data sets in an object store: moto's S3 on loopback, read with s3fs. Skipped where one is absent."""

import json
import os
import subprocess
import sys

import pytest

moto_server = pytest.importorskip("moto.server", reason="needs moto[server]")
s3fs = pytest.importorskip("s3fs")

import heatbox as hb  # noqa: E402
from heatbox.data import glyphs  # noqa: E402
from heatbox.data.files import remote  # noqa: E402
from heatbox.errors import InputError, UnreachableError  # noqa: E402
from helpers import shards  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")


@pytest.fixture(scope="module")
def store():
    """A bucket with shards; s3fs finds the server and keys in the environment."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        fs = s3fs.S3FileSystem()
        fs.mkdir("images")
        split = shards.write_shards(fs, "images/shards", 12, 3)
        shards.write_shards(fs, "images/plain", 12, 3, labels="")
        fs.pipe("images/table/test-00000-of-00001.parquet", shards.parquet_shard(split, split.examples))
        yield fs
    server.stop()


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0,))
    remote._after_fork()


@pytest.mark.parametrize(
    "address",
    ["s3://images/shards/", "s3://images/shards/*.tar", "s3://images/shards/test-{000000..000002}.tar",
     "s3://images/table/", "s3://images/table/*.parquet"],
)  # fmt: skip
def test_splits(store, address):
    split, expected = hb.open_split(address), glyphs("test", 12)
    assert [e.label for e in split] == [e.label for e in expected]
    assert [split.open_image(e).size for e in split] == [e.size for e in expected]


def heatbox(*words, processes=1, environ=()):
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    own = os.environ | {"OMP_NUM_THREADS": "1"} | dict(environ)
    return subprocess.run([*start, "heatbox", *words], capture_output=True, text=True, env=own, check=False)


MODEL = ("--model", "resnet10_small", "--checkpoint", "pretrained", "--method", "cam")


def scores_of(run):
    metrics = json.loads((run / "metrics.json").read_text())
    for one in metrics["methods"].values():
        one.pop("ms_per_image", None)
    return metrics


@pytest.mark.parametrize("folder", ["shards", "table"])
def test_two_processes_score_like_one_on_a_disk(store, tmp_path, folder):
    store.get(f"images/{folder}/", str(tmp_path / "set"), recursive=True)
    words = ["evaluate", *MODEL, "--thresholds", "20", "--batch-size", "2"]
    one = heatbox(*words, "--data", str(tmp_path / "set"), "--out", str(tmp_path / "one"))
    assert one.returncode == 0, one.stderr
    two = heatbox(
        *words, "--data", f"s3://images/{folder}/", "--out", str(tmp_path / "two"), processes=2,
        environ={"XDG_CACHE_HOME": str(tmp_path / "other")},
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert scores_of(tmp_path / "two") == scores_of(tmp_path / "one")


def test_label_without_labels(store, tmp_path):
    done = heatbox("label", "s3://images/plain/", *MODEL, "--to", "coco", "--out", str(tmp_path / "boxes"),
                   "--review", "0", "--run", str(tmp_path / "run"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "boxes/coco.json").read_text())["images"]) == 12


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        (
            "s3://no-such-bucket/a.tar",
            InputError,
            "s3://no-such-bucket/a.tar: no such file, folder or bucket",
        ),
        ("s3://no-such-bucket/", InputError, "s3://no-such-bucket/: no such"),
        (
            "s3://images/shards/none.tar",
            InputError,
            "s3://images/shards/none.tar: no such file, folder or bucket",
        ),
    ],
)
def test_what_is_missing(store, address, kind, message):
    with pytest.raises(kind, match=message):
        hb.open_split(address)


def test_credentials_that_are_missing(store, tmp_path):
    none = str(tmp_path / "none")
    environ = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true",
               "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_CONFIG_FILE": none}  # fmt: skip
    done = heatbox("data", "check", "s3://images/shards/", environ=environ)
    assert done.returncode == 2
    assert "s3://images/shards/: access is refused or credentials are missing" in done.stderr


def test_a_store_that_is_gone(store, monkeypatch):
    split = hb.open_split("s3://images/shards/")
    remote._after_fork()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UnreachableError, match=r"of s3://images/shards/test-000000\.tar: cannot be read"):
        split.open_image(split.examples[0])
    s3fs.S3FileSystem.clear_instance_cache()
