from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.logging import HistoryBuffer

from trn_plugin.evaluation import similarity_plots as plots
from trn_plugin.geometry import read_image
from trn_plugin.hooks import SimilarityPlotHook
from trn_plugin.models import TaskRelationNeck
from trn_plugin.relation import chance_similarity

STEPS = 40


@pytest.fixture
def runner(tmp_path):
    rising = np.linspace(0.1, 0.9, STEPS)
    values = {
        "loss": rising,
        "relation/hidden/a-b": rising,
        "relation/output/a-b": rising / 2,
        "relation/label/a-b": np.full(STEPS, 0.8),
        "relation/weight_output": rising,
        "relation/exact_rate": rising,
    }
    scalars = {f"train/{key}": HistoryBuffer(v, np.ones(STEPS)) for key, v in values.items()}
    images = {}
    return SimpleNamespace(
        message_hub=SimpleNamespace(log_scalars=scalars),
        work_dir=str(tmp_path),
        iter=100,  # the log of the first 60 is lost
        model=None,
        hooks=[],
        images=images,
        visualizer=SimpleNamespace(add_image=lambda name, image, step: images.update({name: step})),
    )


def test_curves_of_every_level_over_the_iterations(runner, tmp_path, monkeypatch):
    figures = []
    save = plots.save_figure

    def keep(figure, path):
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save_figure", keep)
    SimilarityPlotHook().after_train(runner)
    (axes,) = figures[0].axes
    assert axes.get_title() == "a-b"
    found = {line.get_label(): line for line in axes.lines}
    assert set(found) == {"label", "hidden", "output"}
    x, y = found["hidden"].get_data()
    assert sorted(x) == list(range(61, 101))
    assert y[np.argmax(x)] == pytest.approx(0.9)
    assert found["label"].get_linestyle() == "--"
    assert np.ptp(read_image(str(tmp_path / "similarity.png"))) > 100
    assert runner.images == {"similarity": 100}
    assert [path.name for path in tmp_path.iterdir()] == ["similarity.png"]


def test_drawn_during_training_but_visualized_once(runner, tmp_path):
    SimilarityPlotHook().after_val_epoch(runner, {})
    assert (tmp_path / "similarity.png").exists()
    assert runner.images == {}


def test_nothing_to_draw(runner, tmp_path):
    del runner.message_hub.log_scalars["train/relation/label/a-b"]
    SimilarityPlotHook().after_train(runner)
    assert not list(tmp_path.iterdir())
    assert runner.images == {}


def test_curves_are_faint_before_arrival_and_chance_is_dotted(runner, tmp_path, monkeypatch):
    figures = []
    save = plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda *args: (figures.append(args[0]), save(*args)))
    samples = np.linspace(10, 800, STEPS)
    runner.message_hub.log_scalars["train/relation/samples/a-b"] = HistoryBuffer(
        samples, np.ones(STEPS)
    )
    neck = TaskRelationNeck([("a", "b")], levels=["hidden"])
    neck.connect({level: dict(a=10, b=5) for level in ("hidden", "label")})
    runner.model = SimpleNamespace(neck=neck)
    SimilarityPlotHook().after_val_epoch(runner, {})
    (axes,) = figures[0].axes
    hidden = next(line for line in axes.lines if line.get_label() == "hidden")
    x, y = hidden.get_data()
    assert np.array_equal(np.isnan(y[np.argsort(x)]), samples < 75)
    assert {"too few samples", "chance"} <= {line.get_label() for line in axes.lines}
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert len(dotted) == 2
    x, y = dotted[0].get_data()
    assert y[np.argmin(x)] == 1
    assert y[np.argmax(x)] == pytest.approx(chance_similarity(800, 10, 5), abs=0.01)
