"""Export the trunk and one task's tail as weights of a plain timm model."""

from __future__ import annotations

import timm
import torch
from safetensors.torch import save_file

from trn_plugin.checkpoints import save_checkpoint_file
from trn_plugin.errors import CheckpointError

__all__ = ["write_timm_weights"]


def write_timm_weights(backbone, task: str, path: str) -> tuple[int, float]:
    """Write trunk and tail of a task, and compare the features of timm's model with them.

    Args:
        backbone (TimmTrunk): put into eval mode.
        task: task of the tail.
        path: .safetensors or .pth file.

    Returns:
        Number of parameters and buffers, and the largest difference of the features relative to
        the largest feature.

    Raises:
        CheckpointError: the file cannot be written, or timm's features differ.
    """
    state = backbone.to_timm(task).state_dict()
    if path.endswith(".pth"):
        save_checkpoint_file(state, path)
    else:
        try:
            save_file({name: value.contiguous() for name, value in state.items()}, path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error}") from error
    options = backbone.timm_options
    model = timm.create_model(backbone.model_name, checkpoint_path=path, **options).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, options["in_chans"], *backbone.img_size, generator=generator)
    with torch.no_grad():
        expected = backbone.eval()(x)[task]
        difference = float((model(x) - expected).abs().max() / expected.abs().max())
    if not difference <= 1e-5:
        raise CheckpointError(
            f"{path}: features of timm's model differ from those of {task} by {difference:.1e}"
        )
    return sum(value.numel() for value in state.values()), difference
