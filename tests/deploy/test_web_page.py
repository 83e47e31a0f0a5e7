"""The web page in a real browser: its numbers are those of TaskPredictor."""

import argparse
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium import Chromium
from exported_faces import DATASET_TASKS, SIZE, build, picture

import trn_plugin
from trn_plugin.cli import export
from trn_plugin.deploy import TaskPredictor, export_onnx
from trn_plugin.deploy.crops import describe_crop
from trn_plugin.deploy.describe import describe_model
from trn_plugin.deploy.export import update_metadata
from trn_plugin.deploy.web_page import write_page
from trn_plugin.errors import ConfigError, DataError, TrnPluginError

WEB = Path(trn_plugin.__file__).parent / "deploy/web"
DOCS = Path(__file__).parents[2] / "docs/guides/browser.md"
NODE_MODULES = Path(os.environ.get("TRN_PLUGIN_NODE_MODULES") or WEB / "node_modules").resolve()
RUNTIME = "onnxruntime-web/dist/ort.wasm.min.mjs"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
READY = 'document.body?.dataset.ready === "yes"'
DROP = """(async () => {
  const blob = await (await fetch("a picture.png")).blob();
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([blob], "photo.png", { type: "image/png" }));
  document.getElementById("stage").dispatchEvent(new DragEvent("drop", { dataTransfer }));
})()"""
CHOOSE = """(async () => {
  const files = new DataTransfer(), input = document.getElementById("model-file");
  files.items.add(new File([await (await fetch("FILE")).blob()], "FILE"));
  input.files = files.files;
  input.dispatchEvent(new Event("change"));
})()"""
BOXES = [(10, 20, 150, 180), (230, -15, 410, 260)]
SIZE_HEAD = dict(type="RegressionHead", num_values=2, mean=[4e5, 0.01], std=[1e5, 0.001])
NAMES = {**DATASET_TASKS, "size": dict(kind="values", names=("gram", "metre"))}
KINDS = {
    "faces": {},
    "faces, no resize": dict(resize="none"),
    "faces, exact resize": dict(resize="exact"),
    "faces, float32": dict(float_input=True),
    "no faces": dict(tasks=["size", "smile"]),
    "a kind unknown to the page": dict(tasks=["size", "pose"]),
}

in_browser = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed"),
    pytest.mark.skipif(
        not (NODE_MODULES / RUNTIME).is_file(),
        reason=f"no onnxruntime-web in {NODE_MODULES.name}: run `npm ci` in a copy of "
        "trn_plugin/deploy/web and set TRN_PLUGIN_NODE_MODULES to its node_modules",
    ),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with the page and a model for each kind of export, and its address."""
    root = tmp_path_factory.mktemp("pages")
    model = build(heads=dict(size=SIZE_HEAD))
    for number, (kind, options) in enumerate(KINDS.items()):
        path = write_page(root / str(number))
        export_onnx(model, path, SIZE, describe_model(model, SIZE, NAMES), **options)
        if "unknown" in kind:
            tasks = TaskPredictor(path).metadata["tasks"]
            update_metadata(path, tasks={**tasks, "size": {**tasks["size"], "kind": "flock"}})
        (path.parent / "node_modules").symlink_to(NODE_MODULES)
        cv2.imwrite(str(path.parent / "a picture.png"), picture(300, 400)[..., ::-1])
    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Chromium(CHROMIUM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def numbers(prediction):
    """The numbers of a prediction of the page or of TaskPredictor, in order."""
    if isinstance(prediction, dict):
        if "probabilities" in prediction:
            return numbers(prediction["probabilities"])
        prediction = list(prediction.values())
    return np.array(prediction, dtype=float)


def shown(browser, part):
    """The text of an element of the page."""
    return browser.evaluate(f"document.getElementById('{part}').textContent")


def link(kind, boxes=BOXES):
    text = ";".join(",".join(map(str, box)) for box in boxes)
    return f"/{list(KINDS).index(kind)}/index.html?picture=a%20picture.png&boxes={text}"


class TestInBrowser:
    pytestmark = in_browser

    @pytest.mark.parametrize("kind", KINDS)
    def test_numbers_are_those_of_python(self, pages, browser, kind):
        folder, address = pages
        browser.open(address + link(kind), READY)
        found = json.loads(browser.evaluate("JSON.stringify(trn.found)"))
        predictor = TaskPredictor(folder / str(list(KINDS).index(kind)) / "model.onnx")
        image = picture(300, 400)
        expected = predictor.predict([image] * len(BOXES), BOXES)
        assert len(found) == len(expected) == 2
        limits = dict(landmarks=1e-2, size=np.array([10, 1e-7]))
        for page, python in zip(found, expected, strict=True):
            assert list(page) == list(python)
            for task in python:
                difference = np.abs(numbers(page[task]) - numbers(python[task]))
                assert (difference < limits.get(task, 1e-4)).all(), (task, difference.max())
            if "pose" in python:
                assert page["pose"]["label"] == python["pose"]["label"]

    def test_every_task_and_name_is_listed(self, pages, browser):
        folder, address = pages
        for kind in ("faces", "a kind unknown to the page"):
            browser.open(address + link(kind), READY)
            shown = browser.evaluate("document.getElementById('results').innerText")
            predictor = TaskPredictor(folder / str(list(KINDS).index(kind)) / "model.onnx")
            assert shown.count("object ") == 2
            for name, task in predictor.tasks.items():
                assert name in shown
                assert all(shown.count(part) >= 2 for part in task.names), shown

    def test_a_box_drawn_with_the_mouse_is_predicted(self, pages, browser):
        folder, address = pages
        browser.open(address + link("faces", []), READY)
        assert browser.evaluate("trn.found.length") == 1  # the whole picture
        area = browser.evaluate(
            "document.getElementById('picture').getBoundingClientRect().toJSON()"
        )
        scale = area["width"] / 400
        corners = [
            (area["x"] + x * scale, area["y"] + y * scale) for x, y in [(40, 30), (160, 170)]
        ]
        browser.drag(*corners)
        browser.evaluate("trn.idle")
        (box,) = browser.evaluate("trn.boxes")
        assert np.abs(np.array(box) - (40, 30, 160, 170)).max() <= 1
        found = browser.evaluate("trn.found[0].landmarks.nose")
        (expected,) = TaskPredictor(folder / "0/model.onnx").predict(picture(300, 400), [box])
        np.testing.assert_allclose(found, expected["landmarks"][2], atol=1e-2)

    def test_a_dropped_photograph_and_the_camera_are_predicted(self, pages, browser):
        folder, address = pages
        browser.open(address + link("faces"), READY)
        browser.evaluate(DROP)
        browser.wait("trn.boxes.length === 0 && trn.found.length === 1")
        nose = browser.evaluate("trn.idle.then(() => trn.found[0].landmarks.nose)")
        (expected,) = TaskPredictor(folder / "0/model.onnx").predict(picture(300, 400))
        np.testing.assert_allclose(nose, expected["landmarks"][2], atol=1e-2)
        browser.evaluate("trn.found = []; document.getElementById('start-camera').click()")
        browser.wait("document.getElementById('camera').videoWidth === trn.image.width")
        browser.wait("trn.found.length === 1")
        browser.evaluate("document.getElementById('start-camera').click()")
        assert browser.evaluate("trn.camera") is None

    def test_the_documented_lines_run(self, pages, browser):
        folder, address = pages
        (text,) = re.findall(r"```javascript\n(.*?)```", DOCS.read_text(), re.DOTALL)
        kept = "window.found = [...outputs.landmarks.data]; document.body.dataset.ready = 'yes';"
        page = f'<!doctype html><body><script type="module">{text}{kept}</script>'
        (folder / "0/lines.html").write_text(page)
        shutil.copy(folder / "0/a picture.png", folder / "0/photo.png")
        browser.open(f"{address}/0/lines.html", READY)
        (expected,) = TaskPredictor(folder / "0/model.onnx").predict([picture(300, 400)])
        found = np.reshape(browser.evaluate("window.found"), (-1, 2))
        np.testing.assert_allclose(found, expected["landmarks"], atol=1e-2)

    def test_missing_files_are_reported(self, pages, browser):
        folder, address = pages
        browser.open(f"{address}/0/index.html?picture=none.png", READY)
        name, error = shown(browser, "model"), shown(browser, "error")
        assert "none.png: 404" in error
        browser.evaluate(DROP)
        browser.wait("trn.found.length === 1")
        assert (shown(browser, "model"), shown(browser, "error")) == (name, "")
        assert "landmarks" in name
        browser.open(address + link("faces", [(15, 8, 81)]), READY)
        assert "boxes=15,8,81: expected x0,y0,x1,y1" in shown(browser, "error")
        for box in [(900, 0, 930, 9), (81, 74, 15, 8)]:
            with pytest.raises(DataError) as error:
                TaskPredictor(folder / "0/model.onnx").predict([picture(300, 400)], [box])
            browser.open(address + link("faces", [box]), READY)
            assert shown(browser, "time") == str(error.value).replace("picture 0:", "error:")

    def test_another_model_changes_the_hint_and_a_newer_format_is_refused(self, pages, browser):
        folder, address = pages
        newer = shutil.copy(folder / "0/model.onnx", folder / "0/newer.onnx")
        update_metadata(newer, format_version=2)
        crops = shutil.copy(folder / "0/model.onnx", folder / "0/crops.onnx")
        update_metadata(crops, crop=describe_crop("given"))
        browser.open(address + link("faces"), READY)
        name, hint = shown(browser, "model"), shown(browser, "hint")
        for file, text in (("crops", "was trained on the box"), ("model", hint)):
            browser.evaluate(CHOOSE.replace("FILE", f"{file}.onnx"))
            browser.wait(f"document.getElementById('hint').textContent.includes({text!r})")
        browser.evaluate(CHOOSE.replace("FILE", "newer.onnx"))
        browser.wait("document.getElementById('error').textContent")
        assert "newer.onnx: has export format 2" in shown(browser, "error")
        assert shown(browser, "model") == name


def test_other_files_are_not_overwritten(tmp_path):
    write_page(tmp_path / "page")
    (tmp_path / "page/style.css").write_text("/* trn-plugin-page, of an earlier version */")
    write_page(tmp_path / "page")
    assert (tmp_path / "page/style.css").read_bytes() == (WEB / "style.css").read_bytes()
    for name in ("package.json", "index.html"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ConfigError, match=rf"{name}: exists and is not a file of this page"):
            write_page(tmp_path)
        (tmp_path / name).rename(tmp_path / f"kept {name}")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "kept index.html",
        "kept package.json",
    ]


def test_a_failed_export_leaves_no_page(tmp_path):
    for arguments, message in (
        (["config.py", "gone.pth", "--web", str(tmp_path / "page")], "config.py"),
        (["config.py", "gone.pth"], "OUT.onnx: expected the file to write, or --web DIR"),
    ):
        parser = argparse.ArgumentParser()
        export.add_arguments(parser)
        with pytest.raises(TrnPluginError, match=message):
            export.main(parser.parse_args(arguments))
    assert not list(tmp_path.iterdir())


def test_the_page_requests_nothing_from_other_hosts():
    for file in ("index.html", "page.js", "model.js", "style.css"):
        assert "://" not in (WEB / file).read_text()


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_scripts_parse():
    for file in ("page.js", "model.js"):
        text = (WEB / file).read_text()
        done = subprocess.run(
            ["node", "--input-type=module", "--check"], input=text, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
