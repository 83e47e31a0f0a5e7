"""Write the trunk and one task's tail of a checkpoint as the weights of a plain timm model.

Load the file with timm.create_model(NAME, num_classes=0, checkpoint_path=OUT), or name it in a
config's model.backbone.checkpoint_path. The command checks the file: it loads it into timm's model
and prints the largest difference between the two models' features.

Example:
    trn-plugin to-timm trn_plugin::toy/trn-output_test-resnet_toy.py \\
        work_dirs/toy/epoch_15.pth pose.safetensors --task pose
"""

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.errors import ConfigError


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("out", metavar="OUT", help="file to write, .safetensors or .pth")
    parser.add_argument("--task", required=True, help="task whose tail is written")


def main(args):
    if not args.out.endswith((".safetensors", ".pth")):
        raise ConfigError(f"{args.out}: expected a name that ends in .safetensors or .pth")
    from trn_plugin.deploy.checkpoint import load_for_export
    from trn_plugin.deploy.to_timm import write_timm_weights

    config = load_config(args.config, args.cfg_options)
    backbone = load_for_export(config, args.checkpoint)[0].backbone
    count, difference = write_timm_weights(backbone, args.task, args.out)
    options = "".join(f", {name}={value!r}" for name, value in backbone.timm_options.items())
    print(
        f"{args.out}: {count / 1e6:.2f} M parameters; the features of timm's model and of "
        f"{args.task} differ by at most {difference:.1e}, relative to the largest\n"
        f"timm.create_model({backbone.model_name!r}{options}, checkpoint_path={args.out!r})"
    )
