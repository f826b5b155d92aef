"""Readers of data sets, over trees in memory, and their parts alone."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from PIL import Image

from fuzz.memory import MemoryTree
from fuzz.mutate import WORDS, Case, damaged
from fuzz.target import Target, files_of, one_sentence, sane, written
from heatbox.analysis.shape_bias import read_responses
from heatbox.data.classes import match_classes
from heatbox.data.files.trees import raise_problem
from heatbox.data.formats import coco, folder, ilsvrc, rows, wsol
from heatbox.data.open import detect_format, open_data_set
from heatbox.data.problems import LeftOut
from heatbox.data.types import Split
from heatbox.errors import InputError
from helpers import data_trees as trees

Build = Callable[[Path], None]


def read_all(case: Case, _: Path) -> None:
    """Recognize the layout, read every split, raising and reporting problems, and open every mask."""
    data_set = detect_format(MemoryTree(case), "memory")
    if data_set is None:
        return
    for name in data_set.splits:
        problems: list[str] = []
        for report in (problems.append, raise_problem):
            try:
                split = data_set.load(name, report)
            except InputError as error:
                problems.append(str(error))
                continue
            sane(split)
            for example in split if split.open_mask else ():
                try:
                    split.open_mask(example)
                except InputError as error:
                    problems.append(str(error))
        for problem in problems:
            one_sentence(problem)


def read_left_out(case: Case, _: Path) -> None:
    """Read every split, leaving out images that cannot be used, and match its classes with a network's."""
    data_set = detect_format(MemoryTree(case), "memory")
    for name in data_set.splits if data_set is not None else ():
        left_out = LeftOut()
        try:
            split = data_set.load(name, left_out)
            kept = left_out.filter(split, boxes=len(case) % 2 == 0, single=len(case) % 3 == 0)
        except InputError as error:
            one_sentence(str(error))
            continue
        for problem in left_out.problems:
            one_sentence(problem)
        assert len(kept) + sum(example.id in left_out.reasons for example in split) == len(split)
        assert all(len(example.boxes) for example in kept) or len(case) % 2
        assert all(len(example.labels) == 1 for example in kept) or len(case) % 3
        assert LeftOut.restored(json.loads(json.dumps(left_out.as_dict()))).counts() == left_out.counts()
        sane(kept.by_class())
        match(kept, Random(len(str(case))))


def match(split: Split, random: Random) -> None:
    """Match a split with networks that have its classes, in another order, with more classes, or fewer."""
    names = [str(name) for name in split.class_names]
    known = random.sample([*names, *names[:1], "a", "A, b", "kite", "", "n01440764"], len(names) + 3)
    networks = [(len(names), names), (len(known), known), (len(names), ()), (1, ())]
    networks += [(1000, ())] * (random.random() < 0.1)
    for number, of_network in networks:
        try:
            found = match_classes(split, max(number, 1), of_network)
        except InputError as error:
            one_sentence(str(error))
            continue
        sane(found)
        for before, after in zip(split, found, strict=True):
            assert len(before.labels) == len(after.labels), "a class is lost"
            assert all(0 <= label < max(number, 1) for label in after.labels), "a class the network lacks"


def cases_of(*builds: Build) -> Callable[[Path], list[Case]]:
    """One case for each function that writes a data set into a folder."""

    def build(root: Path) -> list[Case]:
        for number, make in enumerate(builds):
            make(root / str(number))
        return [files_of(root / str(number)) for number in range(len(builds))]

    return build


def tables_of(case: Case) -> list[str]:
    """The files that are not images."""
    return [name for name in case if not name.lower().endswith((".jpg", ".jpeg", ".png"))]


def damage_tables(case: Case, others: Sequence[Case], random: Random) -> Case:
    """Damages tables, sometimes an image, sometimes the name of a file."""
    if random.random() < 0.1:
        return damage_names(case, others, random)
    names = None if random.random() < 0.05 else tables_of(case) or None
    return damaged(case, others, random, names)


def damage_names(case: Case, others: Sequence[Case], random: Random) -> Case:
    """Files of another name, missing, or from another data set."""
    case = dict(case)
    for _ in range(random.choice((1, 1, 2, 5))):
        if not case:
            break
        name = random.choice(list(case))
        kind = random.randrange(5)
        if kind == 0:
            del case[name]
        elif kind == 1:
            other = random.choice(others)
            new = random.choice(list(other))
            case[new] = other[new]
        else:
            parts = name.split("/")
            place = random.randrange(len(parts))
            if kind == 2:
                parts[place] = random.choice(
                    ("A", "é\u2028", "x y", "train", "val", "images", "." + parts[place])
                )
            elif kind == 3:
                parts.insert(place, random.choice(("a", "images", "test", "n01440764")))
            else:
                parts[place] += random.choice(("1", ".png", ".txt", ".json", ".csv", ".xml", " ", "\udce9"))
            case["/".join(parts)] = case.pop(name)
    return case


def _metadata(root: Path) -> None:
    ids = ["a b.png", "größe, 鳥.png", "d/c.jpg"]
    for name in ids:
        trees.write_image(root / "images" / name)
    boxes = ["1,2,30,29", "0,0,40,30", "5.5,6.25,7,8"]
    trees.metadata(root, ids, [0, 1, 1], [(40, 30)] * 3, boxes)


def _two_splits(root: Path) -> None:
    for split in ("metadata/X/test", "metadata/X/val"):
        trees.metadata(root / split, ["a.png"], [0], [(40, 30)], ["1,2,30,29"])
    trees.write_image(root / "images/a.png")


def _cub(root: Path) -> None:
    trees.cub(root)
    trees.cub_segmentations(root)
    trees.cubv2(root / "CUBV2")


def _ilsvrc(root: Path, flat: bool = True) -> None:
    trees.ilsvrc_val(root / "val", folders=not flat)
    trees.ilsvrc_xml(root / "bbox_val")
    lines = "".join(f"{wnid} {i} a\n" for i, wnid in enumerate(trees.DEVKIT_ORDER, 1))
    trees.write(root / "devkit/map_clsloc.txt", lines)
    trees.write(root / "devkit/ILSVRC2012_validation_ground_truth.txt", "2\n3\n1\n")
    if not flat:
        trees.ilsvrc_train(root / "train")
        trees.write(root / "LOC_synset_mapping.txt", "".join(f"{w} a thing\n" for w in trees.WNIDS))


def _devkit(root: Path) -> None:
    trees.ilsvrc_val(root / "val")
    trees.devkit(root / "ILSVRC2012_devkit")


def _csv(root: Path, header: str = "image,x1,y1,x2,y2", sep: str = ",") -> None:
    trees.classes(root)
    lines = [header, "cat/cat 0.png,1,2.5,10,20", "dog/dog 1.png,3,3,4,4", '"cat/cat 1.png",1,1,2,2']
    trees.write(root / "boxes.csv", "\n".join(lines).replace(",", sep) + "\n")


def _splits(root: Path) -> None:
    trees.classes(root / "train")
    trees.classes(root / "val")
    lines = "file_name;x;y;w;h;label\nval/cat/cat 0.png;1;2;3;4;cat\n"
    trees.write(root / "val.csv", lines)


def _coco_classes(root: Path) -> None:
    trees.classes(root)
    files = ["cat/cat 0.png", "dog/dog 1.png"]
    trees.write(root / "boxes.json", trees.coco_json(files, [(0, 0, [1, 2, 10, 20]), (1, 1, [3, 3, 37, 27])]))


def _coco(root: Path) -> None:
    files = ["1.jpg", "2.jpg"]
    for name in files:
        trees.write_image(root / "val" / name)
    text = trees.coco_json(files, [(0, 0, [1, 2, 10, 20]), (1, 1, [3, 3, 37, 27])])
    trees.write(root / "annotations/instances_val.json", text)


def _coco_outlines(root: Path) -> None:
    content = trees.coco_shots("images\\")
    content["annotations"][0]["segmentation"] = [[50, 5, 61, 38, 95, 38, 67, 58], [1, 1, 9, 1, 9, 9]]
    runs = {"size": [80, 120], "counts": [100, 20, 9480]}
    content["annotations"][3] |= {"segmentation": runs, "score": 0.5}
    packed = {"size": [64, 64], "counts": "0PP4"}
    content["annotations"].append({"image_id": 9, "category_id": 3, "segmentation": packed, "iscrowd": 1})
    content["annotations"].append({"image_id": 9, "category_id": 4})
    trees.shots(root / "images")
    trees.write(root / "result.json", json.dumps(content))


def _label_studio(root: Path) -> None:
    tasks = []
    for number, (name, (size, objects)) in enumerate(trees.SHOTS.items()):
        result = [
            {
                "id": f"r{k}",
                "type": "rectanglelabels",
                "original_width": size[0],
                "original_height": size[1],
                "score": 0.5,
                "value": {
                    "x": 10,
                    "y": 20,
                    "width": 30,
                    "height": 40,
                    "rotation": 15 * k,
                    "rectanglelabels": [kind],
                },
            }
            for k, (kind, _) in enumerate(objects)
        ]
        size = {"original_width": size[0], "original_height": size[1]}
        result.append({"id": "c", "type": "choices", "value": {"choices": ["buoy"]}})
        brush = {"rle": [0, 0, 64, 0, 7 << 3, 0, 0, 0, 0, 0, 0], "format": "rle", "brushlabels": ["buoy"]}
        result.append(
            {"id": "p", **size, "value": {"points": [[1, 1], [9, 9], [1, 50]], "polygonlabels": ["p"]}}
        )
        if number == 2:
            result.append({"id": "b", **size, "value": brush})
        made = [{"id": 1, "was_cancelled": False, "result": result}]
        key = "predictions" if number == 3 else "annotations"
        tasks.append({"id": number, "data": {"image": f"/data/upload/1/0123abcd-{name}"}, key: made})
    trees.shots(root / "images")
    trees.write(root / "tasks.json", json.dumps(tasks))


def _label_studio_min(root: Path) -> None:
    value = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["buoy"]}
    tasks = [
        {
            **{"image": name, "annotation_id": 1, "annotator": 1, "choice": "buoy"},
            "label": [{**value, "original_width": size[0], "original_height": size[1]}],
        }
        for name, (size, _) in trees.SHOTS.items()
    ]
    trees.shots(root / "images")
    trees.write(root / "min.json", json.dumps(tasks))


def _cvat(root: Path) -> None:
    shapes = (
        '<box label="a" occluded="1" xtl="1" ytl="2" xbr="30" ybr="40" rotation="10.0">'
        '<attribute name="score">0.5</attribute></box><polygon label="b" points="1,2;21,2;21,12"></polygon>'
        '<ellipse label="a" cx="32" cy="32" rx="10" ry="5"></ellipse><tag label="t"></tag>'
        '<mask label="b" rle="2, 3, 1, 2" left="5" top="6" width="4" height="2"></mask>'
    )
    images = "".join(
        f'<image id="{k}" name="{name}" subset="s{k % 2}" width="{size[0]}" height="{size[1]}">'
        f"{shapes}</image>"
        for k, (name, (size, _)) in enumerate(trees.SHOTS.items())
    )
    head = (
        "<annotations><version>1.1</version><meta><task><labels><label><name>a</name></label></labels></task>"
    )
    trees.shots(root / "images")
    trees.write(root / "annotations.xml", f"{head}</meta>{images}</annotations>")


def _imagefolder(root: Path) -> None:
    rows = (
        {
            **{"file_name": name, "width": size[0], "height": size[1], "labels": ["buoy"]},
            "objects": {
                "bbox": [[1, 2, 30, 20]] * len(found),
                "categories": ["a"] * len(found),
                "score": None,
            },
        }
        for name, (size, found) in trees.SHOTS.items()
    )
    trees.shots(root / "train")
    trees.write(root / "train/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _parquet(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    trees.shots(root)
    content = [
        {
            "image": {"bytes": (root / name).read_bytes(), "path": name},
            "objects": {"bbox": [[1, 2, 30, 20]], "category": [1]},
        }
        for name in trees.SHOTS
    ]
    for name in trees.SHOTS:
        (root / name).unlink()
    label = {"names": ["a", "b"], "_type": "ClassLabel"}
    described = {"info": {"features": {"objects": {"category": {"feature": label}}}}}
    table = pa.Table.from_pylist(content)
    pq.write_table(
        table.replace_schema_metadata({b"huggingface": json.dumps(described).encode()}),
        root / "train-00000-of-00001.parquet",
        row_group_size=2,
    )


def _samples(root: Path) -> list[Case]:
    """Two archives of WebDataset, with classes and with objects."""
    trees.shots(root)
    cases = []
    for ending, content in (("cls", b"3"), ("json", b'{"label": "a", "objects": {"bbox": [[1, 2, 3, 4]]}}')):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for number, name in enumerate(trees.SHOTS):
                parts = {name.rpartition(".")[2]: (root / name).read_bytes()[:3000], ending: content}
                for suffix, part in parts.items():
                    info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))
        cases.append({"train-0000.tar": data.getvalue()})
    return cases


def _run_samples(case: Case, folder: Path) -> None:
    written(case, folder)
    for name in case:
        data_set = open_data_set(folder / name)
        for split in data_set.splits:
            problems: list[str] = []
            sane(data_set.load(split, problems.append))
            for problem in problems:
                one_sentence(problem)


def _labels(root: Path) -> None:
    trees.shots(root / "images")
    lines = ["image;label;x1;y1;x2;y2;score;width;height", "shot 0.jpg;kite surfer;70;10;110;40;.5;120;80"]
    lines += [
        "größe 1.jpg;buoy;5;6;25;36;;100;60",
        "größe 1.jpg;kite surfer;;;;;;100;60",
        "shot 2.png;;;;;;;64;64",
    ]
    trees.write(root / "labels.csv", "\n".join(lines) + "\n")


def _quoted(root: Path) -> None:
    trees.shots(root)
    rows = ('"shot 0.jpg","two\nlines, ""quoted""",kite,1,2,30,20', 'shot 2.png,"\n",buoy,,,,')
    trees.write(root / "labels.csv", "image,note,label,x1,y1,x2,y2\n" + "\n".join(rows) + "\n")


def _turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "images").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(root / "images" / name, exif=exif)
    trees.metadata(root, ["a.png", "b.png"], [0, 1], [(40, 30)] * 2, ["1,2,30,29", "-1,0,40,30"])


def _several_labels(root: Path) -> None:
    trees.shots(root)
    names = [name for name in trees.SHOTS if name.startswith("shot")]
    trees.write(root / "train.csv", "id,tags,split\n" + "".join(f'{n[:6]},"a, b",train\n' for n in names))
    trees.write(
        root / "val.tsv", "\tfile\ta\tb\n" + "".join(f"{i}\t{n}\t0\t1\n" for i, n in enumerate(names))
    )


def _voc_sets(root: Path) -> None:
    trees.voc(root)
    trees.write(root / "ImageSets/Main/train.txt", "shot 0\n")
    trees.write(root / "ImageSets/Main/val.txt", "größe 1\nshot 2\nshot 3\n")


def _voc_beside(root: Path) -> None:
    trees.voc(root, "train", "train")
    trees.write(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbuoy:1,2,3::\n")


def _yolo_lists(root: Path) -> None:
    trees.yolo(root)
    lines = "".join(f"./images/val/{name}\n" for name in trees.SHOTS)
    trees.write(root / "val.txt", lines)
    trees.write(
        root / "data.yaml", "path: ../x\ntrain: val.txt\nval: [images/val]\nnames: {0: a, 1: no}\nnc: 2\n"
    )
    trees.write(root / "labels/val/shot 0.txt", "1 0.5 0.5 0.2 0.4 0.9\n0 0.1 0.1 0.4 0.1 0.4 0.3 0.2 0.8\n")


def _darknet(root: Path) -> None:
    trees.yolo(root, "obj_train_data", "obj_train_data")
    (root / "data.yaml").unlink()
    trees.write(root / "obj.names", "buoy\nkite surfer\n")
    trees.write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    trees.write(root / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in trees.SHOTS))


LAYOUTS = cases_of(
    _metadata,
    _cub,
    _ilsvrc,
    _csv,
    _splits,
    _coco,
    _coco_classes,
    _coco_outlines,
    _voc_sets,
    _voc_beside,
    trees.yolo,
    _darknet,
    _imagefolder,
    _parquet,
    _label_studio,
    _label_studio_min,
    _cvat,
    _labels,
    _several_labels,
    trees.openimages,
    trees.tiny,
    trees.cue_conflict,
)


# ------------------------------------------------------------------------------------------ single parsers


def _single(name: str, *texts: bytes) -> Callable[[Path], list[Case]]:
    return lambda _: [{name: text} for text in texts]


def _run_xml(case: Case, _: Path) -> None:
    problems: list[str] = []
    with rows.skipping(problems.append):
        ilsvrc.read_voc(MemoryTree(case), "a.xml")
    for problem in problems:
        one_sentence(problem)


def _run_coco(case: Case, _: Path) -> None:
    problems: list[str] = []
    coco.read_coco(MemoryTree(case), "boxes.json", problems.append)
    for problem in problems:
        one_sentence(problem)


def _run_csv(case: Case, _: Path) -> None:
    problems: list[str] = []
    folder.read_csv(MemoryTree(case), "boxes.csv", problems.append)
    for problem in problems:
        one_sentence(problem)


def _run_rows(case: Case, _: Path) -> None:
    tree, problems = MemoryTree(case), []
    rows.read_id_table(tree, "a.txt", problems.append, "id rest")
    for row in rows.read_rows(tree, "a.txt"):
        fields = row.text.split()
        with rows.skipping(problems.append):
            rows.parse_floats(row, fields, "numbers")
        with rows.skipping(problems.append):
            rows.parse_integer(row, fields[0], "number")
        rows.is_safe_id(row.text)
    list(wsol.read_values(tree, "a.txt", float, "id,x1,y1,x2,y2", problems.append))
    for problem in problems:
        one_sentence(problem)


def _run_matlab(case: Case, _: Path) -> None:
    ilsvrc.read_structures(case["meta.mat"], "synsets")


def _matlab(root: Path) -> list[Case]:
    from scipy.io import loadmat, savemat

    trees.devkit(root)
    source = root / "data/meta.mat"
    plain = source.read_bytes()
    content = {"synsets": loadmat(source)["synsets"]}
    savemat(root / "packed.mat", content, do_compression=True)
    head = b"MATLAB 5.0 MAT-file".ljust(116)  # without the time at which it was made
    return [{"meta.mat": head + data[116:]} for data in (plain, (root / "packed.mat").read_bytes())]


def _run_names(case: Case, _: Path) -> None:
    """A row of responses is read from a file in the working folder, and again as a list of dictionaries."""
    ((name, data),) = case.items()
    path = _ / name
    path.write_bytes(data)
    try:
        read_responses(path)
    except InputError as error:
        one_sentence(str(error))
    text = data.decode("utf-8", "replace")
    try:
        read_responses(list(csv.DictReader(text.splitlines())))
    except InputError as error:
        one_sentence(str(error))
    except csv.Error:  # of Python's own reader
        pass


_RESPONSES = b"image,shape,texture,response,model\ncat1-dog2.png,cat,dog,cat,a\ndog1-cat2.png,dog,cat,na,b\n"
_RAW = (
    b"subj,session,trial,rt,object_response,category,condition,imagename\n"
    b's1,1,1,0.5,cat,bird,0,"0_a_bird_00_bird3-bird2.png"\n'
)
_BOXES = (
    b'image,x1,y1,x2,y2\ncat/cat 0.png,1,2.5,10,20\n"a, b.png",3,3,4,4\n',
    b"File\tx\ty\tw\th\timage_width\timage_height\tlabel\na.png\t1\t2\t3\t4\t40\t30\tcat\n",
    b"filename;xmin;ymin;xmax;ymax\nx.png;0;0;1;1\n",
)
_COCO = trees.coco_json(["cat/0.png", "dog/1.png"], [(0, 0, [1, 2, 10, 20]), (1, 1, [3, 3, 37, 27])]).encode()
_ROWS = (b"1 a b\n2 c\n3 d e f\n", b"a,b.png,1,2,3,4\nx.png,0.5,1e3,7,8\n", b"1 0\n2 1\n\n3 1\n")
_XML = (
    trees.xml("a", "n01440764").encode(),
    trees.xml("b", "n02084071", (500, 375), ((1, 2, 3, 4), (0, 0, 501, 376))).encode(),
)

TARGETS = [
    Target("wsol", cases_of(_metadata, _two_splits, _turned), read_all, 70_000, damage_tables),
    Target("cub", cases_of(_cub), read_all, 60_000, damage_tables),
    Target("ilsvrc", cases_of(_ilsvrc, lambda r: _ilsvrc(r, False)), read_all, 50_000, damage_tables),
    Target("ilsvrc-devkit", cases_of(_devkit), read_all, 40_000, damage_tables),
    Target("openimages", cases_of(trees.openimages), read_all, 30_000, damage_tables),
    Target("tiny-imagenet", cases_of(trees.tiny), read_all, 60_000, damage_tables),
    Target(
        "class-folders",
        cases_of(_csv, _splits, lambda r: _csv(r, "path;xmin;ymin;xmax;ymax", ";")),
        read_all,
        40_000,
        damage_tables,
    ),
    Target("coco", cases_of(_coco, _coco_classes), read_all, 60_000, damage_tables),
    Target("coco-outlines", cases_of(_coco_outlines), read_all, 80_000, damage_tables),
    Target("voc", cases_of(_voc_sets, _voc_beside), read_all, 80_000, damage_tables),
    Target("yolo", cases_of(trees.yolo, _yolo_lists, _darknet), read_all, 100_000, damage_tables),
    Target("label-studio", cases_of(_label_studio, _label_studio_min), read_all, 100_000, damage_tables),
    Target("cvat", cases_of(_cvat), read_all, 80_000, damage_tables),
    Target("imagefolder", cases_of(_imagefolder), read_all, 80_000, damage_tables),
    Target("parquet-shards", cases_of(_parquet), read_all, 60_000, damage_tables),
    Target("webdataset", _samples, _run_samples, 60_000),
    Target("left-out", LAYOUTS, read_left_out, 80_000, damage_tables),
    Target("label-tables", cases_of(_labels, _several_labels, _quoted), read_all, 80_000, damage_tables),
    Target("cue-conflict", cases_of(trees.cue_conflict), read_all, 20_000, damage_names),
    Target("layouts", LAYOUTS, read_all, 40_000, damage_names),
    Target("voc-xml", _single("a.xml", *_XML), _run_xml, 100_000),
    Target("coco-json", _single("boxes.json", _COCO), _run_coco, 80_000),
    Target("csv-boxes", _single("boxes.csv", *_BOXES), _run_csv, 110_000),
    Target("rows", _single("a.txt", *_ROWS, *WORDS[:6]), _run_rows, 120_000),
    Target("matlab", _matlab, _run_matlab, 80_000, refusals=(ValueError,)),
    Target("responses", _single("r.csv", _RESPONSES, _RAW), _run_names, 60_000),
]
