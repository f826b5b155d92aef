"""Boxes by Ray Data, Spark and datasets with two workers, beside a loop in one process.

    uv run --with 'ray[data]' --with pyspark --with datasets python benchmarks/engines.py --images 200 1000

Drawings and the included `resnet10_small` with CAM: little work for each image, so that what an engine adds
shows. Every engine reads the same files, gets the same boxes (compared) and writes Parquet, in a process of
its own; each model has one thread, and the loop is one process. Seconds are by the clock and include
imports, the start of the engine, and the models. Spark needs Java. An engine that is not installed is left
out.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH, WORKERS = 32, 2
MODEL = {"model": "resnet10_small", "checkpoint": "pretrained", "method": "cam"}


@functools.cache
def localizer() -> Any:
    """One model for this process."""
    import torch

    from heatbox.integrations.ray import Localize

    torch.set_num_threads(1)
    return Localize(**MODEL)


def located(files: list[str]) -> pa.Table:
    return localizer()({"bytes": [Path(file).read_bytes() for file in files], "path": files})


def by_loop(folder: str, out: Path) -> None:
    files = sorted(map(str, Path(folder).glob("*.png")))
    tables = [located(files[start : start + BATCH]) for start in range(0, len(files), BATCH)]
    out.mkdir()
    pq.write_table(pa.concat_tables(tables), out / "boxes.parquet")


def by_ray(folder: str, out: Path) -> None:
    import ray

    from heatbox.integrations.ray import Localize

    ray.init(num_cpus=WORKERS, include_dashboard=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    files = ray.data.read_binary_files(folder, include_paths=True)
    boxes = files.map_batches(
        Localize,
        fn_constructor_kwargs=MODEL,
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=WORKERS),
        num_cpus=0.5,
    )
    boxes.write_parquet(str(out))
    ray.shutdown()


def by_spark(folder: str, out: Path) -> None:
    from pyspark.sql import SparkSession

    model = MODEL  # the function is sent to the workers, which do not have this file

    def boxes(frames: Iterator[Any]) -> Iterator[Any]:
        import torch

        from heatbox.integrations.ray import Localize

        torch.set_num_threads(1)
        localize = Localize(**model)
        for frame in frames:
            found = localize({"bytes": frame["content"], "path": frame["path"]})
            yield found.select(["path", "label", "boxes"]).to_pandas()

    spark = (
        SparkSession.builder.master(f"local[{WORKERS}]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH)
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    files = spark.read.format("binaryFile").load(folder).select("path", "content").repartition(2 * WORKERS)
    found = files.mapInPandas(boxes, "path string, label long, boxes array<array<double>>")
    found.write.parquet(str(out))
    spark.stop()


def by_datasets(folder: str, out: Path) -> None:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    files = sorted(map(str, Path(folder).glob("*.png")))
    data = Dataset.from_dict({"path": files})
    boxes = data.map(
        lambda batch: located(batch["path"]).select(["path", "label", "boxes"]).to_pydict(),
        batched=True,
        batch_size=BATCH,
        num_proc=WORKERS,
    )
    out.mkdir()
    boxes.to_parquet(str(out / "boxes.parquet"))


ENGINES: dict[str, tuple[str, Callable[[str, Path], None]]] = {
    "a loop": ("heatbox", by_loop),
    "datasets, num_proc": ("datasets", by_datasets),
    "Ray Data": ("ray", by_ray),
    "Spark": ("pyspark", by_spark),
}


def write_images(folder: Path, count: int) -> None:
    from heatbox.data.glyphs import glyphs

    folder.mkdir()
    split = glyphs("test", count)
    for number, example in enumerate(split):
        split.open_image(example).save(folder / f"{number:06d}.png")


def read_boxes(out: Path) -> dict[str, np.ndarray]:
    tables = [pq.read_table(file, columns=["path", "boxes"]) for file in sorted(out.glob("**/*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    return {row["path"].rpartition("/")[2]: np.array(row["boxes"]) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs=2, default=[200, 1000])
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=list(ENGINES))
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "PYSPARK_PYTHON": sys.executable}
    new_process = multiprocessing.get_context("spawn").Process
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n")
    print("| | {} images, s | {} images, s |\n|---|---|---|".format(*args.images), flush=True)
    with tempfile.TemporaryDirectory() as root:
        expected = {}
        for count in args.images:
            write_images(Path(root) / str(count), count)
        for name in args.only:
            module, work = ENGINES[name]
            if importlib.util.find_spec(module) is None:
                print(f"| {name}: not installed | | |")
                continue
            seconds = []
            for count in args.images:
                out = Path(root) / f"{module}-{count}"
                process = new_process(target=work, args=(str(Path(root) / str(count)), out))
                began = time.perf_counter()
                process.start()
                process.join()
                seconds.append(time.perf_counter() - began)
                found = read_boxes(out)
                wanted = expected.setdefault(count, found)
                assert found.keys() == wanted.keys(), f"{name}: other images"
                assert all(np.array_equal(found[one], wanted[one]) for one in wanted), f"{name}: other boxes"
            print(f"| {name} | {seconds[0]:.1f} | {seconds[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
