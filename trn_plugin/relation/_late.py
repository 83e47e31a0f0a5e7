"""Flags of a device, read by its host when they are there, so that neither waits."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

__all__ = ["LateFlags"]

MOST_UNREAD = 2


class LateFlags:
    """Small tensors handed over as they are computed, and read some steps later."""

    def __init__(self) -> None:
        self._unread: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def put(self, flags: Tensor) -> None:
        """Start the copy of a tensor to the host."""
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
        """What has arrived; waits only for what is older than ``MOST_UNREAD`` steps."""
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

    def __deepcopy__(self, memo) -> LateFlags:
        return LateFlags()  # a copy has had no step

    def __reduce__(self):
        return LateFlags, ()
