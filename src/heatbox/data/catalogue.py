"""The supported data sets: license, size, source, expected files and checksums.

docs/datasets.md lists the source of each figure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from heatbox.errors import InputError


@dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes:
        name: common name.
        what: splits and their numbers of images.
        licence: terms of use in a few words; the publisher's page is authoritative.
        size: of the download, if the publisher states it.
        where: the page of the publisher.
        layout: the files to put into one folder, as archives or extracted.
        md5: file name → checksum, if known.
    """

    name: str
    what: str
    licence: str
    size: str
    where: str
    layout: str
    md5: Mapping[str, str] = field(default_factory=dict)


CATALOGUE = (
    Entry(
        "CUB-200-2011",
        "200 birds: 5,994 train, 5,794 test, a box each, masks",
        "non-commercial research and education",
        "1.15 GB, masks 39 MB",
        "https://data.caltech.edu/records/65de6-vp158, masks https://data.caltech.edu/records/w9d68-gec53",
        "CUB_200_2011.tgz; segmentations.tgz beside it for masks",
        {
            "CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78",
            "segmentations.tgz": "4d47ba1228eae64f2fa547c47bc65255",
        },
    ),
    Entry(
        "CUBV2",
        "1,000 more photographs of the same birds, a box each: the threshold split",
        "labels and boxes CC BY 2.0, photographs individually licensed",
        "not published",
        "https://github.com/clovaai/wsolevaluation",
        "images/ beside the four files of metadata/CUB/val; in CUB_200_2011/CUBV2 it is split fullsup",
    ),
    Entry(
        "ILSVRC2012",
        "1,000 classes: 1,281,167 train, 50,000 val with boxes",
        "non-commercial research and education, after registration",
        "138 GB train, 6.3 GB val, 2.2 MB boxes of val",
        "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        "ILSVRC2012_img_val.tar and ILSVRC2012_bbox_val_v3.tgz, or val/ and bbox_val/; train/CLASS/",
        {
            "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
            "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
            "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
            "ILSVRC2012_bbox_val_v3.tgz": "f4cd18b5ea29fe6bbea62ec9c20d80f0",
        },
    ),
    Entry(
        "ImageNetV2 with boxes",
        "10,000 more photographs of ILSVRC2012's classes (threshold 0.7): the threshold split",
        "boxes CC BY 2.0, images under the terms of their publisher",
        "not published",
        "https://github.com/clovaai/wsolevaluation, images https://github.com/modestyachts/ImageNetV2",
        "dataset/ILSVRC/val2 and metadata/ILSVRC/val",
    ),
    Entry(
        "OpenImages30k",
        "100 classes: 29,819 train, 2,500 val and 5,000 test, the latter two with masks and ignore regions",
        "annotations CC BY 4.0, images listed as CC BY 2.0",
        "not published",
        "https://github.com/clovaai/wsolevaluation",
        "dataset/OpenImages/SPLIT with masks beside the images, metadata/OpenImages/SPLIT",
    ),
    Entry(
        "Tiny-ImageNet",
        "200 classes of 64 x 64 pixels: 100,000 train, 10,000 val, a box each",
        "none given; the images are from ImageNet",
        "0.25 GB",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "tiny-imagenet-200.zip, or its content",
        {"tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de"},
    ),
    Entry(
        "cue-conflict stimuli",
        "1,280 images, the shape of one of 16 categories with the texture of another",
        "CC BY 4.0",
        "not published",
        "https://github.com/rgeirhos/texture-vs-shape",
        "stimuli/style-transfer-preprocessed-512",
    ),
    Entry(
        "your own",
        "CLASS/image or SPLIT/CLASS/image",
        "yours",
        "any",
        "-",
        "boxes in a .csv (image,x1,y1,x2,y2) or COCO's .json beside the folders, or none",
    ),
)


def checksum_problems(path: Path) -> tuple[list[str], int]:
    """Compare files with known names, at a path or directly in it, with their published MD5.

    Returns:
        the differences, one sentence each, and the number of files compared.
    """
    known = {name: digest for entry in CATALOGUE for name, digest in entry.md5.items()}
    inside = path.iterdir() if path.is_dir() else [path]  # else a file, a pattern or an address
    files = sorted(file for file in inside if file.is_file())
    compared = [file for file in files if file.name in known]
    problems = []
    for file in compared:
        try:
            with file.open("rb") as content:
                found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from error
        if found != known[file.name]:
            problems.append(f"{file}: MD5 is {found}, published is {known[file.name]}; download it again")
    return problems, len(compared)
