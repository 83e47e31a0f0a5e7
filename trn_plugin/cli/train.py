"""Train a multi-task model from a config.

Example:
    trn-plugin train trn_plugin::toy/trn-hidden-output_test-resnet_toy.py --work-dir work_dirs/toy
"""

import os

from trn_plugin.cli.config import (
    add_config_arguments,
    add_launcher_argument,
    build_runner,
    load_config,
    start_process_group,
    use_mixed_precision,
)
from trn_plugin.cli.config import work_dir as folder_of


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("--work-dir", metavar="D", help="folder for logs and checkpoints")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="resume (default: from the newest checkpoint in the work directory)",
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (CUDA)")
    add_launcher_argument(parser)


def main(args):
    train(args.config, args.cfg_options, args.work_dir, args.resume, args.amp, args.launcher)


def train(
    config: str | os.PathLike,
    options: dict | None = None,
    work_dir: str | os.PathLike | None = None,
    resume: str | os.PathLike | bool | None = None,
    amp: bool = False,
    launcher: str = "none",
):
    """Train a model, as ``trn-plugin train`` does.

    Args:
        config: a config file, or ``trn_plugin::PATH``.
        options: values by key path, such as ``{"train_cfg.max_epochs": 1}``.
        work_dir: for logs and checkpoints; default the config's, or work_dirs/<config name>.
        resume: the checkpoint to resume from; True or 'auto' for the newest in ``work_dir``.
        amp: train in mixed precision (CUDA).
        launcher: launcher of a run with several processes.

    Returns:
        SafeRunner: the runner after training.

    Raises:
        TrnPluginError: an error that the user can fix, in one line.
    """
    loaded = load_config(config, options)
    loaded.work_dir = folder_of(loaded, work_dir, config)
    loaded.launcher = launcher
    if amp:
        use_mixed_precision(loaded)
    if resume:
        loaded.resume = True
        loaded.load_from = None if resume in (True, "auto") else os.fspath(resume)
    start_process_group(launcher)
    runner = build_runner(loaded)
    runner.train()
    return runner
