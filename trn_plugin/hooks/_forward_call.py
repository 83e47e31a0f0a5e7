"""Arguments of a call of a model's ``forward``."""

from __future__ import annotations

import inspect

from torch import nn

from trn_plugin.errors import ConfigError

__all__ = ["ForwardCall"]


class ForwardCall:
    """Looks up arguments of a model's ``forward`` by name.

    Args:
        model (nn.Module): its forward takes 'mode' and data samples.
        data_samples (str): the argument that holds the labels.
        where (str): the config key of ``data_samples``, for errors.

    Raises:
        ConfigError: ``forward`` lacks one of these arguments.
    """

    def __init__(self, model: nn.Module, data_samples: str, where: str) -> None:
        self.signature = inspect.signature(model.forward)
        self.data_samples = data_samples
        parameters = self.signature.parameters.values()
        names = [p.name for p in parameters]
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        for name in ("mode", data_samples):
            if name not in names and not takes_any:
                raise ConfigError(
                    f"{where}: {type(model).__name__}.forward has no argument {name!r}; its "
                    f"arguments are {', '.join(names)}"
                )

    def is_of_losses(self, args: tuple, kwargs: dict) -> bool:
        """Whether the mode is 'loss'."""
        mode = kwargs["mode"] if "mode" in kwargs else self._arguments(args, kwargs).get("mode")
        return mode == "loss"

    def samples(self, args: tuple, kwargs: dict):
        """The data samples."""
        return self._arguments(args, kwargs).get(self.data_samples)

    def _arguments(self, args: tuple, kwargs: dict) -> dict:
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:  # the call itself raises it again
            return {}
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name))
        return arguments
