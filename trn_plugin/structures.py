"""What travels from the data set to the evaluators."""

from mmengine.structures import BaseDataElement

__all__ = ["MultiTaskDataSample"]


class MultiTaskDataSample(BaseDataElement):
    """Labels and predictions of one picture, by task name.

    Attributes:
        gt (dict[str, Tensor]): labels; a task that has none is absent. Landmarks: (P, 2) float,
            x and y as fractions of the crop's width and height. Classes: () int64. Binary
            attributes: (A,) float, 0 or 1.
        pred (dict[str, Tensor]): predictions in the same form as the head's ``predict`` gives
            them: (P, 2) fractions of the crop, (C,) class or (A,) attribute probabilities.
        hidden (dict[str, Tensor]): (d,) what enters each task's last layer.
        output (dict[str, Tensor]): (d,) each head's raw output.
        target (dict[str, Tensor]): (d,) each head's loss target; a task without label is absent.

    Metainfo: ``img_path``, ``ori_shape`` (height, width in pixels), ``box`` (x0, y0, x1, y1 of the
    crop in the picture's pixels), ``box_source`` (how the box was made).
    """
