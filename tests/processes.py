"""Run code in forked processes, which need not import everything again."""

import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trn_plugin import cli

ROOT = Path(__file__).parents[1]


def in_ranks(function, *arguments, folder, count=2):
    """Run ``function(rank, *arguments)`` in each process; return its tensors and numbers."""
    method = "spawn" if torch.cuda.is_available() else "fork"  # CUDA does not survive a fork
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


def command(*arguments, folder=None):
    """Run ``trn-plugin ARGUMENTS`` in a separate process; return as ``subprocess.run`` does."""
    arguments = [str(argument) for argument in arguments]
    if torch.cuda.is_available():
        line = [sys.executable, "-m", "trn_plugin", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    return forked(lambda: cli.main(arguments), folder)


def forked(function, folder=None):
    """Run a function in a separate process; return its exit status, stdout and stderr."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        pid = os.fork()
        if not pid:
            _run(function, folder, out, errors)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (out, errors):
            file.seek(0)
        return subprocess.CompletedProcess(function, status, out.read(), errors.read())


def _run(function, folder, out, errors):
    status = 1
    try:
        os.chdir(folder or ".")
        sys.stdout, sys.stderr = out, errors
        try:
            function()
            status = 0
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            traceback.print_exc()
        out.flush(), errors.flush()
    finally:
        os._exit(status)
