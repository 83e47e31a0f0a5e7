"""Draw pictures of shapes and write their labels as a CSV file, to practise on.

Example:
    python docs/practice_shapes.py data/shapes
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

SIDE = 64
SHAPES = ("circle", "square")


def main() -> None:
    """Write ``labels.csv`` and the folder ``pictures``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="where to write")
    parser.add_argument("count", nargs="?", type=int, default=800, help="of pictures (%(default)s)")
    args = parser.parse_args()
    root, rng = Path(args.folder), np.random.default_rng(0)
    if (root / "labels.csv").exists():
        parser.error(f"{root} has a labels.csv already; it is not written over")
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "shape", "size", "filled"])
        for number in range(args.count):
            path = f"pictures/{number + 1:04d}.png"
            picture, labels = draw(rng)
            cv2.imwrite(str(root / path), picture)
            table.writerow([path, *labels])


def draw(rng: np.random.Generator) -> tuple[np.ndarray, tuple]:
    """A picture (SIDE, SIDE, 3), and its shape, its size in pixels and whether it is filled."""
    shape, filled = str(rng.choice(SHAPES)), bool(rng.random() < 0.5)
    # circles tend to be larger than squares: the two labels are related
    size = int(np.clip(rng.normal(40 if shape == "circle" else 26, 6), 10, 52))
    picture = np.full((SIDE, SIDE, 3), rng.integers(160, 256, 3), np.uint8)
    colour = tuple(int(value) for value in rng.integers(0, 100, 3))
    x, y = (int(value) for value in rng.integers(size // 2 + 2, SIDE - size // 2 - 1, 2))
    half, thickness = size // 2, cv2.FILLED if filled else 2
    if shape == "circle":
        cv2.circle(picture, (x, y), half, colour, thickness)
    else:
        cv2.rectangle(picture, (x - half, y - half), (x + half, y + half), colour, thickness)
    return picture, (shape, size, int(filled))


if __name__ == "__main__":
    main()
