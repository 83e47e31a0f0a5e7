"""Kill training runs with SIGKILL at random moments, resume them, and compare how they end.

Half of the kills come while a checkpoint is being written. Each finished run is compared, bit for
bit, with one that was never killed: weights, running covariances, optimizer, logged losses and tau,
random generators, metrics of the last validation. Exits with 1 if they differ. --all runs every
variant, one after the other.

    python tests/kill_and_resume.py --kills 20
    python tests/kill_and_resume.py --kills 20 --by iteration --workers 2 --persistent
    python tests/kill_and_resume.py --kills 4 --all
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from killed_runs import (
    BACKBONES,
    Run,
    RunFailed,
    differences,
    outcome,
    warm_steps,
    write_config,
)

VARIANTS = (
    dict(),
    dict(by="iteration"),
    dict(workers=2, persistent=True),
    dict(hidden="narrow"),
    dict(hidden="wide"),
    dict(data="wrapped"),
    dict(data="wrapped", by="iteration"),
    dict(data="wrapped", by="iteration", sampler="InfiniteSampler"),
    dict(accumulate=2),
    dict(accumulate=2, by="iteration", hidden="wide"),
    dict(ranks=2),
    dict(ranks=2, by="iteration", accumulate=2, data="wrapped"),
)


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="%(default)s")
    parser.add_argument("--by", choices=("epoch", "iteration"), default="epoch")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="length (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="of the data loaders")
    parser.add_argument("--persistent", action="store_true", help="keep the workers")
    parser.add_argument(
        "--hidden", choices=tuple(BACKBONES), default="toy", help="64, 96 (default) or 256 features"
    )
    parser.add_argument(
        "--data",
        choices=("plain", "wrapped"),
        default="plain",
        help="wrapped: MMEngine's RepeatDataset of a ConcatDataset, with MMEngine's sampler",
    )
    parser.add_argument(
        "--sampler",
        choices=("DrawSampler", "DefaultSampler", "InfiniteSampler"),
        help="of the training data (plain: DrawSampler, wrapped: DefaultSampler); the infinite one "
        "is for --by iteration",
    )
    parser.add_argument("--accumulate", type=int, default=1, metavar="K", help="batches a step")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes, on CPUs")
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills")
    parser.add_argument("--all", action="store_true", help="every variant, with --kills each")
    args = parser.parse_args(arguments)
    if args.sampler == "InfiniteSampler" and args.by == "epoch":
        parser.error("--sampler InfiniteSampler: an endless epoch; add --by iteration")
    return args


def kill_at_some_moment(run, work, longest, rng):
    """SIGKILL the run at a random moment; returns 'writing', 'other', or None if it had ended."""
    in_writing = rng.random() < 0.5
    moment = time.monotonic() + rng.uniform(0, longest)
    writes = rng.randint(1, 3)
    known = set(work.glob(".*.partial"))
    while not run.ended():
        if in_writing:
            found = set(work.glob(".*.partial")) - known
            known |= found
            writes -= len(found)
            now = writes <= 0
        else:
            now = time.monotonic() >= moment
        if now:
            run.kill()
            return "writing" if in_writing and set(work.glob(".*.partial")) & known else "other"
        time.sleep(0.0005 if in_writing else 0.01)
    return None


def kill_and_resume(args):
    """Kill and resume one variant; return whether every run ended like the uninterrupted one."""
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="kill_and_resume-"))
    config = write_config(args, folder)
    begun = time.monotonic()
    Run(config, folder / "whole", args.ranks).wait()
    longest = time.monotonic() - begun
    expected = outcome(folder / "whole")
    print(f"seed {seed}; a whole run: {longest:.1f} s, {len(expected)} values")
    print(warm_steps(expected), flush=True)

    kills, runs = {"writing": 0, "other": 0}, 0
    while sum(kills.values()) < args.kills:
        work = folder / f"killed{runs}"
        work.mkdir()
        while sum(kills.values()) < args.kills:
            run = Run(config, work, args.ranks)
            killed = kill_at_some_moment(run, work, longest, rng)
            if killed is None:
                break
            kills[killed] += 1
        Run(config, work, args.ranks).wait()  # training is complete: it validates and ends
        runs += 1
        different = differences(outcome(work), expected)
        if different:
            print(f"run {runs} differs in {len(different)} values: {different[:5]}; see {folder}")
            return False
        shutil.rmtree(work)
    print(
        f"{sum(kills.values())} kills, {kills['writing']} of them while a checkpoint was written, "
        f"in {runs} runs: all ended as the one that was not killed",
        flush=True,
    )
    shutil.rmtree(folder)
    return True


def main():
    args = parse_args()
    failed = []
    for variant in VARIANTS if args.all else ({},):
        name = " ".join(f"{key}={value}" for key, value in variant.items()) or "plain"
        if args.all:
            print(f"== {name}", flush=True)
        begun = time.monotonic()
        try:
            same = kill_and_resume(argparse.Namespace(**{**vars(args), **variant}))
        except RunFailed as error:
            print(error)
            same = False
        if not same:
            failed.append(name)
        if args.all:
            print(f"{time.monotonic() - begun:.0f} s", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}" if args.all else 1)


if __name__ == "__main__":
    main()
