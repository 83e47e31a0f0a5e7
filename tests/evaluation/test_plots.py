import numpy as np
import pytest

from trn_plugin.evaluation import case_sheets, plots
from trn_plugin.geometry import read_image
from trn_plugin.tasks import Line


@pytest.fixture
def curves(monkeypatch):
    """The axes of saved figures by file name; the files are written too."""
    drawn = {}
    save = plots.save_figure

    def keep(figure, path, **kwargs):
        drawn[path] = figure.axes[0]
        save(figure, path, **kwargs)

    monkeypatch.setattr(plots, "save_figure", keep)
    return drawn


def test_cumulative_error_passes_through_the_failure_rate(tmp_path, curves):
    path = str(tmp_path / "new folder" / "curve.png")
    errors = np.array([1.0, 2, 9, 10.5, 30, np.inf])
    plots.save_cumulative_error(path, {"model": errors}, threshold=10)
    x, y = curves[path].lines[0].get_data()
    assert y[x <= 10].max() == pytest.approx(50)
    assert (np.diff(y) >= 0).all()
    assert y[x <= 30].max() == pytest.approx(100 * 5 / 6)
    assert "50.0 % above 10 %" in curves[path].get_legend().get_texts()[0].get_text()
    assert read_image(path).shape[0] > 300


def test_confusion_shows_counts_and_shares_of_the_true_class(tmp_path, curves):
    path = str(tmp_path / "confusion.png")
    plots.save_confusion(path, np.array([[6, 2], [0, 0]]), ("no", "yes"))
    texts = [text.get_text() for text in curves[path].texts]
    assert texts == ["6\n75 %", "2\n25 %", "0", "0"]
    assert [label.get_text() for label in curves[path].get_yticklabels()] == ["no", "yes"]
    assert curves[path].get_ylabel() == "true"


def test_precision_recall_names_the_best_and_the_worst(tmp_path, curves):
    rng = np.random.default_rng(0)
    truth = (rng.random((4000, 12)) < 0.5).astype(float)
    signal = np.linspace(0.02, 0.4, 12)
    probabilities = signal * truth + (1 - signal) * rng.random(truth.shape)
    names = [f"a{i}" for i in range(12)]
    truth[:, 5] = 1
    path = str(tmp_path / "curves.png")
    plots.save_precision_recall(path, truth, probabilities, names, highlighted=2)
    legend = [text.get_text().split(":")[0] for text in curves[path].get_legend().get_texts()]
    assert legend.pop(0) == "the other 7"
    assert {*legend[:2]} <= {"a8", "a9", "a10", "a11"}
    assert {*legend[2:]} == {"a0", "a1"}
    assert len(curves[path].lines) == 11


def test_precision_recall_names_undefined_curves(tmp_path, curves):
    path = str(tmp_path / "curves.png")
    plots.save_precision_recall(path, np.ones((9, 1)), np.full((9, 1), 0.5), ["a"])
    assert [text.get_text() for text in curves[path].texts] == ["undefined: all labels equal"]


def test_case_text_fits_its_cell(tmp_path, monkeypatch):
    """No line of text reaches the next picture or leaves the sheet."""
    lines = [
        Line("a_rather_long_file_name_of_more_than_forty_letters.jpg"),
        *[Line("some attribute: yes (97 %), true: no", False)] * 20,
    ]
    case = case_sheets.Case(np.zeros((30, 60, 3), np.uint8), lines=lines)
    figures = []
    monkeypatch.setattr(case_sheets, "save_figure", lambda figure, path: figures.append(figure))
    case_sheets.save_cases(str(tmp_path / "sheet.png"), [case] * 5, "title", columns=2)
    (figure,) = figures
    figure.canvas.draw()
    pictures, texts = figure.axes[::2], figure.axes[1::2]
    assert len(pictures) == 5
    for index, axes in enumerate(texts):
        bottom = min(text.get_window_extent().y0 for text in axes.texts)
        assert bottom >= axes.get_window_extent().y0 - 2
        right = max(text.get_window_extent().x1 for text in axes.texts)
        alone_in_row = index % 2 or index + 1 == len(pictures)
        limit = figure.bbox.x1 if alone_in_row else pictures[index + 1].get_window_extent().x0
        assert right <= limit


def test_matplotlibs_state_is_not_modified(tmp_path):
    import matplotlib
    import matplotlib.pyplot as plt

    backend, figures = matplotlib.get_backend(), plt.get_fignums()
    plots.save_confusion(str(tmp_path / "c.png"), np.eye(2, dtype=int), ("a", "b"))
    assert matplotlib.get_backend() == backend
    assert plt.get_fignums() == figures
