"""Other processes of a test; forked, for fresh ones would import everything anew."""

import os
import sys
import traceback

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_ranks(function, *arguments, folder, count=2):
    """What ``function(rank, *arguments)`` returns in each of the processes, tensors and numbers."""
    method = "spawn" if torch.cuda.is_available() else "fork"  # CUDA's state is not forked
    mp.start_processes(
        _rank, (function, arguments, folder, count), nprocs=count, start_method=method
    )
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(count)]


def _rank(rank, function, arguments, folder, count):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=count
    )
    torch.save(function(rank, *arguments), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def exit_status(function, errors):
    """The exit status of a process that runs ``function``; its errors go to a file."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        with open(errors, "w") as sys.stderr:
            try:
                function()
                status = 0
            except SystemExit as stop:
                status = stop.code
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(status)
