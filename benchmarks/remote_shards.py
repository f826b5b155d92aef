"""What reading WebDataset shards from a web server costs, beside the same shards on a disk.

    python benchmarks/remote_shards.py --shards 10 --images 400

Copies of one photograph are read in order, in threads, by a process of its own for each way. Prints requests
and bytes for each image, processor time for each image, and peak memory. The server is on this machine, so
the clock tells nothing about a network.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PHOTOGRAPH = Path(__file__).parents[1] / "src/heatbox/data/photos/missile/rocket.jpg"


def write_shards(folder: Path, shards: int, images: int) -> int:
    """Write the shards; returns their bytes."""
    photograph = PHOTOGRAPH.read_bytes()
    for number in range(shards):
        with tarfile.open(folder / f"train-{number:06d}.tar", "w") as tar:
            for image in range(images):
                for name, data in ((f"{image:06d}.jpg", photograph), (f"{image:06d}.cls", b"657")):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return sum(path.stat().st_size for path in folder.iterdir())


class Server(BaseHTTPRequestHandler):
    """Sends ranges of the files in `folder`, and counts them."""

    folder, requests, sent, protocol_version = Path(), 0, 0, "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        with (self.folder / Path(self.path).name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
            file.seek(int(first))
            data = file.read(int(last or size - 1) + 1 - int(first)) if body else b""
        self.send_response(206 if body else 200)
        self.send_header("Content-Length", str(len(data) if body else size))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(data)
        Server.requests += 1
        Server.sent += len(data)

    def log_message(self, *args: object) -> None:
        pass


def read(data: str) -> None:
    """Open the split and read every image as a file, in order; prints what it took."""
    from heatbox.data.open import open_split

    if data.startswith("http"):
        from heatbox.data.files.remote import opened as library

        library(data)  # its import is no part of the time
    warnings.simplefilter("ignore")
    started, base = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    split = open_split(data)
    opened = time.process_time()
    after_opening = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(split), 64):
            sizes = list(
                pool.map(lambda e: len(split.open_image.read(e)), split.examples[start : start + 64])
            )
            assert len({*sizes}) == 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = {
        "list_ms": (opened - started) * 1e3 / len(split),
        "read_ms": (time.process_time() - opened) * 1e3 / len(split),
    }
    print(
        json.dumps({**times, "base_mb": base / 1e3, "opened_mb": after_opening / 1e3, "peak_mb": peak / 1e3})
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--read", default="")
    args = parser.parse_args()
    if args.read:
        read(args.read)
        return
    with tempfile.TemporaryDirectory() as folder:
        Server.folder = Path(folder, "shards")
        Server.folder.mkdir()
        size, count = write_shards(Server.folder, args.shards, args.images), args.shards * args.images
        print(f"{args.shards} shards of {args.images} images, {size / 1e6:.0f} MB")
        server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names = f"train-{{000000..{args.shards - 1:06d}}}.tar"
        far = f"http://127.0.0.1:{server.server_port}/{names}"
        for what, data in (
            ("disk", f"{Server.folder}/{names}"),
            ("server, first", far),
            ("server, again", far),
        ):
            Server.requests = Server.sent = 0
            command = [sys.executable, __file__, "--read", data]
            environ = os.environ | {"XDG_CACHE_HOME": folder}
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            print(
                f"{what:14} listing {found['list_ms']:.3f} ms, reading {found['read_ms']:.3f} ms of processor"
                f" time an image; {Server.requests / count:.4f} requests an image, {Server.sent / size:.2f} "
                f"times the bytes; memory {found['opened_mb'] - found['base_mb']:.0f} MB for listing, "
                f"{found['peak_mb'] - found['opened_mb']:.0f} MB more for reading"
            )
        server.shutdown()
        indexes = sum(path.stat().st_size for path in Path(folder, "heatbox/indexes").iterdir())
        print(f"indexes: {indexes / count:.1f} bytes an image")


if __name__ == "__main__":
    main()
