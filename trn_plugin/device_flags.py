"""Device-to-host flags read without synchronisation."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

__all__ = ["DeviceFlags"]

MOST_UNREAD = 2


class DeviceFlags:
    """A queue of small tensors that the host reads a few steps after the device computed them."""

    def __init__(self) -> None:
        self._unread: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def put(self, flags: Tensor) -> None:
        """Start copying a tensor to the host."""
        if flags.device.type == "meta":
            return
        if flags.device.type != "cuda":
            self._unread.append((flags, None))
            return
        host = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
        host.copy_(flags, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._unread.append((host, event))

    def take(self) -> list[Tensor]:
        """The tensors that have arrived; waits only while more than ``MOST_UNREAD`` are pending."""
        arrived = []
        while self._unread:
            flags, event = self._unread[0]
            if event is not None and not event.query():
                if len(self._unread) <= MOST_UNREAD:
                    break
                event.synchronize()
            arrived.append(flags)
            self._unread.popleft()
        return arrived

    def __deepcopy__(self, memo) -> DeviceFlags:
        return DeviceFlags()  # copies start empty

    def __reduce__(self):
        return DeviceFlags, ()
