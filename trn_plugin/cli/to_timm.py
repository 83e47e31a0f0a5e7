"""Write trunk and tail of one task of a checkpoint as the weights of a plain timm model.

The file is loaded with timm.create_model(NAME, num_classes=0, checkpoint_path=OUT); the tool does
so, compares the outputs and prints the difference. It can also be a config's
model.backbone.checkpoint_path.

Example:
    trn-plugin to-timm trn_plugin::toy/trn-output_test-resnet_toy.py \\
        work_dirs/toy/epoch_15.pth pose.safetensors --task pose
"""

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.errors import CheckpointError, ConfigError


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("out", metavar="OUT", help="file to write, .safetensors or .pth")
    parser.add_argument("--task", required=True, help="whose tail to take")


def main(args):
    if not args.out.endswith((".safetensors", ".pth")):
        raise ConfigError(f"{args.out}: expected a name that ends in .safetensors or .pth")
    from trn_plugin.deploy.checkpoint import load_for_export

    config = load_config(args.config, args.cfg_options)
    backbone = load_for_export(config, args.checkpoint)[0].backbone
    state = backbone.to_timm(args.task).state_dict()
    save(state, args.out)
    difference = reload_difference(backbone, args.task, args.out)
    options = "".join(f", {name}={value!r}" for name, value in backbone.timm_options.items())
    print(
        f"{args.out}: {sum(v.numel() for v in state.values()) / 1e6:.2f} M numbers; timm's model "
        f"and {args.task}'s features differ by at most {difference:.1e} of the largest\n"
        f"timm.create_model({backbone.model_name!r}{options}, checkpoint_path={args.out!r})"
    )


def save(state: dict, path: str):
    from safetensors.torch import save_file

    from trn_plugin.checkpoints import save_checkpoint_file

    if path.endswith(".pth"):
        save_checkpoint_file(state, path)
        return
    try:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def reload_difference(backbone, task: str, path: str) -> float:
    """Between timm's own model with the file's weights and the task's features."""
    import timm
    import torch

    model = timm.create_model(
        backbone.model_name, checkpoint_path=path, **backbone.timm_options
    ).eval()
    generator = torch.Generator().manual_seed(0)
    channels = backbone.timm_options["in_chans"]
    x = torch.randn(4, channels, *backbone.img_size, generator=generator)
    with torch.no_grad():
        expected = backbone.eval()(x)[task]
        found = model(x)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= 1e-5:
        raise CheckpointError(
            f"{path}: timm's model gives other features than {task} has, by {difference:.1e}"
        )
    return difference
