"""Plots of a test set for each kind of task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trn_plugin.evaluation.figures import PLAIN, PREDICTION, new_figure, new_panels, save_figure

__all__ = ["save_confusion", "save_cumulative_error", "save_precision_recall", "save_values"]


def save_confusion(path: str, matrix: np.ndarray, classes: Sequence[str], title: str = "") -> None:
    """Save a confusion matrix: counts, shaded by their share of the true class (row)."""
    count = len(classes)
    side = max(3.6, 0.8 * count + 1.6)
    figure = new_figure(side + 1.2, side + 0.3)
    axes = figure.add_subplot()
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    shaded = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for (row, column), value in np.ndenumerate(matrix):
        axes.text(
            column,
            row,
            f"{value}\n{100 * shares[row, column]:.0f} %" if value else "0",
            ha="center",
            va="center",
            fontsize=9 if count <= 12 else 6,
            color="white" if shares[row, column] > 0.5 else PLAIN,
        )
    axes.set_xticks(range(count), classes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=11)
    figure.colorbar(shaded, ax=axes, label="share of the true class", fraction=0.046, pad=0.03)
    save_figure(figure, path, tight=True)


def save_cumulative_error(
    path: str,
    errors: Mapping[str, np.ndarray],
    threshold: float = 10.0,
    xlabel: str = "error (%)",
    title: str = "",
) -> None:
    """Save cumulative distributions of errors in percent, one curve for each name."""
    figure = new_figure(5.6, 4)
    axes = figure.add_subplot()
    finite = np.concatenate([values[np.isfinite(values)] for values in errors.values()])
    limit = max(2 * threshold, float(np.percentile(finite, 97))) if finite.size else 2 * threshold
    for index, (name, values) in enumerate(errors.items()):
        ordered = np.concatenate([[0], np.sort(values), [np.inf]])
        share = np.concatenate([[0], np.arange(1, values.size + 1), [values.size]])
        failures = 100 * np.mean(values > threshold)
        axes.step(
            np.minimum(ordered, 2 * limit),
            100 * share / max(values.size, 1),
            where="post",
            color=(PREDICTION, "#777777", "#1f77b4")[index % 3],
            linestyle="-" if index == 0 else "--",
            label=f"{name}: mean {values.mean():.2f} %, {failures:.1f} % above {threshold:g} %",
        )
    axes.axvline(threshold, color=PLAIN, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, limit), ylim=(0, 100), xlabel=xlabel, ylabel="pictures (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8, frameon=False)
    axes.set_title(title, fontsize=11)
    save_figure(figure, path, tight=True)


def save_precision_recall(
    path: str,
    truth: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    title: str = "",
    highlighted: int = 4,
) -> None:
    """Save precision-recall curves of attributes: (N, A) labels (NaN: unknown) and probabilities.

    Of more than twice ``highlighted`` attributes only the best and the worst are named; the others
    are grey. Attributes with only positive or only negative labels have no curve.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    curves = []
    for name, labels, scores in zip(names, truth.T, probabilities.T, strict=True):
        known = np.isfinite(labels) & np.isfinite(scores)
        positive = labels[known] > 0.5
        if positive.size and 0 < positive.sum() < positive.size:
            precision, recall, _ = precision_recall_curve(positive, scores[known])
            score = average_precision_score(positive, scores[known])
            curves.append((score, name, recall, precision, positive.mean()))
    curves.sort(key=lambda curve: -curve[0])
    few = len(curves) <= 2 * highlighted
    named = curves if few else curves[:highlighted] + curves[-highlighted:]
    figure = new_figure(6.8, 4)
    axes = figure.add_subplot()
    if not few:
        others = curves[highlighted:-highlighted]
        for index, (_, _, recall, precision, _) in enumerate(others):
            label = None if index else f"the other {len(others)}"
            axes.step(recall, precision, where="post", color="#cccccc", lw=0.8, label=label)
    for index, (score, name, recall, precision, prior) in enumerate(named):
        label = f"{name}: AP {100 * score:.1f} % (prior {100 * prior:.1f} %)"
        axes.step(recall, precision, where="post", color=f"C{index}", label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.grid(alpha=0.3)
    if named:
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "undefined: all labels equal", ha="center", color=PLAIN)
    axes.set_title(title, fontsize=11)
    save_figure(figure, path, tight=True)


def save_values(
    path: str,
    truth: np.ndarray,
    predicted: np.ndarray,
    names: Sequence[str],
    title: str = "",
) -> None:
    """Save scatter plots of predicted over true values (N, V), one panel for each name."""
    figure, panels = new_panels(len(names), 4, 3.9, 3.7, above=0.3)
    for axes, name, x, y in zip(panels, names, truth.T, predicted.T, strict=True):
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        axes.scatter(x, y, s=12, alpha=0.5, color="#1f77b4", linewidths=0)
        if x.size:
            ends = [min(x.min(), y.min()), max(x.max(), y.max())]
            axes.plot(ends, ends, color=PLAIN, linewidth=0.8, linestyle=":")
        error = f"{np.abs(x - y).mean():.3g}" if x.size else "undefined"
        axes.set(xlabel="true", ylabel="predicted")
        axes.set_title(f"{name}: mean absolute error {error}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    save_figure(figure, path)
