"""Small data sets in the layouts in which the real ones are published; see docs/datasets.md."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n02084071")


def write_image(path: Path, size=(40, 30), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (size[1], size[0], 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path, "PNG" if path.suffix == ".png" else "JPEG")


def write(path: Path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


CUB_NAMES = (
    "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
    "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
    "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg",
    "002.Laysan_Albatross/Laysan_Albatross_0104_630.jpg",
)


def cub(root: Path):
    for name in CUB_NAMES:
        write_image(root / "images" / name)
    write(root / "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(CUB_NAMES, 1)))
    write(root / "image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n")
    write(root / "train_test_split.txt", "1 0\n2 1\n3 1\n4 0\n")
    boxes = ("6.0 2.0 32.0 20.0", "1.0 3.0 10.0 20.0", "0.0 0.0 40.0 30.0", "5.5 6.5 10.0 10.0")
    write(root / "bounding_boxes.txt", "".join(f"{i} {box}\n" for i, box in enumerate(boxes, 1)))
    write(root / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    return root


def cub_segmentations(root: Path):
    for name in CUB_NAMES:
        gray = np.zeros((30, 40), np.uint8)
        gray[5:20, 6:30] = 204  # four annotators of five
        gray[5:8] = 102  # two of five
        path = root / "segmentations" / name.replace(".jpg", ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gray).save(path)


def metadata(folder: Path, ids, labels, sizes, boxes):
    write(folder / "image_ids.txt", "".join(f"{i}\n" for i in ids))
    write(folder / "class_labels.txt", "".join(f"{i},{k}\n" for i, k in zip(ids, labels, strict=True)))
    write(folder / "image_sizes.txt", "".join(f"{i},{w},{h}\n" for i, (w, h) in zip(ids, sizes, strict=True)))
    write(folder / "localization.txt", "".join(f"{i},{b}\n" for i, b in zip(ids, boxes, strict=True)))


def cubv2(root: Path):
    ids = ["001.Black_footed_Albatross/30107316117.jpg", "002.Laysan_Albatross/25513167677.jpg"]
    for name in ids:
        write_image(root / "images" / name, (50, 40))
    metadata(root, ids, [0, 1], [(50, 40)] * 2, ["1,2,30,40", "10,10,50,20"])
    return root


def xml(name, wnid, size=(40, 30), boxes=((3, 4, 20, 25),)):
    objects = "".join(
        f"\t<object>\n\t\t<name>{wnid}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{a}</xmin>\n\t\t\t<ymin>{b}</ymin>\n"
        f"\t\t\t<xmax>{c}</xmax>\n\t\t\t<ymax>{d}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for a, b, c, d in boxes
    )
    return (
        f"<annotation>\n\t<folder>val</folder>\n\t<filename>{name}</filename>\n\t<source>\n"
        f"\t\t<database>ILSVRC_2012</database>\n\t</source>\n\t<size>\n\t\t<width>{size[0]}</width>\n"
        f"\t\t<height>{size[1]}</height>\n\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n"
        f"{objects}</annotation>\n"
    )


ILSVRC_CLASSES = (2, 0, 1)  # of the three validation images, among sorted ids
DEVKIT_ORDER = (WNIDS[1], WNIDS[2], WNIDS[0])  # devkit class 1, 2, 3


def ilsvrc_val(root: Path, folders=False):
    for number, label in enumerate(ILSVRC_CLASSES, 1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        write_image(root / (f"{WNIDS[label]}/{name}" if folders else name))
    return root


def ilsvrc_xml(root: Path):
    for number, label in enumerate(ILSVRC_CLASSES, 1):
        name = f"ILSVRC2012_val_{number:08d}"
        boxes = ((3, 4, 20, 25), (0, 0, 40, 31)) if number == 2 else ((3, 4, 20, 25),)
        write(root / f"{name}.xml", xml(name, WNIDS[label], boxes=boxes))


def ilsvrc_train(root: Path):
    for wnid in WNIDS:
        for number in (1, 2):
            write_image(root / wnid / f"{wnid}_{number}.JPEG")


def devkit(root: Path):
    from scipy.io import savemat

    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    kind = [(name, object) for name in (*names, "num_train_images")]
    inner = [(1001, "n00001740", "entity", "that which is", 3, np.array([1, 2, 3]), 19, 0)]
    leaves = [(i, wnid, "a thing", "a gloss", 0, 0, 0, 1300) for i, wnid in enumerate(DEVKIT_ORDER, 1)]
    (root / "data").mkdir(parents=True)
    savemat(root / "data" / "meta.mat", {"synsets": np.array(leaves + inner, dtype=kind)[:, None]})
    truth = [DEVKIT_ORDER.index(WNIDS[label]) + 1 for label in ILSVRC_CLASSES]
    write(root / "data" / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{n}\n" for n in truth))


def openimages(root: Path):
    ids = ["test/01226z/7af766bd43da900b.jpg", "test/01226z/973645e9516726b3.jpg"]
    rows = []
    for number, name in enumerate(ids):
        write_image(root / "dataset/OpenImages" / name)
        stem = name.removesuffix(".jpg")
        masks = [f"{stem}_m01226z_{k:08x}.png" for k in range(2 - number)]
        for k, mask in enumerate(masks):
            gray = np.zeros((30, 40), np.uint8)
            gray[5 + 10 * k : 10 + 10 * k, 10:20] = 255
            Image.fromarray(gray > 0).save(root / "dataset/OpenImages" / mask)
        ignore = f"{stem}_ignore.png" if number == 0 else ""
        if ignore:
            gray = np.zeros((30, 40), np.uint8)
            gray[:, 15:25] = 255
            Image.fromarray(gray > 0).save(root / "dataset/OpenImages" / ignore)
        rows += [f"{name},{mask},{ignore if k == 0 else ''}" for k, mask in enumerate(masks)]
    folder = root / "metadata/OpenImages/test"
    write(folder / "image_ids.txt", "\n".join(ids) + "\n")
    write(folder / "class_labels.txt", f"{ids[0]},0\n{ids[1]},5\n")
    write(folder / "image_sizes.txt", "")
    write(folder / "localization.txt", "\n".join(rows) + "\n")
    return root


def tiny(root: Path):
    write(root / "wnids.txt", f"{WNIDS[2]}\n{WNIDS[0]}\n{WNIDS[1]}\n")
    write(root / "words.txt", f"{WNIDS[0]}\ttench, Tinca tinca\n{WNIDS[1]}\tgoldfish\nn99999999\tother\n")
    for wnid in WNIDS:
        for number in range(2):
            write_image(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", (64, 64))
        write(
            root / "train" / wnid / f"{wnid}_boxes.txt",
            f"{wnid}_0.JPEG\t0\t10\t63\t58\n{wnid}_1.JPEG\t6\t7\t8\t63\n",
        )
    for number in range(2):
        write_image(root / "val" / "images" / f"val_{number}.JPEG", (64, 64))
    write(
        root / "val" / "val_annotations.txt",
        f"val_0.JPEG\t{WNIDS[1]}\t0\t32\t44\t62\nval_1.JPEG\t{WNIDS[0]}\t52\t55\t57\t59\n",
    )
    return root


def classes(root: Path, names=("cat", "dog"), count=2):
    for name in names:
        for number in range(count):
            write_image(root / name / f"{name} {number}.png")
    return root


def coco_json(files, boxes, categories=("cat", "dog")):
    """`boxes` are (image index, category index, [x, y, w, h])."""
    licence = {"id": 1, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}
    return json.dumps(
        {
            "info": {"year": 2017, "version": "1.0", "description": "", "contributor": "", "url": ""},
            "licenses": [licence],
            "images": [
                {"id": 10 + i, "width": 40, "height": 30, "file_name": f, "license": 1, "flickr_url": ""}
                for i, f in enumerate(files)
            ],
            "annotations": [
                {
                    **{"id": n, "image_id": 10 + i, "category_id": 5 + c, "bbox": b, "iscrowd": 0},
                    **{"area": b[2] * b[3], "segmentation": [[b[0], b[1], b[0] + b[2], b[1] + b[3]]]},
                }
                for n, (i, c, b) in enumerate(boxes)
            ],
            "categories": [
                {"id": 5 + i, "name": c, "supercategory": "animal"} for i, c in enumerate(categories)
            ],
        }
    )


def cue_conflict(root: Path):
    for name in ("cat/cat1-dog2.png", "cat/cat1-cat3.png", "dog/dog7-cat10.png"):
        write_image(root / name)
    return root


# ------------------------------------------------------------------------- what annotation tools export


SHOTS = {  # file → (size, [(class, xyxy box)])
    "shot 0.jpg": ((120, 80), [("kite surfer", (70, 10, 110, 40))]),
    "größe 1.jpg": ((100, 60), [("buoy", (5, 6, 25, 36)), ("kite surfer", (50, 20, 99, 60))]),
    "shot 2.png": ((64, 64), []),
    "shot 3.jpg": ((120, 80), [("buoy", (1, 1, 20, 30)), ("buoy", (40, 40, 120, 80))]),
}
SHOT_CLASSES = ("buoy", "kite surfer")


def shots(folder: Path):
    for name, (size, _) in SHOTS.items():
        write_image(folder / name, size)


def voc_xml(name, size, objects, extra=""):
    """As in the devkit: corners counted from 1, both inside."""
    rows = "".join(
        f"<object><name>{kind}</name>{extra}<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for kind, (x1, y1, x2, y2) in objects
    )
    head = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{head}{rows}</annotation>"


def voc(root: Path, images="JPEGImages", xml="Annotations"):
    shots(root / images)
    for name, (size, objects) in SHOTS.items():
        write(root / xml / f"{name.rpartition('.')[0]}.xml", voc_xml(name, size, objects))
    return root


def yolo_rows(size, objects, classes=SHOT_CLASSES):
    width, height = size
    return "".join(
        f"{classes.index(kind)} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
        f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}\n"
        for kind, (x1, y1, x2, y2) in objects
    )


def yolo(root: Path, images="images/val", labels="labels/val"):
    shots(root / images)
    for name, (size, objects) in SHOTS.items():
        if objects:
            write(root / labels / f"{name.rpartition('.')[0]}.txt", yolo_rows(size, objects))
    write(root / "data.yaml", f"path: .\ntrain: {images}\nval: {images}\nnames: [buoy, kite surfer]\n")
    return root


def coco_shots(prefix=""):
    """COCO's JSON of the shots, as a dictionary."""
    found = {"images": [], "annotations": [], "categories": []}
    found["categories"] = [{"id": 3 + n, "name": name} for n, name in enumerate(SHOT_CLASSES)]
    for index, (name, (size, objects)) in enumerate(SHOTS.items()):
        found["images"].append(
            {"id": 7 + index, "file_name": prefix + name, "width": size[0], "height": size[1]}
        )
        for kind, (x1, y1, x2, y2) in objects:
            found["annotations"].append(
                {
                    **{"id": len(found["annotations"]) + 1, "image_id": 7 + index},
                    **{"category_id": 3 + SHOT_CLASSES.index(kind), "bbox": [x1, y1, x2 - x1, y2 - y1]},
                    **{"area": (x2 - x1) * (y2 - y1), "iscrowd": 0},
                }
            )
    return found


def same_as_shots(split, tolerance=1e-9):
    """Assert that a split has the shots' labels and boxes; the folders of the ids do not count."""
    assert list(split.class_names) == list(SHOT_CLASSES)
    assert {example.id.rpartition("/")[2] for example in split} == {*SHOTS}
    for example in split:
        size, objects = SHOTS[example.id.rpartition("/")[2]]
        of_boxes = [SHOT_CLASSES.index(kind) for kind, _ in objects]
        assert example.labels == tuple(sorted({*of_boxes}))
        assert example.label == (min(of_boxes) if of_boxes else -1)
        expected = np.array([box for _, box in objects], dtype=float).reshape(-1, 4)
        assert example.boxes.shape == expected.shape
        assert np.allclose(example.boxes, expected, atol=tolerance, rtol=0)
        found = [example.label] * len(objects) if example.box_labels is None else example.box_labels.tolist()
        assert found == of_boxes
        if len(objects):
            assert example.size == size
        assert split.open_image(example).size == size
