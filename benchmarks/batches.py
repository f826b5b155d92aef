"""What it costs to localize in batches of Ray Data, Spark or datasets, beside a plain loop.

    python benchmarks/batches.py loop datasets ray spark

Processor time of the process and of all it started, for 64 and for 256 copies of a few photographs with one
network: the difference is the cost of an image, the rest is that of starting. Programs that are not
installed are left out.
"""

import argparse
import importlib
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

PHOTOGRAPHS = Path(__file__).parents[1] / "src/heatbox/data/photos"
MODEL = {"model": "mobilenetv3_small_100", "method": "cam"}
COUNTS = (64, 256)


def write_photographs(folder: Path, count: int) -> None:
    """Copies of the included photographs, 320 pixels wide."""
    sources = sorted(PHOTOGRAPHS.rglob("*.jpg"))
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as image:
            data = io.BytesIO()
            image.convert("RGB").resize((320, 240)).save(data, "JPEG")
        (folder / f"{number:05d}.jpg").write_bytes(data.getvalue())


def loop(folder: Path, out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from heatbox.integrations.ray import Localize

    localize, files = Localize(**MODEL), sorted(folder.iterdir())
    tables = []
    for start in range(0, len(files), 32):
        some = files[start : start + 32]
        tables.append(localize({"bytes": [one.read_bytes() for one in some], "path": list(map(str, some))}))
    pq.write_table(pa.concat_tables(tables), out / "boxes.parquet")


_localize: dict = {}


def of_process(batch: dict) -> dict:
    """The boxes of a batch, by the one model of this process."""
    from heatbox.integrations.ray import Localize

    if not _localize:
        _localize["one"] = Localize(**MODEL)
    return _localize["one"](batch).to_pydict()


def datasets(folder: Path, out: Path) -> None:
    from datasets import Dataset

    files = sorted(folder.iterdir())
    data = Dataset.from_dict({"bytes": [one.read_bytes() for one in files], "path": list(map(str, files))})
    found = data.map(of_process, batched=True, batch_size=32, num_proc=2, remove_columns=["bytes"])
    found.to_parquet(out / "boxes.parquet")


def ray(folder: Path, out: Path) -> None:
    import ray

    from heatbox.integrations.ray import Localize

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    files = ray.data.read_binary_files(str(folder), include_paths=True)
    actors = ray.data.ActorPoolStrategy(size=2)
    boxes = files.map_batches(
        Localize, fn_constructor_kwargs=MODEL, batch_size=32, compute=actors, num_cpus=0.5
    )
    boxes.write_parquet(str(out / "boxes"))
    ray.shutdown()


def spark(folder: Path, out: Path) -> None:
    from pyspark.sql import SparkSession

    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    files = session.read.format("binaryFile").load(str(folder)).select("path", "content").repartition(2)

    def boxes(frames):
        from heatbox.integrations.ray import Localize

        localize = Localize(**MODEL)
        for frame in frames:
            found = localize({"bytes": frame["content"], "path": frame["path"]})
            yield found.select(["path", "label", "boxes"]).to_pandas()

    schema = "path string, label long, boxes array<array<double>>"
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 32)
    files.mapInPandas(boxes, schema).write.parquet(str(out / "boxes"))
    session.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="+")
    parser.add_argument("--once", nargs=2, default=None)
    args = parser.parse_args()
    if args.once:
        globals()[args.ways[0]](Path(args.once[0]), Path(args.once[1]))
        return
    for way in args.ways:
        module = {"loop": "heatbox", "spark": "pyspark"}.get(way, way)
        try:
            importlib.import_module(module)
        except ImportError:
            print(f"{way:9} is not installed")
            continue
        spent = []
        for count in COUNTS:
            with tempfile.TemporaryDirectory() as top:
                folder, out = Path(top, "photographs"), Path(top, "out")
                folder.mkdir()
                out.mkdir()
                write_photographs(folder, count)
                words = [sys.executable, __file__, way, "--once", str(folder), str(out)]
                environ = os.environ | {"OMP_NUM_THREADS": "1", "PYSPARK_PYTHON": sys.executable}
                spent.append(processor_time(words, environ))
        small, large = spent
        each = (large - small) / (COUNTS[1] - COUNTS[0])
        start = small - each * COUNTS[0]
        print(f"{way:9} {each * 1e3:6.1f} ms an image, {start:6.1f} s for starting", flush=True)


def processor_time(words: list[str], environ: dict[str, str]) -> float:
    """Seconds of processor time of a command and of all processes that inherit its environment."""
    mark = f"HEATBOX_BENCHMARK={time.time_ns()}"
    name, _, value = mark.partition("=")
    running = subprocess.Popen(words, env=environ | {name: value}, stdout=subprocess.DEVNULL)
    spent: dict[str, int] = {}
    while running.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    spent[folder.name] = int(fields[11]) + int(fields[12])
            except OSError:  # it has ended
                continue
        time.sleep(0.25)
    assert running.returncode == 0, words
    return sum(spent.values()) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
