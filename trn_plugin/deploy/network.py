"""Run a config and its checkpoint in PyTorch, like their exported file."""

from __future__ import annotations

import numpy as np
import torch

from trn_plugin.cli.config import load_config
from trn_plugin.deploy.checkpoint import load_for_export
from trn_plugin.deploy.model import DeployModel
from trn_plugin.tasks import read_tasks

__all__ = ["Network"]


class Network:
    """The model that ``export_onnx`` would export.

    Args:
        config: a config file, or ``trn_plugin::PATH``.
        checkpoint: checkpoint of the config's model.

    Attributes:
        metadata (dict): as in an exported file.
        tasks (dict[str, Task]): by name.

    Raises:
        ConfigError, CheckpointError: see :func:`load_for_export`.
    """

    def __init__(self, config: str, checkpoint: str) -> None:
        model, input_size, self.metadata = load_for_export(load_config(config), checkpoint)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.deployed = DeployModel(model, input_size).eval().to(self.device)
        self.tasks = read_tasks(self.metadata["tasks"])

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by task for (N, H, W, 3) uint8 RGB."""
        outputs = self.deployed(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
        names = self.deployed.outputs
        return {name: value.cpu().numpy() for name, value in zip(names, outputs, strict=True)}
