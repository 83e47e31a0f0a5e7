"""Options of TabularMultiTask: unusable ones name their key."""

import re

import numpy as np
import pytest
from label_tables import BOX, GIVEN, HEADER, LABELS, ROW, make, write

from trn_plugin.errors import ConfigError
from trn_plugin.registry import DATASETS


def test_an_mmengine_config_builds_it(tmp_path):
    from mmengine.config import Config

    (tmp_path / "config.py").write_text(f"data = dict(type='TabularMultiTask', labels={LABELS!r})")
    config = Config.fromfile(tmp_path / "config.py")
    root = write(tmp_path / "data", ROW)
    dataset = DATASETS.build(dict(config.data, data_root=root, ann_file="labels.csv"))
    assert dataset.get_data_info(0)["gt"]["coat"] == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, r"^labels: expected for each task"),
        (dict(a=dict(columns=["b"])), r"^labels\.a\.kind: expected one of .*landmarks.*found None"),
        (dict(a=dict(kind="class")), r"^labels\.a\.classes: expected the values of column 'a'"),
        (dict(a=dict(kind="class", classes=["b", "b"])), r"^labels\.a\.classes: .*each once"),
        (dict(a=dict(kind="values", column="b")), r"^labels\.a: .*takes columns; found 'column'"),
        (dict(a=dict(kind="landmarks")), r"^labels\.a\.points: expected a list of names"),
        (
            dict(a=dict(kind="landmarks", points=["b", "c"], flip_pairs=[("b", "d")])),
            r"^labels\.a\.flip_pairs\[0\]: expected two names out of .* found \('b', 'd'\)",
        ),
        (
            dict(a=dict(kind="landmarks", points=list("bcd"), flip_pairs=[["b", "c"], ["c", "d"]])),
            r"^task a: expected flip, the indices of .* its 3 points, found \(1, 2, 1\)",
        ),
        (dict(a=dict(kind=["class"])), r"^labels\.a\.kind: expected one of .*found \['class'\]"),
        (dict(a=5), r"^labels\.a: expected a dict .*found 5 under 'a'"),
        ({5: dict(kind="values")}, r"^labels\.5: expected a dict"),
        (dict(a=dict(kind="class", classes=5)), r"^labels\.a\.classes: .*found 5"),
        (
            dict(a=dict(kind="class", classes=["b", "c"], column=5)),
            r"^labels\.a\.column: expected the name of a column, found 5",
        ),
        (dict(a=dict(kind="values", columns=[["b"]])), r"^labels\.a\.columns: .*found \[\['b'\]\]"),
        (dict(a=dict(kind="landmarks", points=5)), r"^labels\.a\.points: .*found 5"),
        (dict(a=dict(kind="landmarks", points=dict(b=5))), r"^labels\.a\.points\.b: .*found 5"),
        *(
            (
                dict(a=dict(kind="landmarks", points=["b", "c"], **{key: value})),
                rf"^labels\.a\.{key}{place}: expected .*, found {re.escape(repr(found))}$",
            )
            for key, value, place, found in (
                ("interocular", "bc", "", "bc"),
                ("interocular", [["b"], "c"], "", [["b"], "c"]),
                ("flip_pairs", 5, "", 5),
                ("flip_pairs", [("b", "c"), "bc"], r"\[1\]", "bc"),
            )
        ),
    ],
)
def test_unusable_labels_name_their_key(tmp_path, labels, message):
    with pytest.raises(ConfigError, match=message):
        make(str(tmp_path), "labels.csv", labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(split=["train"]), r"split: expected None or one of .* found \['train'\]"),
        (dict(box=5), "box: expected 'whole', 'landmarks' or the four columns .* found 5"),
        (dict(box=["a", "b", "c", "a"]), "box: expected 'whole', 'landmarks' or the four columns"),
        (dict(val_share=1.5), "val_share: expected a share from 0 to below 1, found 1.5"),
        (dict(tasks=5), r"tasks: expected a list of names, each once, found 5"),
    ],
)
def test_an_option_of_a_wrong_type_names_its_key(tmp_path, options, message):
    arguments = dict(data_root=str(tmp_path), ann_file="labels.csv", labels=LABELS) | options
    with pytest.raises(ConfigError, match=f"^{message}"):
        make(**arguments)


@pytest.mark.parametrize("centre", ["middle", (1, 2, 3), True, float("nan"), None])
def test_pixel_centre_is_one_or_two_numbers(tmp_path, centre):
    with pytest.raises(ConfigError, match=r"^pixel_centre: expected the coordinate"):
        make(write(tmp_path, ROW), "labels.csv", LABELS, pixel_centre=centre)


@pytest.mark.parametrize(
    ("centre", "shift"), [(0, (0.5, 0.5)), (1, (-0.5, -0.5)), ((0, 2), (0.5, -1.5))]
)
def test_pixel_centre_shifts_points(tmp_path, centre, shift):
    root = write(tmp_path, [*ROW, *GIVEN], header=[*HEADER, *BOX])
    plain, moved = (
        make(root, "labels.csv", LABELS, box=BOX, **options).get_data_info(0)
        for options in ({}, dict(pixel_centre=centre))
    )
    assert np.array_equal(moved["gt"]["ears"], plain["gt"]["ears"] + shift)
    assert np.array_equal(moved["landmarks"], plain["landmarks"] + shift)
    assert moved["region"] == plain["region"]
    assert moved["gt"]["size"] == plain["gt"]["size"]
