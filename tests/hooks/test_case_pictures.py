import os
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation import case_sheets, plots
from trn_plugin.geometry import image_to_box, read_image
from trn_plugin.hooks.case_pictures import CasePicturesHook
from trn_plugin.registry import HOOKS
from trn_plugin.structures import MultiTaskDataSample

TASKS = dict(
    landmarks=dict(kind="landmarks", names=tuple("abcde"), interocular=(0, 1)),
    pose=dict(kind="class", classes=("left", "frontal", "right")),
    smile=dict(kind="attributes", names=("smiling",)),
)
FACE = np.array([[60.0, 70], [100, 70], [80, 95], [65, 115], [95, 115]])
BOX = (40, 40, 120, 140)


def draw_face(path, points):
    image = np.full((160, 160, 3), 120, np.uint8)
    cv2.ellipse(image, (80, 95), (40, 55), 0, 0, 360, (160, 190, 230), -1)
    for x, y in points.round().astype(int).tolist():
        cv2.circle(image, (x, y), 4, (60, 40, 30), -1)
    cv2.imwrite(str(path), image)


def make_samples(folder, count=6, tasks=("landmarks", "pose", "smile")):
    """Picture i has an error of i pixels at every point, pose i % 3 and smile i % 2."""
    folder.mkdir(exist_ok=True)
    samples = []
    for i in range(count):
        path = folder / f"face {i}.png"
        draw_face(path, FACE)
        gt = dict(
            landmarks=torch.tensor(image_to_box(FACE, BOX), dtype=torch.float32),
            pose=torch.tensor(i % 3),
            smile=torch.tensor([float(i % 2)]),
        )
        pred = dict(
            landmarks=torch.tensor(image_to_box(np.add(FACE, [i, 0]), BOX), dtype=torch.float32),
            pose=torch.softmax(torch.tensor([0.0, 1.0, 0.5]), 0),
            smile=torch.tensor([0.28 + 0.1 * i]),
        )
        sample = MultiTaskDataSample(
            metainfo=dict(img_path=str(path), box=BOX, box_source="exact (test)")
        )
        sample.gt = {task: gt[task] for task in tasks}
        sample.pred = {task: pred[task] for task in tasks}
        samples.append(sample)
    return samples


@pytest.fixture
def sheets(monkeypatch):
    """Cases and title of each sheet by path; no sheet is drawn."""
    kept = {}

    def keep(path, cases, title=""):
        kept[path] = cases, title
        os.makedirs(os.path.dirname(path), exist_ok=True)
        cv2.imwrite(path, np.zeros((2, 2, 3), np.uint8))

    monkeypatch.setattr(case_sheets, "save_cases", keep)
    return kept


def said(lines):
    return [(line.text, line.right) for line in lines]


def runner_for(samples, tasks=TASKS):
    class Dataset(list):
        metainfo = dict(tasks=tasks)

    dataset = Dataset(samples)
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    return SimpleNamespace(test_loop=loop, visualizer=Recorder())


class Recorder:
    """A visualizer that stores the shapes of its pictures by name."""

    def __init__(self):
        self.images = {}

    def add_scalars(self, values):
        self.values = values

    def add_image(self, name, image, step=0):
        self.images[name] = image.shape


def run(hook, samples, tasks=TASKS, size=None):
    runner = runner_for(samples[:size], tasks)
    hook.before_test(runner)
    for index in range(0, len(samples), 4):
        hook.after_test_iter(runner, index // 4, None, samples[index : index + 4])
    hook.after_test(runner)
    return runner.visualizer.images


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*.png")}


def test_writes_every_picture(tmp_path):
    hook = HOOKS.build(
        dict(type=CasePicturesHook, out_dir=str(tmp_path / "out"), num_worst=2, num_sample=3)
    )
    shown = run(hook, make_samples(tmp_path / "in"))
    written = files(tmp_path / "out")
    assert {f"{name}.png" for name in shown} == {name for name in written if "/" not in name}
    assert written >= {
        "worst.png",
        "sample.png",
        "confusion_pose.png",
        "cumulative_error_landmarks.png",
        "precision_recall_smile.png",
        "worst/001_face_5.png",
        "worst/002_face_4.png",
    }
    assert sum(name.startswith("worst/") for name in written) == 2
    assert sum(name.startswith("sample/") for name in written) == 3
    for name in written:
        assert np.ptp(read_image(str(tmp_path / "out" / name))) > 100


def test_single_points_may_be_missing(tmp_path, sheets):
    samples = make_samples(tmp_path / "in")
    samples[5].gt["landmarks"][2:] = torch.nan
    samples[4].gt["landmarks"][0] = torch.nan
    run(CasePicturesHook(str(tmp_path / "out"), num_worst=1, num_sample=6), samples)
    (worst,), _ = sheets[str(tmp_path / "out" / "worst.png")]
    assert worst.truth.shape == (2, 2)
    assert worst.prediction.shape == (5, 2)
    assert ("landmarks: error 12.5 %, 3 of 5 points missing", None) in said(worst.lines)
    assert "cumulative_error_landmarks.png" in files(tmp_path / "out")


def test_truth_is_green_and_prediction_red(tmp_path):
    samples = make_samples(tmp_path / "in", count=6)

    def count(color, out):
        image = read_image(str(out / "worst" / "001_face_5.png")).astype(int)
        # only in the picture: the text beside it and the legend below use other colours
        image = image[: int(0.85 * image.shape[0]), : image.shape[1] // 2]
        return (np.abs(image - color).sum(-1) < 60).sum()

    green, red = (0, 200, 83), (255, 23, 68)
    run(CasePicturesHook(str(tmp_path / "both"), num_worst=1), samples)
    assert count(green, tmp_path / "both") > 20
    assert count(red, tmp_path / "both") > 20
    for sample in samples:
        del sample.gt["landmarks"]
    run(CasePicturesHook(str(tmp_path / "none"), num_worst=6), samples)
    (unlabelled,) = (tmp_path / "none" / "worst").glob("*face_5.png")
    unlabelled.rename(tmp_path / "none" / "worst" / "001_face_5.png")
    assert count(green, tmp_path / "none") == 0
    assert count(red, tmp_path / "none") > 20


def test_sampled_cases_depend_only_on_the_seed(tmp_path):
    samples = make_samples(tmp_path / "in", count=12)
    drawn = []
    for index, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(index)
        run(CasePicturesHook(str(out), num_worst=0, num_sample=4, seed=seed), samples)
        drawn.append({name for name in files(out) if name.startswith("sample/")})
    assert drawn[0] == drawn[1] != drawn[2]


def test_padded_cases_are_dropped(tmp_path):
    samples = make_samples(tmp_path / "in", count=3)
    hook = CasePicturesHook(str(tmp_path / "out"), num_worst=9, num_sample=9)
    run(hook, [*samples, samples[0]], size=3)
    assert len([name for name in files(tmp_path / "out") if name.startswith("worst/")]) == 3


def test_worst_without_landmarks_is_the_least_probable_truth(tmp_path):
    samples = make_samples(tmp_path / "in", tasks=("smile",))
    tasks = dict(smile=TASKS["smile"])
    run(CasePicturesHook(str(tmp_path / "out"), num_worst=1), samples, tasks)
    # picture 4: not smiling, predicted .68; picture 1: smiling, predicted .38
    written = files(tmp_path / "out")
    assert "worst/001_face_4.png" in written
    assert not any(name.startswith("cumulative") for name in written)


def test_text_marks_right_and_wrong_predictions(tmp_path, sheets):
    samples = make_samples(tmp_path / "in", count=3)
    del samples[1].gt["smile"]
    hook = CasePicturesHook(str(tmp_path / "out"), num_worst=0, num_sample=3)
    run(hook, samples)
    cases, title = sheets[str(tmp_path / "out" / "sample.png")]
    assert title == "sample: 3 of 3 cases (box: exact (test))"
    assert said(cases[2].lines) == [
        ("face 2.png", None),
        ("landmarks: error 5.0 %", None),
        ("pose: frontal (51 %), true: right", False),
        ("smiling: no (52 %)", True),
    ]
    assert said(cases[1].lines[2:]) == [
        ("pose: frontal (51 %)", True),
        ("smiling: no (62 %), no label", None),
    ]
    margin = 10
    assert cases[0].image.shape == (100 + 2 * margin, 80 + 2 * margin, 3)
    assert cases[0].truth == pytest.approx(FACE - BOX[:2] + margin, abs=1e-4)
    assert (cases[2].prediction - cases[2].truth) == pytest.approx(
        np.tile([2.0, 0], (5, 1)), abs=1e-4
    )


def test_many_attributes_list_the_wrong_ones(tmp_path, sheets):
    names = tuple(f"attribute {i}" for i in range(10))
    tasks = dict(attributes=dict(kind="attributes", names=names))
    (sample,) = make_samples(tmp_path / "in", count=1, tasks=())
    sample.gt = dict(attributes=torch.tensor([1.0] * 5 + [0.0] * 5))
    sample.pred = dict(attributes=torch.tensor([0.9] * 4 + [0.2] * 6))
    run(CasePicturesHook(str(tmp_path / "out"), num_worst=1), [sample], tasks)
    assert said(sheets[str(tmp_path / "out" / "worst.png")][0][0].lines[1:]) == [
        ("attributes: 9 of 10 right", None),
        ("attribute 4: no (80 %), true: yes", False),
    ]
    sample.gt = {}
    run(CasePicturesHook(str(tmp_path / "out"), num_sample=1), [sample], tasks)
    assert said(sheets[str(tmp_path / "out" / "sample.png")][0][0].lines[1:]) == [
        ("attributes: no label", None)
    ]


def test_values_are_plotted_and_written_beside_the_picture(tmp_path, sheets):
    tasks = dict(size=dict(kind="values", names=("weight", "length")))
    samples = make_samples(tmp_path / "in", count=6, tasks=())
    for i, sample in enumerate(samples):
        sample.pred = dict(size=torch.tensor([40.0 + i, 1.5]))
        sample.gt = dict(size=torch.tensor([40.0, 1.5 + 0.01 * i]))
    samples[3].gt = {}
    out = tmp_path / "out"
    shown = run(CasePicturesHook(str(out), num_worst=1, num_sample=0), samples, tasks)
    assert "values_size" in shown
    assert np.ptp(read_image(str(out / "values_size.png"))) > 100
    # both errors are the largest in the last one
    assert said(sheets[str(tmp_path / "out" / "worst.png")][0][0].lines[1:]) == [
        ("weight: 45, true: 40", None),
        ("length: 1.5, true: 1.55", None),
    ]


def test_metrics_that_are_defined_go_to_the_visualizer(tmp_path):
    runner = runner_for([])
    hook = CasePicturesHook(str(tmp_path))
    hook.after_test_epoch(runner, {"pose/accuracy": 90.0, "relation/tau_hidden/a-b": float("nan")})
    assert runner.visualizer.values == {"test/pose/accuracy": 90.0}


def test_points_without_eyes_are_measured_by_the_crop(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        plots, "save_cumulative_error", lambda path, errors, **text: drawn.update(errors, **text)
    )
    monkeypatch.setattr(case_sheets, "save_cases", lambda *args: None)
    monkeypatch.setattr("trn_plugin.hooks.case_pictures.read_image", lambda p: np.zeros((9, 9, 3)))
    tasks = dict(landmarks=dict(kind="landmarks", names=tuple("abcde")))
    samples = make_samples(tmp_path / "in", count=2, tasks=("landmarks",))
    hook = CasePicturesHook(str(tmp_path), num_worst=0, num_sample=0)
    run(hook, samples, tasks)
    assert drawn["model"] == pytest.approx([0, 100 / np.sqrt(80 * 100)], abs=1e-4)
    assert "side of the crop" in drawn["xlabel"]


def test_unusable_settings_are_reported_before_the_test(tmp_path):
    samples = make_samples(tmp_path / "in", count=1)
    with pytest.raises(ConfigError, match="expected 'tasks' in the test set's metainfo"):
        CasePicturesHook(str(tmp_path)).before_test(runner_for(samples, {}))
