"""Train a multi-task model from a config.

Example:
    trn-plugin train trn_plugin::toy/trn-hidden-output_test-resnet_toy.py --work-dir work_dirs/toy
"""

from trn_plugin.cli.config import (
    add_config_arguments,
    add_launcher_argument,
    build_runner,
    load_config,
    start_process_group,
    use_mixed_precision,
    work_dir,
)


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("--work-dir", help="where logs and checkpoints go")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from this checkpoint, or from the newest in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision (CUDA)")
    add_launcher_argument(parser)


def main(args):
    config = load_config(args.config, args.cfg_options)
    config.work_dir = work_dir(config, args.work_dir, args.config)
    config.launcher = args.launcher
    if args.amp:
        use_mixed_precision(config)
    if args.resume:
        config.resume = True
        config.load_from = None if args.resume == "auto" else args.resume
    start_process_group(args.launcher)
    build_runner(config).train()
