"""Small CSV files of labels, and data sets of them."""

import csv

import cv2
import numpy as np

from trn_plugin.datasets import TabularMultiTask

LABELS = dict(
    ears=dict(kind="landmarks", points=["left", "right"], flip_pairs=[("left", "right")]),
    coat=dict(kind="class", classes=["short", "long"]),
    marks=dict(kind="attributes", columns=["striped", "white"]),
    size=dict(kind="values", columns=["weight"]),
)
HEADER = ["image", "left_x", "left_y", "right_x", "right_y", "coat", "striped", "white", "weight"]
ROW = ["a.png", "10", "20", "30.5", "20", "long", "1", "0", "4.25"]
PIPELINE = [
    dict(type="LoadImage"),
    dict(type="RegionBox", training=False),
    dict(type="CropResize", size=16),
    dict(type="PackMultiTaskInputs"),
]
BOX = ["x0", "y0", "x1", "y1"]
GIVEN = ["4", "6.4", "30", "33"]
NO_EARS = dict(left_x="", left_y="", right_x="", right_y="")
ONE_EAR = dict(left_x="", left_y="")


def write(folder, *rows, header=HEADER, pictures=True):
    """labels.csv of these rows, and their pictures."""
    folder.mkdir(exist_ok=True)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    for row in rows if pictures else ():
        image = np.full((40, 50, 3), 90, np.uint8)
        cv2.imwrite(str(folder / row[0]), image)
    return str(folder)


def make(*args, **kwargs):
    """The data set, without MMEngine's pickling of it, which collects garbage each time."""
    return TabularMultiTask(*args, serialize_data=False, **kwargs)


def changed(row=ROW, **cells):
    return [cells.get(name, cell) for name, cell in zip(HEADER, row, strict=True)]


def records(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]
