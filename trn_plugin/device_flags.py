"""Copy small tensors to the host without synchronisation."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

__all__ = ["DeviceFlags", "HostCopy"]

MOST_UNREAD = 2


class HostCopy:
    """A small tensor on its way to the host; a CPU tensor is there at once."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._event = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def has_arrived(self) -> bool:
        return self._event is None or self._event.query()

    def read(self) -> Tensor:
        """Wait for the values and return them."""
        if self._event is not None:
            self._event.synchronize()
        return self._values


class DeviceFlags:
    """A queue of small tensors that the host reads a few steps after the device computed them."""

    def __init__(self) -> None:
        self._unread: deque[HostCopy] = deque()

    def put(self, flags: Tensor) -> None:
        """Start copying a tensor to the host."""
        if not flags.is_meta:
            self._unread.append(HostCopy(flags))

    def take(self) -> list[Tensor]:
        """The tensors that have arrived; waits only while more than ``MOST_UNREAD`` are pending."""
        arrived, unread = [], self._unread
        while unread and (len(unread) > MOST_UNREAD or unread[0].has_arrived()):
            arrived.append(unread.popleft().read())
        return arrived

    def __deepcopy__(self, memo) -> DeviceFlags:
        return DeviceFlags()  # copies start empty

    def __reduce__(self):
        return DeviceFlags, ()
