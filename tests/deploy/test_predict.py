import csv
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from predict_tool import TRAINING_ONLY, read_lines, run, write_picture

from trn_plugin.deploy.records import Results


def test_importing_deploy_needs_neither_torch_nor_mmengine():
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({(*TRAINING_ONLY, 'cv2', 'numpy')}))\n"
        "import trn_plugin.deploy\n"
        "assert 'TaskPredictor' in dir(trn_plugin.deploy)\n"
        "assert 'onnxruntime' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({TRAINING_ONLY}))\n"
        "from trn_plugin.cli import main; main(['train', 'config.py'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch("error: trn-plugin train needs mmengine.*, which is not .*\n", done.stderr)


def test_one_picture_gives_a_line_a_record_and_a_drawing(tmp_path, mean_colour_model):
    picture = write_picture(tmp_path / "face.png")
    before = picture.read_bytes()
    done = run(mean_colour_model, "face.png", "--box", 10, 0, 50, 20.4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("face.png: pose: bright 0.80; smiling 0.40; laughing 0.20; landmarks (")
    (record,) = read_lines(tmp_path / "predictions/predictions.jsonl")
    assert record["image"] == "face.png"
    assert record["box"] == [10, 0, 50, 20]
    assert record["tasks"]["landmarks"]["left"] == pytest.approx([42, 8])
    assert record["tasks"]["landmarks"]["right"] == pytest.approx([26, 4])
    assert record["tasks"]["pose"]["label"] == "bright"
    assert record["tasks"]["pose"]["probabilities"] == pytest.approx({"dark": 0.2, "bright": 0.8})
    assert record["tasks"]["smile"] == pytest.approx({"smiling": 0.4, "laughing": 0.2})
    drawn = cv2.imread(str(tmp_path / record["drawn"]))
    assert min(drawn.shape[:2]) >= 320
    assert picture.read_bytes() == before


def test_folders_with_equal_names_keep_their_own_drawings(tmp_path, mean_colour_model):
    for folder, blue in (("a", 0), ("b", 255)):
        write_picture(tmp_path / folder / "face.png", (blue, 0, 0))
    write_picture(tmp_path / "a" / "grey.png", 51, (9, 30))
    done = run(
        mean_colour_model, "a", "b", "--out-dir", "out", "--jsonl", "found.jsonl", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "3/3 pictures" in done.stderr
    assert len(done.stdout.splitlines()) == 3
    records = read_lines(tmp_path / "found.jsonl")
    assert [record["image"] for record in records] == ["a/face.png", "a/grey.png", "b/face.png"]
    assert [record["tasks"]["smile"]["laughing"] for record in records] == pytest.approx(
        [0, 0.2, 1]
    )
    assert len({record["drawn"] for record in records}) == 3
    assert all((tmp_path / record["drawn"]).is_file() for record in records)


def test_a_file_of_boxes_gives_several_faces_per_picture(tmp_path, mean_colour_model):
    write_picture(tmp_path / "group.png")
    write_picture(tmp_path / "alone.png")
    (tmp_path / "boxes.csv").write_text(
        "image,x0,y0,x1,y1\ngroup.png,0,0,10,10\nalone.png,0,0,20,20\ngroup.png,10,10,30,40\n"
    )
    done = run(mean_colour_model, "--boxes", "boxes.csv", "--batch-size", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = read_lines(tmp_path / "predictions/predictions.jsonl")
    assert [record["box"] for record in records] == [
        [0, 0, 10, 10],
        [0, 0, 20, 20],
        [10, 10, 30, 40],
    ]
    assert len({record["drawn"] for record in records}) == 2
    assert records[2]["tasks"]["landmarks"]["left"] == pytest.approx([26, 22])

    done = run(mean_colour_model, "group.png", "--boxes", "boxes.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = read_lines(tmp_path / "predictions/predictions.jsonl")
    assert [record["box"] for record in records] == [[0, 0, 10, 10], [10, 10, 30, 40]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("gone.onnx face.png", "gone.onnx: no such file"),
        ("boxes.csv face.png", "boxes.csv: not an ONNX file"),
        ("epoch_1.pth face.png", "; expected a file written by trn-plugin export"),
        ("M --boxes gone_picture.csv", "gone_picture.csv:3: no such picture: gone.png"),
        ("M", "expected a picture"),
        ("M gone.png", "gone.png: no such picture"),
        ("M boxes.csv", "boxes.csv: not a readable picture"),
        ("M empty", "empty: a folder without pictures"),
        (
            "M face.png --box 100 100 120 120",
            "error: face.png: box (100, 100, 120, 120) lies outside",
        ),
        ("M face.png --box 9 9 3 12", "--box: box (9, 9, 3, 12) is empty"),
        ("M face.png --box 1 2 3 left", "--box: expected four numbers"),
        ("M face.png other.png --box 1 2 3 4", "--box: expected one picture, found 2"),
        ("M face.png --boxes boxes.csv", "boxes.csv: has no row for face.png"),
        ("M face.png --boxes gone.csv", "gone.csv: cannot read the boxes"),
        ("M clip.mp4", "clip.mp4: no such picture, video or folder"),
        ("M broken.avi", "broken.avi: not a readable video"),
        ("M broken.avi --boxes boxes.csv", "--boxes: is for pictures; for broken.avi give --box"),
        ("M face.png broken.avi --box 1 2 3 4", "found 1 pictures and 1 videos"),
        ("M face.png --provider cuda", "no provider 'CUDAExecutionProvider'"),
        ("M face.png --csv face.png", "would be overwritten"),
        ("M face.png --csv a.txt --jsonl a.txt", "would be overwritten"),
        ("M face.png --batch-size 0", "--batch-size: expected at least 1"),
        ("M face.png --jsonl face.png", "would be overwritten"),
        ("M face.png --out-dir face.png", "--out-dir face.png: cannot be written: File exists"),
        ("M face.png --jsonl empty", "--jsonl empty: cannot be written: Is a directory"),
        ("M face.png --csv empty", "--csv empty: cannot be written: Is a directory"),
        ("M face.png --csv other.png/x/y.csv", "--csv other.png/x/y.csv: cannot be written"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(tmp_path, mean_colour_model, arguments, message):
    before = write_picture(tmp_path / "face.png").read_bytes()
    write_picture(tmp_path / "other.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.avi").write_bytes(b"no video")
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1\nother.png,0,0,9,9\n")
    (tmp_path / "gone_picture.csv").write_text(
        "image,x0,y0,x1,y1\nother.png,0,0,9,9\ngone.png,0,0,9,9\n"
    )
    with zipfile.ZipFile(tmp_path / "epoch_1.pth", "w") as checkpoint:  # as torch.save writes
        checkpoint.writestr("epoch_1/data.pkl", b"\x80\x02}q\x00.")
    model = mean_colour_model.name
    done = run(*(model if word == "M" else word for word in arguments.split()), cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert (tmp_path / "face.png").read_bytes() == before


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_bad_picture_or_box_does_not_stop_the_others(tmp_path, mean_colour_model, batch_size):
    for name in ("a", "c", "e"):
        write_picture(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    rows = ["a.png,0,0,9,9", "b.png,0,0,9,9", "b.png,1,1,5,5", "c.png,90,90,99,99"]
    rows += ["c.png,0,0,9,9", "e.png,1,1,5,5", "c.png,0,9,50,59", "e.png,-70,0,-3,9"]
    (tmp_path / "boxes.csv").write_text("\n".join(["image,x0,y0,x1,y1", *rows]))
    arguments = ("--boxes", "boxes.csv", "--batch-size", batch_size)
    done = run(mean_colour_model, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert errors[0].startswith("error: boxes.csv:3: b.png: not a readable picture")
    assert errors[1].startswith("error: boxes.csv:5: c.png: box (90, 90, 99, 99) lies outside")
    assert errors[2].startswith("error: boxes.csv:9: e.png: box (-70, 0, -3, 9) lies outside")
    assert done.stderr.splitlines()[-1] == "4 of 8 objects could not be used"
    records = read_lines(tmp_path / "predictions/predictions.jsonl")
    assert [(record["image"], record["box"]) for record in records] == [
        ("a.png", [0, 0, 9, 9]),
        ("c.png", [0, 0, 9, 9]),
        ("e.png", [1, 1, 5, 5]),
        ("c.png", [0, 9, 50, 59]),
    ]


def test_a_run_without_results_keeps_earlier_ones(tmp_path, mean_colour_model):
    write_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert run(mean_colour_model, "a.png", "--csv", "a.csv", cwd=tmp_path).returncode == 0
    kept = [tmp_path / "predictions/predictions.jsonl", tmp_path / "a.csv"]
    before = [path.read_text() for path in kept]
    for wrong in (("b.png", "--csv", "a.csv"), ("a.png", "--csv", ".")):
        assert run(mean_colour_model, *wrong, cwd=tmp_path).returncode == 2
        assert [path.read_text() for path in kept] == before
    assert not list(tmp_path.rglob("*.part"))


def test_an_interrupted_run_keeps_its_results_in_part_files(tmp_path):
    found = dict(box=None, tasks={})
    for images, whole in (("ab", True), ("c", False)):
        results = Results({}, tmp_path / "found.jsonl", tmp_path / "found.csv")
        for image in images:
            results.write(dict(found, image=image))
        left = results.close(whole)
        assert left == (
            [] if whole else [tmp_path / f"found.{end}.part" for end in ("jsonl", "csv")]
        )
    assert [line["image"] for line in read_lines(tmp_path / "found.jsonl")] == ["a", "b"]
    assert [line["image"] for line in read_lines(tmp_path / "found.jsonl.part")] == ["c"]


def test_the_table_and_the_json_lines_agree(tmp_path, mean_colour_model):
    write_picture(tmp_path / "a.png")
    arguments = ("a.png", "--box", 10, 0, 50, 20, "--csv", "out/table.csv")
    done = run(mean_colour_model, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = read_lines(tmp_path / "predictions/predictions.jsonl")
    with (tmp_path / "out/table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [row[name] for name in ("image", "frame", "seconds")] == ["a.png", "", ""]
    assert [int(row[name]) for name in ("x0", "y0", "x1", "y1")] == [10, 0, 50, 20]
    tasks = record["tasks"]
    assert float(row["landmarks.right.y"]) == tasks["landmarks"]["right"][1]
    assert row["pose"] == tasks["pose"]["label"]
    assert float(row["pose.dark"]) == tasks["pose"]["probabilities"]["dark"]
    assert float(row["smile.laughing"]) == tasks["smile"]["laughing"]
    assert len(row) == 7 + 4 + 3 + 2


def test_files_that_are_left_out_are_named_and_unusual_pictures_are_read(
    tmp_path, mean_colour_model
):
    write_picture(tmp_path / "photos/a.png")
    write_picture(tmp_path / "photos/b.gif")
    (tmp_path / "photos/notes.txt").write_text("not a picture")
    done = run(mean_colour_model, "photos", cwd=tmp_path)
    assert done.returncode == 0
    records = read_lines(tmp_path / "predictions/predictions.jsonl")
    assert [record["image"] for record in records] == ["photos/a.png", "photos/b.gif"]
    (line,) = (line for line in done.stderr.splitlines() if "left out" in line)
    assert "photos/notes.txt" in line


def test_show_selects_the_tasks_to_print_and_draw(tmp_path, mean_colour_model):
    write_picture(tmp_path / "face.png")
    done = run(mean_colour_model, "face.png", "--show", "pose", cwd=tmp_path)
    assert done.stdout.startswith("face.png: pose: bright 0.80 -> ")
    (record,) = read_lines(tmp_path / "predictions/predictions.jsonl")
    assert set(record["tasks"]) == {"landmarks", "pose", "smile"}
    pose_alone = cv2.imread(str(tmp_path / record["drawn"]))
    run(mean_colour_model, "face.png", cwd=tmp_path)
    assert not np.array_equal(pose_alone, cv2.imread(str(tmp_path / record["drawn"])))
    done = run(mean_colour_model, "face.png", "--show", "age", cwd=tmp_path)
    assert done.returncode == 2
    assert "--show: expected landmarks, pose, smile, found 'age'" in done.stderr


def test_drawing_can_be_left_out(tmp_path, mean_colour_model):
    for index in range(40):
        write_picture(tmp_path / f"photos/{index:02}.png", (index, 102, 204))
    found = []
    for option in ("--batch-size=16", "--no-draw"):
        done = run(mean_colour_model, "photos", option, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found.append(read_lines(tmp_path / "predictions/predictions.jsonl"))
        assert len(done.stdout.splitlines()) == 40
    assert {record.pop("drawn") for record in found[1]} == {None}
    assert len({record.pop("drawn") for record in found[0]}) == 40
    assert found[0] == found[1]
    assert [record["image"] for record in found[0]] == [f"photos/{i:02}.png" for i in range(40)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("option", ["--jsonl", "--csv"])
def test_a_full_disk_names_the_file(tmp_path, mean_colour_model, option):
    write_picture(tmp_path / "face.png")
    done = run(mean_colour_model, "face.png", option, "/dev/full", cwd=tmp_path)
    assert done.returncode == 2
    assert "/dev/full: cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
