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
    parser.add_argument("--work-dir", metavar="D", help="where logs and checkpoints go")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from this checkpoint, or from the newest in the work dir",
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
    """Train a model; what ``trn-plugin train`` does.

    Args:
        config: a config file, or ``trn_plugin::PATH``.
        options: values by key path, such as ``{"train_cfg.max_epochs": 1}``.
        work_dir: for logs and checkpoints; default the config's, or work_dirs/<config name>.
        resume: a checkpoint to go on from; True or 'auto' for the newest of ``work_dir``.
        amp: mixed precision (CUDA).
        launcher: of several processes.

    Returns:
        SafeRunner: the runner, its training done.

    Raises:
        TrnPluginError: what the user can mend, in one line.
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
