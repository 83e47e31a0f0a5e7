"""The training runs of kill_and_resume.py: config, processes and results."""

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # forked processes must not inherit threads
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot  # noqa: F401
import torch

from trn_plugin import cli
from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.cli import train  # noqa: F401
from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.registry import HOOKS, METRICS, MODELS, TRANSFORMS

for registry in (HOOKS, METRICS, MODELS, TRANSFORMS):
    registry.import_from_location()  # once, not in every process
torch.set_num_threads(1)

SIZES = dict(train_size=52, test_size=8, val_size=16)
CONFIG = """
_base_ = "trn_plugin::toy/trn-hidden-output_test-resnet_toy.py"

input_size = 32
faces = dict(data_root={faces!r}, **{sizes})
loader = dict(batch_size={batch_size}, num_workers={workers}, persistent_workers={persistent})
train_dataloader = dict({train_data}, **loader)
val_dataloader = dict(dataset=faces, **loader)
test_dataloader = dict(dataset=faces, **loader)
model = dict(
    backbone=dict(model_name={backbone!r}, drop_path_rate=0.2),
    neck=dict(start="identity"),  # else wide features are solved exactly all through these runs
)
optim_wrapper = dict(accumulative_counts={accumulate})
weights = dict(output=0.01, hidden=0.001)
custom_hooks = [dict(type="TaskRelationLossHook", weights=weights, min_samples_per_dim=0)]
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=10)]
train_cfg = {train_cfg}
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(
        interval=1, by_epoch={by_epoch}, max_keep_ckpts=1, save_best="landmarks/NME"
    ),
)
"""


# the 36 samples of the training set: the first 12 and the last 6, twice
WRAPPED = """
    sampler=dict(_delete_=True, type={sampler!r}, shuffle=True),
    dataset=dict(
        _delete_=True,
        type="RepeatDataset",
        times=2,
        dataset=dict(type="ConcatDataset", datasets=[
            dict(type="ToyFaces", split="train", indices=indices, input_size=input_size,
                 pipeline={{{{_base_.train_pipeline}}}}, **faces)
            for indices in (12, -6)
        ]),
    )"""
PLAIN = "sampler=dict(type={sampler!r}), dataset=faces"
# hidden features of a task; from 96 on, the solver is warm-started
BACKBONES = dict(narrow="test_vit", toy="test_resnet", wide="test_efficientnet")  # 64, 96, 256


class RunFailed(Exception):
    """A run ended with an error, without being killed."""


def write_config(args, folder):
    """A small toy run with stochastic depth."""
    if args.by == "epoch":
        train_cfg = dict(max_epochs=args.epochs, val_interval=2)
    else:
        loop = dict(type="IterBasedTrainLoop", max_iters=3 * args.epochs, val_interval=2)
        train_cfg = dict(_delete_=True, **loop)
    samplers = dict(plain="DrawSampler", wrapped="DefaultSampler")
    train_data = dict(plain=PLAIN, wrapped=WRAPPED)[args.data]
    path = folder / "config.py"
    path.write_text(
        CONFIG.format(
            faces=str(folder / "faces"),
            sizes=SIZES,
            batch_size=12 // args.ranks,
            workers=args.workers,
            persistent=args.persistent and args.workers > 0,
            train_data=train_data.format(sampler=args.sampler or samplers[args.data]),
            backbone=BACKBONES[args.hidden],
            accumulate=args.accumulate,
            train_cfg=train_cfg,
            by_epoch=args.by == "epoch",
        )
    )
    make_toy_faces(str(folder / "faces"), train_size=SIZES["train_size"], test_size=8)
    return path


class Run:
    """``tools/train.py --resume`` in forked processes, one for each rank."""

    def __init__(self, config, work, ranks):
        self.log = work.parent / "log.txt"
        arguments = [str(config), "--work-dir", str(work), "--resume"]
        environments = [{}]
        if ranks > 1:
            arguments += ["--launcher", "pytorch"]
            shared = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port(), WORLD_SIZE=str(ranks))
            environments = [dict(shared, RANK=str(r), LOCAL_RANK=str(r)) for r in range(ranks)]
        self.processes = {self._fork(arguments, environment) for environment in environments}

    def _fork(self, arguments, environment):
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            with open(self.log, "ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.environ.update(environment)
            cli.main(["train", *arguments])
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def ended(self):
        """Whether all processes have ended by themselves.

        Raises:
            RunFailed: one ended with an error; the others are killed.
        """
        for pid in list(self.processes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.processes.remove(pid)
            if done and status:
                self.kill()
                code = os.waitstatus_to_exitcode(status)
                raise RunFailed(f"a run failed with status {code}; see {self.log}")
        return not self.processes

    def kill(self):
        """SIGKILL every process."""
        for pid in self.processes:
            os.kill(pid, signal.SIGKILL)
        for pid in self.processes:
            os.waitpid(pid, 0)
        self.processes = set()

    def wait(self):
        """Wait until all processes have ended."""
        while not self.ended():
            time.sleep(0.01)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def outcome(work):
    """Results of a finished run by name: tensors and numbers."""
    files = sorted(path.name for path in work.glob("*.pth"))
    path = work / (work / "last_checkpoint").read_text().rpartition("/")[2]
    checkpoint = load_checkpoint_file(path)
    values = {"file": path.name, "files": files, "iterations": checkpoint["meta"]["iter"]}
    best = work / Path(checkpoint["message_hub"]["runtime_info"]["best_ckpt"]).name
    flatten(load_checkpoint_file(best)["state_dict"], "best", values)
    for part in ("state_dict", "optimizer", "param_schedulers", "ranks"):
        flatten(checkpoint[part], part, values)
    for name, buffer in checkpoint["message_hub"]["log_scalars"].items():
        if not name.endswith("time"):
            values[f"log.{name}"] = buffer["history"]
    logs = sorted(work.glob("*/vis_data/scalars.json"), key=lambda p: p.stat().st_mtime_ns)
    rows = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    metrics = [row for row in rows if "landmarks/NME" in row][-1]
    values |= {f"metrics.{k}": repr(v) for k, v in metrics.items() if not k.endswith("time")}
    return values


def flatten(value, name, values):
    if isinstance(value, dict):
        for key, inner in value.items():
            flatten(inner, f"{name}.{key}", values)
    elif isinstance(value, (list, tuple)):
        for key, inner in enumerate(value):
            flatten(inner, f"{name}.{key}", values)
    else:
        values[name] = value


def differences(found, expected):
    names = [name for name in {**expected, **found} if name not in found or name not in expected]
    for name in found.keys() & expected.keys():
        a, b = found[name], expected[name]
        if torch.is_tensor(a) and torch.is_tensor(b):
            same = a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        else:
            same = a == b
        if not same:
            names.append(name)
    return sorted(names)


def warm_steps(values):
    """Logs how many taus of hidden features were warm-started from the last step."""
    steps = values.get("state_dict.neck.layers.hidden.steps")
    solved, exact = steps.tolist() if steps is not None else (0, 0)
    return f"tau (hidden): {solved - exact} warm steps, {exact} exact ones"
