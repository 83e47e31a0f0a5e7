"""Measure a checkpoint, or an exported file, on the config's test set.

An exported file gets crops of the original pictures, since it resizes its input itself.

Examples:
    trn-plugin test trn_plugin::toy/trn-output_test-resnet_toy.py work_dirs/toy/epoch_15.pth \\
        --out metrics.json --show-dir work_dirs/toy/pictures
    trn-plugin test trn_plugin::toy/trn-output_test-resnet_toy.py work_dirs/toy/model.onnx
"""

import math

from mmengine.dist import is_main_process

from trn_plugin.cli.config import (
    add_config_arguments,
    add_launcher_argument,
    build_runner,
    load_config,
    start_process_group,
    work_dir,
)
from trn_plugin.deploy.scores import file_sha256
from trn_plugin.errors import ConfigError
from trn_plugin.files import write_json


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint, or exported .onnx file")
    parser.add_argument("--work-dir", metavar="D", help="folder for logs")
    parser.add_argument("--out", metavar="JSON", help="write the metrics to this file")
    parser.add_argument("--show-dir", metavar="D", help="write plots and pictures of cases here")
    parser.add_argument(
        "--split", choices=("test", "val"), default="test", help="set of the config (%(default)s)"
    )
    parser.add_argument("--provider", choices=("cpu", "cuda"), help="where to run an exported file")
    add_launcher_argument(parser)


def main(args):
    config = load_config(args.config, args.cfg_options)
    config.work_dir = work_dir(config, args.work_dir, args.config)
    config.launcher = args.launcher
    config.load_from, config.resume = args.checkpoint, False
    if args.split == "val":
        config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    if args.show_dir:
        config.setdefault("custom_hooks", []).append(
            dict(type="CasePicturesHook", out_dir=args.show_dir)
        )
    without_training(config)
    exported, left_out = args.checkpoint.endswith(".onnx"), []
    if exported:
        from trn_plugin.deploy.evaluate import use_exported

        if args.launcher != "none":
            raise ConfigError("--launcher: an exported file is measured in one process")
        left_out = use_exported(config, args.checkpoint, args.provider)
    elif args.provider:
        raise ConfigError("--provider: is for exported .onnx files; a checkpoint runs in PyTorch")
    start_process_group(args.launcher)
    metrics = build_runner(config).test()
    if not is_main_process():
        return
    for line in left_out:
        print(f"not measured: {line}")
    if exported and args.show_dir:
        print(
            "not drawn: similarity.png (tau over training). An exported file does not hold the "
            "training log; the plot is in the training's work directory."
        )
    if args.out:
        record = {"config": args.config, "checkpoint": args.checkpoint, "split": args.split}
        record["checkpoint_sha256"] = file_sha256(args.checkpoint)
        if left_out:
            record["not_measured"] = left_out
        write_json(args.out, record | finite(metrics))


def without_training(config):
    """Remove the training data and the pretrained weights, which testing does not need."""
    for name in ("train", "val"):
        for part in ("dataloader", "cfg", "evaluator"):
            config.pop(f"{name}_{part}", None)
    for name in ("optim_wrapper", "param_scheduler"):
        config.pop(name, None)
    config.model.backbone.pretrained = False
    config.model.backbone.pop("checkpoint_path", None)


def finite(metrics):
    """The metrics, with None for non-finite numbers, which JSON cannot hold."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }
