"""How long it takes to read annotation files: 100,000 boxes of 20,000 images.

    python benchmarks/reading_annotations.py

Prints the best of three for each layout. The images are copies of one small file.
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from heatbox.data.open import open_split

IMAGES, BOXES, SIZE, CLASSES = 20_000, 100_000, (640, 480), 80


def boxes() -> np.ndarray:
    """(BOXES, 4) xywh in pixels."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1, (BOXES, 2)) * np.array(SIZE) / 2
    return np.concatenate([corner, rng.uniform(0.1, 1, (BOXES, 2)) * np.array(SIZE) / 2], 1).round(2)


def write_images(folder: Path) -> None:
    """Copies of one small JPEG of the right size."""
    folder.mkdir(parents=True)
    data = io.BytesIO()
    Image.new("RGB", SIZE).save(data, "JPEG")
    for number in range(IMAGES):
        (folder / f"{number:06d}.jpg").write_bytes(data.getvalue())


def write_coco(root: Path) -> None:
    """COCO's JSON beside images/."""
    size = {"width": SIZE[0], "height": SIZE[1]}
    content = {
        "images": [{"id": k, "file_name": f"{k:06d}.jpg", **size} for k in range(IMAGES)],
        "annotations": [
            {
                "id": k,
                "image_id": k % IMAGES,
                "category_id": k % CLASSES,
                "bbox": box,
                "area": 1,
                "iscrowd": 0,
            }
            for k, box in enumerate(boxes().tolist())
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(CLASSES)],
    }
    (root / "instances.json").write_text(json.dumps(content))


def write_csv(root: Path) -> None:
    """A table beside images/."""
    rows = (
        f"{k % IMAGES:06d}.jpg,class {k % CLASSES},{x},{y},{w},{h},{SIZE[0]},{SIZE[1]}\n"
        for k, (x, y, w, h) in enumerate(boxes().tolist())
    )
    (root / "boxes.csv").write_text("image,label,x,y,w,h,image_width,image_height\n" + "".join(rows))


def write_yolo(root: Path) -> None:
    """labels/ beside images/."""
    (root / "labels").mkdir()
    rows: list[list[str]] = [[] for _ in range(IMAGES)]
    for k, (x, y, w, h) in enumerate(boxes().tolist()):
        values = ((x + w / 2) / SIZE[0], (y + h / 2) / SIZE[1], w / SIZE[0], h / SIZE[1])
        rows[k % IMAGES].append(f"{k % CLASSES} " + " ".join(f"{value:.6f}" for value in values))
    for number, lines in enumerate(rows):
        (root / f"labels/{number:06d}.txt").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("".join(f"class {k}\n" for k in range(CLASSES)))


LAYOUTS = {"coco": write_coco, "csv": write_csv, "yolo": write_yolo}


def main() -> None:
    """Measure each layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", nargs="*", default=list(LAYOUTS), choices=list(LAYOUTS))
    for name in parser.parse_args().layout:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_images(root / "images")
            LAYOUTS[name](root)
            best = float("inf")
            for _ in range(3):
                begin = time.process_time()
                split = open_split(root)
                best = min(best, time.process_time() - begin)
            count = sum(len(example.boxes) for example in split)
            print(f"{name}: {count:,} boxes of {len(split):,} images in {best:.2f} s of processor time")


if __name__ == "__main__":
    main()
