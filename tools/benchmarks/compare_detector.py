"""Compare an exported file's landmark error on whole pictures and on a detector's faces.

Prints the number of test pictures in which the detector finds a face, and on these the mean error
for both inputs, normalised by the distance between the eyes. If there are several faces, the one
nearest to the labels counts. MTFL's test set is AFLW, which is not in its training set.

Example:
    python tools/benchmarks/compare_detector.py configs/mtfl/mtl_resnet18_mtfl.py model.onnx \\
        --detector face_detection_yunet_2023mar.onnx --out detector.csv
"""

import numpy as np
from measuring import add_out

from trn_plugin.cli.config import load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.running import start
from trn_plugin.deploy import TaskPredictor
from trn_plugin.deploy.detector import FaceDetector
from trn_plugin.errors import ConfigError
from trn_plugin.files import write_table
from trn_plugin.geometry import read_image
from trn_plugin.registry import DATASETS


def add_arguments(parser):
    parser.add_argument("config", help="config with the test set")
    parser.add_argument("model", help="a file written by `trn-plugin export`")
    parser.add_argument("--detector", required=True, metavar="FILE.onnx", help="YuNet")
    parser.add_argument("--task", default="landmarks", help="landmark task (%(default)s)")
    parser.add_argument("--pictures", type=positive_int, metavar="N", help="only the first N")
    add_out(parser)


def main(args):
    rows = compare(args)
    for row in rows:
        print(f"{row['input']:16} NME {row['nme_percent']:6.2f} %, faces: {row['faces']}")
    if args.out:
        write_table(args.out, rows)


def compare(args):
    predictor, detector = TaskPredictor(args.model), FaceDetector(args.detector)
    records, eyes = labelled(load_config(args.config, []), args)
    errors = {"whole picture": [], "detected face": []}
    for path, truth in records:
        faces = predictor.predict_objects(path, detector)[0]
        if faces:
            whole = predictor.predict([read_image(path)], [None])[0]
            nearest = min(faces, key=lambda face: distance(face["box"], truth))
            for name, found in zip(errors, (whole, nearest), strict=True):
                errors[name].append(error(found[args.task], truth, eyes))
    counted = len(errors["whole picture"])
    print(f"a face found in {counted} of {len(records)} pictures")
    return [
        {
            "input": name,
            "nme_percent": 100 * float(np.mean(values)) if values else float("nan"),
            "faces": counted,
            "pictures": len(records),
        }
        for name, values in errors.items()
    ]


def labelled(config, args):
    """(path, landmarks in pixels) of each picture without missing points; the eyes' indices."""
    dataset = DATASETS.build(config.test_dataloader.dataset)
    eyes = dataset.metainfo["tasks"].get(args.task, {}).get("interocular")
    if eyes is None:
        raise ConfigError(f"--task: expected landmarks with eyes, found {args.task!r}")
    records = (dataset.get_data_info(index) for index in range(len(dataset)))
    found = [
        (each["img_path"], each["gt"][args.task])
        for each in records
        if np.isfinite(each["gt"].get(args.task, np.nan)).all()
    ]
    return found[: args.pictures], list(eyes)


def distance(box, points):
    """Distance between the centre of a box and the mean of the points."""
    return float(np.linalg.norm(np.reshape(box, (2, 2)).mean(0) - points.mean(0)))


def error(found, truth, eyes):
    return np.linalg.norm(found - truth, axis=1).mean() / np.linalg.norm(
        np.diff(truth[eyes], axis=0)
    )


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
