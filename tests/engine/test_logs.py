"""What a training prints on the screen, and what only the log file and the JSON contain."""

import json
import logging

from tiny import SquaredError, tiny_runner

EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=1, val_interval=1)


class Many(SquaredError):
    """A metric with the keys of many relations, and of a task with many details."""

    default_prefix = None

    def __init__(self, relations, **options):
        super().__init__(**options)
        self.relations = relations

    def compute_metrics(self, results):
        found = {"a/NME": 1.0, "a/NME_left": 2.0, "b/accuracy": 50.0, "b/accuracy_cat": 40.0}
        for number in range(self.relations):
            found |= {f"relation/{k}_output/a-{number}": 0.5 for k in ("tau", "chance", "d1", "d2")}
            found[f"relation/N/a-{number}"] = 9
        return found


def trained(folder, capsys, relations=1):
    """Screen lines before the first step and of the validation; the log file; the JSON row."""
    run = tiny_runner(folder, train_cfg=EPOCHS, cfg=dict(a=1), log_level="INFO")
    run.val_loop.evaluator.metrics = [Many(relations)]
    run.train()
    lines = capsys.readouterr().out.splitlines()
    first = next(n for n, line in enumerate(lines) if "Epoch(train)" in line)
    (validation,) = (line for line in lines if "Epoch(val)" in line and "a/NME" in line)
    (file,) = (folder / "run").glob("*/*.log")
    (scalars,) = (folder / "run").glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    return lines[:first], validation, file.read_text(), next(r for r in rows if "a/NME" in r)


def test_long_messages_go_to_the_file_only(tmp_path, capsys):
    before, _, file, _ = trained(tmp_path, capsys)
    assert len(before) < 15
    assert not any("Hooks will be executed" in line or "deprecated" in line for line in before)
    for text in ("System environment", "Config:", "Hooks will be executed", "deprecated"):
        assert text in file
    assert "not installed" not in file


def test_a_validation_is_one_line_of_main_metrics(tmp_path, capsys):
    _, line, _, row = trained(tmp_path, capsys)
    for shown in ("a/NME: 1.0000", "b/accuracy: 50.0000", "tau output a-0: 0.5000"):
        assert shown in line
    for hidden in ("NME_left", "accuracy_cat", "chance", "relation/N", "d1", "at_iter"):
        assert hidden not in line
    for kept in ("a/NME_left", "relation/chance_output/a-0", "relation/N/a-0", "at_iter"):
        assert kept in row


def test_many_relations_are_shown_as_their_mean(tmp_path, capsys):
    _, line, _, row = trained(tmp_path, capsys, relations=780)
    assert "tau output mean of 780 relations: 0.5000" in line
    assert len(line) < 300
    assert "relation/tau_output/a-779" in row


def test_warnings_are_shown_before_a_runner_is_built(tmp_path, capsys):
    run = tiny_runner(tmp_path, log_level="INFO")
    run.screen.is_built = False
    run.logger.log(logging.INFO, "of the set-up")
    run.logger.log(logging.WARNING, "of the user's")
    out = capsys.readouterr().out
    assert "of the set-up" not in out
    assert "of the user's" in out
