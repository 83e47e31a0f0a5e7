"""CelebA's files at toy size: synthetic pictures and labels."""

from pathlib import Path

import cv2
import numpy as np

from trn_plugin.datasets.celeba import BOX_COLUMNS, POINT_COLUMNS
from trn_plugin.datasets.celeba_format import ATTRIBUTES

FLAT = dict(label=".", split=".", picture=".")
DOWNLOAD = dict(label="Anno", split="Eval", picture="Img")
PIPELINE = [
    dict(type="trn_plugin.LoadImage"),
    dict(type="trn_plugin.FaceBox", mode="whole"),
    dict(type="trn_plugin.CropResize", size=(32, 24)),
    dict(type="trn_plugin.RandomFlip", prob=0.5),
    dict(type="trn_plugin.PackMultiTaskInputs"),
]


def records(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def listing(names, rows, header, blanks=1):
    lines = [str(len(names)), " ".join(header) + " "]
    lines += [
        f"{name}{' ' * blanks}" + " ".join(f"{value:2d}" for value in row)
        for name, row in zip(names, rows, strict=True)
    ]
    return "\r\n".join([*lines, ""])


def make_celeba(root, count=24, layout=FLAT, size=(178, 218), geometry=False, seed=0):
    """Write ``count`` pictures of ``size`` (width, height) and the labels; the labels' arrays."""
    rng = np.random.default_rng(seed)
    root = Path(root)
    folders = {part: root / folder for part, folder in layout.items()}
    pictures = folders["picture"] / "img_align_celeba"
    for folder in (*folders.values(), pictures):
        folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    labels = rng.integers(0, 2, (count, len(ATTRIBUTES)))
    points = np.array([69, 111, 108, 111, 88, 135, 73, 152, 105, 152])
    points = points + rng.integers(-4, 5, (count, 10))
    boxes = rng.integers((20, 30, 60, 80), (40, 60, 90, 120), (count, 4))
    splits = np.arange(count) * 4 // count  # half of the rows for training
    splits = np.maximum(splits - 1, 0)
    for name, label in zip(names, labels, strict=True):
        image = np.full((size[1], size[0], 3), rng.integers(60, 200, 3), dtype=np.uint8)
        center = (size[0] // 2, size[1] // 2)
        cv2.ellipse(image, center, (size[0] // 4, size[1] // 3), 0, 0, 360, (150, 180, 220), -1)
        if label[ATTRIBUTES.index("Wearing_Hat")]:
            image[: size[1] // 4] = (20, 20, 160)
        cv2.imencode(".jpg", image)[1].tofile(pictures / name)
    write = folders["label"].joinpath
    write("list_attr_celeba.txt").write_text(listing(names, 2 * labels - 1, ATTRIBUTES))
    partition = "".join(
        f"{name} {split}\n" for name, split in zip(names, splits.tolist(), strict=True)
    )
    (folders["split"] / "list_eval_partition.txt").write_text(partition)
    if geometry:
        for name in ("list_landmarks_align_celeba.txt", "list_landmarks_celeba.txt"):
            write(name).write_text(listing(names, points, POINT_COLUMNS, 2))
        write("list_bbox_celeba.txt").write_text(listing(names, boxes, BOX_COLUMNS, 4))
    return dict(names=names, labels=labels, points=points.reshape(-1, 5, 2), boxes=boxes)
