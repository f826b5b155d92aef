"""Shards of a few glyphs: WebDataset tars and Parquet files, and a server that sends them by ranges."""

import io
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq

from heatbox.data import glyphs


def jpeg(split, example):
    buffer = io.BytesIO()
    split.open_image(example).save(buffer, "JPEG")
    return buffer.getvalue()


def tar_shard(members):
    """Bytes of a tar of (name, content) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def samples(split, examples, labels=".json"):
    """Members of a WebDataset: images with boxes (.json), with classes (.cls) or alone ("")."""
    for number, example in enumerate(examples):
        yield f"{number:06d}.jpg", jpeg(split, example)
        if labels == ".cls":
            yield f"{number:06d}.cls", str(example.label).encode()
        elif labels == ".json":
            x1, y1, x2, y2 = map(int, example.boxes[0])
            text = (
                f'{{"label": {example.label}, "objects": {{"bbox": [[{x1}, {y1}, {x2 - x1}, {y2 - y1}]]}}}}'
            )
            yield f"{number:06d}.json", text.encode()


def write_shards(fs, folder, count=12, shards=3, labels=".json", name="test-{:06d}.tar"):
    """Write the first glyphs as shards; returns their split."""
    split = glyphs("test", count)
    size = -(-count // shards)
    for number in range(shards):
        part = split.examples[number * size : (number + 1) * size]
        fs.pipe(f"{folder}/{name.format(number)}", tar_shard(samples(split, part, labels)))
    return split


def parquet_shard(split, examples, group=4, padding=0):
    """Bytes of a Parquet file of images with boxes; `padding` bytes more for each image."""
    rows = []
    for number, example in enumerate(examples):
        x1, y1, x2, y2 = map(float, example.boxes[0])
        content = jpeg(split, example) + bytes((number * 7 + k * k) % 251 for k in range(padding))
        rows.append(
            {
                "image": {"bytes": content, "path": f"{number:04d}.jpg"},
                "label": example.label,
                "width": example.size[0],
                "height": example.size[1],
                "objects": {"bbox": [[x1, y1, x2 - x1, y2 - y1]], "category": [example.label]},
            }
        )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=group, compression="none")
    return buffer.getvalue()


class Server:
    """A web server on loopback with files; `failures` are the next answers, before files are sent again,
    `failing` a path that is never sent.

    Attributes:
        requests: (path, range or None) of what was asked with GET.
    """

    def __init__(self, files):
        self.files, self.failures, self.requests, self.ranges = files, [], [], True
        self.failing = ""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(False)

            def do_GET(self):
                server.requests.append((self.path, self.headers.get("Range")))
                self.answer(True)

            def answer(self, body):
                path = self.path.partition("?")[0]
                if body and path == server.failing:
                    self.send_error(500)
                    return
                if body and server.failures:
                    self.send_error(server.failures.pop(0))
                    return
                if path not in server.files:
                    self.send_error(404)
                    return
                data, asked = server.files[path], self.headers.get("Range")
                if asked and server.ranges:
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    part = data[int(first) : int(last or len(data) - 1) + 1]
                    self.send_response(206)
                    self.send_header(
                        "Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
                    )
                    data = part
                else:
                    self.send_response(200)
                if server.ranges:
                    self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", f'"{len(server.files[path])}"')
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"


@contextmanager
def served(files):
    """A running `Server`."""
    server = Server(files)
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
