"""Draw toy faces and write their labels as a CSV file, to practise on.

Example:
    python docs/practice_set.py data/my_faces
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

from trn_plugin.datasets.mtfl_format import POSES
from trn_plugin.datasets.toy_scene import random_picture

POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")


def main() -> None:
    """Write ``labels.csv`` and ``faces``; of ten rows one is for validation and one for testing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="where to write")
    parser.add_argument("count", nargs="?", type=int, default=800, help="of faces (%(default)s)")
    args = parser.parse_args()
    if (Path(args.folder) / "labels.csv").exists():
        parser.error(f"{args.folder} has a labels.csv already; it is not written over")
    write(args.folder, args.count)


def write(folder: str, count: int) -> None:
    root = Path(folder)
    (root / "faces").mkdir(parents=True, exist_ok=True)
    columns = [f"{point}_{axis}" for point in POINTS for axis in "xy"]
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", *columns, "pose", "smiling", "split"])
        for number in range(count):
            path = f"faces/{number + 1:05d}.jpg"
            image, row = random_picture(path, np.random.default_rng([0, number]))
            cv2.imwrite(str(root / path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            points = [value for point in zip(row.xs, row.ys, strict=True) for value in point]
            split = {8: "val", 9: "test"}.get(number % 10, "train")
            table.writerow([path, *points, POSES[row.pose - 1], int(row.smile == 1), split])


if __name__ == "__main__":
    main()
