"""Damaged annotation files and pictures load correctly or raise one line that names the file."""

import os
import random
import shutil

import numpy as np
import pytest

from trn_plugin.datasets import MTFL, TabularMultiTask
from trn_plugin.datasets.celeba_format import read_attributes, read_partition, read_table
from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.deploy.inputs import read_boxes
from trn_plugin.errors import DataError, TrnPluginError

LONG = pytest.param(
    range(1000, 3000), marks=[pytest.mark.slow, pytest.mark.timeout(3600)], id="long"
)
NUMBERS = """
nan NaN inf -inf 1e308 -1e308 1e9 -40 -0 99999 0 1 2 6 abc 1,5 0x10 1_000 +3 . - -1 '' 1e 1e-400
NULL None true 1.5.2
"""
PATHS = """
../../etc/passwd /etc/passwd ..\\..\\x.jpg C:\\x.jpg \\\\server\\x.jpg a/../../b.jpg ./ toy_train
toy_train/ loop.jpg pipe.jpg away.jpg outside/secret.jpg inside.jpg absent.jpg
"""
TOKENS = (
    *NUMBERS.split(),
    *PATHS.split(),
    *("\u0663", "\uff11\uff12", "\x00", "\x07", "\u00e9", "\ufeff"),
    *("x" * 5000, "toy_train/" + "y" * 300, "9" * 400),
)


def steps(mode):
    names = ("LoadImage", "FaceBox", "CropResize", "PackMultiTaskInputs")
    return [dict(type=name, **(dict(mode=mode) if name == "FaceBox" else {})) for name in names]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A few toy faces with links, a pipe and a folder among them, and a secret beside them."""
    folder = tmp_path_factory.mktemp("bad")
    root = folder / "faces"
    make_toy_faces(str(root), train_size=8, test_size=4)
    (folder / "outside").mkdir()
    shutil.copy(root / "toy_test" / "00001.jpg", folder / "outside" / "secret.jpg")
    os.symlink(folder / "outside", root / "outside")
    os.symlink(folder / "outside" / "secret.jpg", root / "away.jpg")
    os.symlink(root / "toy_train" / "00002.jpg", root / "inside.jpg")
    os.symlink(root / "loop.jpg", root / "loop.jpg")
    os.mkfifo(root / "pipe.jpg")
    return root


def mutated(data, rng):
    """The bytes with one to three things changed: tokens, rows, bytes, encoding, line ends."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.choice(("token", "token", "token", "column", "row", "byte", "whole"))
        lines = data.split(b"\n")
        row = rng.randrange(len(lines))
        words = lines[row].split(b" ")
        if kind == "token":
            words[rng.randrange(len(words))] = rng.choice(TOKENS).encode()
        elif kind == "column":
            at = rng.randrange(len(words))
            words[at : at + 1] = [] if rng.random() < 0.5 else [words[at]] * 2
        lines[row] = b" ".join(words)
        if kind == "row":
            lines[row : row + 1] = [] if rng.random() < 0.5 else [lines[row]] * 2
        data = b"\n".join(lines)
        if kind == "byte" and data:
            at = rng.randrange(len(data))
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + rng.randint(0, 2) :]
        if kind == "whole":
            change = rng.choice(
                (
                    lambda d: d[: rng.randrange(len(d) + 1)],
                    lambda d: d.decode("utf-8", "replace").encode("utf-16"),
                    lambda d: b"\xef\xbb\xbf" + d,
                    lambda d: d.replace(b"\r\n", b"\r").replace(b"\n", b"\r"),
                    lambda d: d.replace(b" ", b"\t"),
                    lambda d: d.replace(b" ", b","),
                    lambda d: d + b"\x1a",
                    lambda d: b"",
                    lambda d: bytes(64),
                )
            )
            data = change(data)
    return data


def refusal(make, name):
    """(the result, None), or (None, the error), which must be one line that contains ``name``."""
    try:
        return make(), None
    except TrnPluginError as error:
        text = str(error)
    assert "\n" not in text
    assert name in text
    assert len(text) < 1000
    return None, text


def check_samples(dataset):
    """Every sample is complete, or raises one line that names file and line."""
    outcomes = {"good": 0, "refused": 0}
    for index in range(len(dataset)):
        sample, error = refusal(lambda index=index: dataset[index], "training.txt:")
        if error is not None:
            outcomes["refused"] += 1
            continue
        assert sample["inputs"].shape == (3, 32, 32)
        points = sample["data_samples"].gt["landmarks"]
        assert np.isfinite(np.asarray(points)).all()
        assert 0 <= int(sample["data_samples"].gt["pose"]) < 5
        outcomes["good"] += 1
    return outcomes


def fuzz(root, seed):
    rng = random.Random(seed)
    path = root / "training.txt"
    original = (root / "original.txt").read_bytes()
    path.write_bytes(mutated(original, rng))
    pipeline = steps(rng.choice(("jitter", "whole")))
    dataset, error = refusal(
        lambda: MTFL(str(root), pipeline=pipeline, input_size=32), "training.txt"
    )
    if error is not None:
        return {"file refused": 1}
    for record in (dataset.get_data_info(i) for i in range(len(dataset))):
        real = os.path.realpath(record["img_path"])
        assert real.startswith(str(root)), record["img_path"]
    return check_samples(dataset)


def run_fuzz(root, seeds):
    if not (root / "original.txt").exists():
        shutil.copy(root / "training.txt", root / "original.txt")
    total: dict = {}
    for seed in seeds:
        try:
            for kind, count in fuzz(root, seed).items():
                total[kind] = total.get(kind, 0) + count
        except BaseException:
            print(f"seed {seed}")  # to reproduce
            raise
    return total


@pytest.mark.parametrize("seeds", [range(100), LONG])
def test_annotation_files(faces, seeds):
    total = run_fuzz(faces, seeds)
    assert min(total["good"], total["refused"], total["file refused"]) > 0


TABLE = b"""image,ear_x,ear_y,x0,y0,x1,y1,coat,white,age,split
toy_train/00001.jpg,10,20.5,1,2,30,40,long,1,3.5,train
toy_train\\00002.jpg,11,22,,,,,short,,,val
"a ""b"".jpg",,,5,5,60,60,,0,-2,train
"""
COLUMNS = dict(
    ears=dict(kind="landmarks", points=["ear"], flip_pairs=[]),
    coat=dict(kind="class", classes=["short", "long"]),
    white=dict(kind="attributes"),
    age=dict(kind="values"),
)


def fuzz_table(folder, seed):
    """Whatever the file holds, records are complete, or one line names it."""
    rng = random.Random(seed)
    changed = mutated(TABLE.replace(b",", b" "), rng).replace(b" ", b",")
    (folder / "labels.csv").write_bytes(changed)
    options = dict(box=["x0", "y0", "x1", "y1"], split_column="split", split="train")
    options["serialize_data"] = False  # serialisation collects garbage, which is slow
    make = lambda: TabularMultiTask(str(folder), "labels.csv", COLUMNS, **options)  # noqa: E731
    dataset, error = refusal(make, "labels.csv")
    if error is not None:
        return 0
    for record in (dataset.get_data_info(i) for i in range(len(dataset))):
        path = os.path.relpath(record["img_path"], folder)
        assert not path.startswith("..")
        gt = record["gt"]
        for task in ("ears", "white", "age"):
            assert np.isfinite(gt.get(task, 0)).all()
        assert gt.get("coat", 0) in (0, 1)
        assert gt.get("white", 0) in (0, 1)
        x0, y0, x1, y1 = record["region"] or (0, 0, 1, 1)
        assert x0 < x1
        assert y0 < y1
    return len(dataset)


def test_tables(tmp_path):
    found = [fuzz_table(tmp_path, seed) for seed in range(300)]
    assert 20 < sum(count > 0 for count in found) < 280


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("away.jpg", r"training\.txt:1: .*away\.jpg is a symbolic link out of the data root"),
        ("outside/secret.jpg", r"training\.txt:1: .*is a symbolic link out of the data root"),
        ("../outside/secret.jpg", r"training\.txt:1: expected a path inside the data root"),
        ("loop.jpg", r"training\.txt:1: .*loop\.jpg: cannot read the picture"),
        ("pipe.jpg", r"training\.txt:1: .*pipe\.jpg: cannot read .* not a regular file"),
        ("toy_train", r"training\.txt:1: .*cannot read the picture: it is not a regular file"),
        ("absent.jpg", r"training\.txt:1: .*absent\.jpg: cannot read the picture: No such file"),
        ("inside.jpg", None),
    ],
)
def test_paths(faces, path, message):
    numbers = "20 40 30 22 38 20 20 30 40 40 1 1 1 3"
    (faces / "training.txt").write_text(f"{path} {numbers}\n")

    def first(**options):
        return MTFL(str(faces), pipeline=steps("jitter"), input_size=32, **options)[0]

    if message is None:
        assert first()["inputs"].shape == (3, 32, 32)
        return
    with pytest.raises(DataError, match=message):
        first()
    if "symbolic" in message:
        assert first(follow_links=True)["inputs"].shape == (3, 32, 32)


def test_a_root_that_is_a_link(faces, tmp_path):
    os.symlink(faces, tmp_path / "root")
    numbers = "20 40 30 22 38 20 20 30 40 40 1 1 1 3"
    (faces / "training.txt").write_text(f"toy_train\\00001.jpg {numbers}\n")
    assert len(MTFL(str(tmp_path / "root"), input_size=32)) == 1


CELEBA = {
    "attributes": (b"3\nA B C\n000001.jpg -1  1 -1\n000002.jpg  1 1 1\n000003.jpg -1 -1 -1\n"),
    "partition": b"000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n",
    "table": b"3\nx_1 y_1\n000001.jpg 4 5\n000002.jpg -1 7\n000003.jpg 100 9\n",
    "boxes": b"image,x0,y0,x1,y1\na.jpg,1,2,30,40\na.jpg,5,5,9,9\n",
}
READERS = {
    "attributes": read_attributes,
    "partition": read_partition,
    "table": lambda path: read_table(path, ("x_1", "y_1")),
    "boxes": read_boxes,
}


def fuzz_reader(folder, kind, seed):
    rng = random.Random(seed)
    path = folder / "labels.txt"
    path.write_bytes(mutated(CELEBA[kind], rng))
    (folder / "a.jpg").touch()
    return refusal(lambda: READERS[kind](str(path)), "labels.txt")[1] is None


@pytest.mark.parametrize("seeds", [range(80), LONG])
@pytest.mark.parametrize("kind", CELEBA)
def test_other_label_files(tmp_path, kind, seeds):
    good = sum(fuzz_reader(tmp_path, kind, seed) for seed in seeds)
    assert 0 < good < len(seeds)
