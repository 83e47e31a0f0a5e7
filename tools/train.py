"""Train a multi-task model from a config.

Example:
    python tools/train.py configs/toy/trn-hidden-output_test-resnet_toy.py --work-dir work_dirs/toy
"""

import argparse

from trn_plugin.engine import cli


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_config_arguments(parser)
    parser.add_argument("--work-dir", help="where logs and checkpoints go")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from this checkpoint, or from the newest in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision (CUDA)")
    cli.add_launcher_argument(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    config = cli.load_config(args.config, args.cfg_options)
    config.work_dir = cli.work_dir(config, args.work_dir, args.config)
    config.launcher = args.launcher
    if args.amp:
        cli.use_mixed_precision(config)
    if args.resume:
        config.resume = True
        config.load_from = None if args.resume == "auto" else args.resume
    cli.start_process_group(args.launcher)
    cli.build_runner(config).train()


if __name__ == "__main__":
    cli.run(main)
