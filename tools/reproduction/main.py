"""Train and measure all rows of a table of the paper, or of a study, and write the table.

Each finished run adds its rows to a file of results, which is in the repository. A run in this file
is not repeated on any machine, and a stopped run resumes. OUT_DIR then holds TABLE.md, TABLE.png
and a folder for each run. figure4 trains one model and runs the convergence study on it.

Example:
    python tools/reproduce.py table1 --scale small --seeds 0 1 2
    python tools/reproduce.py table1 --scale finetune --seeds 0 1 2 3 4 --only mtl trn-output
    python tools/reproduce.py table1 --scale paper --jobs 4 --amp --seconds 3600
    python tools/reproduce.py table2 --scale paper --seeds 0 1 2 --jobs 4 --amp
"""

import os
import signal
import sys
from pathlib import Path

from reproduction.scarce import SCARCE
from reproduction.study import STUDY
from reproduction.tables import FIGURE4, TABLE1, TABLE2, TABLE3
from trn_plugin.cli.parsing import positive_int
from trn_plugin.errors import ConfigError, TrnPluginError
from trn_plugin.experiments.execution import Executor, command_line, tell, visible_gpus
from trn_plugin.experiments.plan import runs_of
from trn_plugin.experiments.results import Results
from trn_plugin.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
TABLES = {table.name: table for table in (TABLE1, TABLE2, TABLE3, STUDY, SCARCE, FIGURE4)}


def add_arguments(parser):
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--scale", default="small", help="scale of the table (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--out-dir", help="default: work_dirs/reproduce/SCALE/TABLE")
    parser.add_argument(
        "--results", help="file of finished runs; default: docs/results/runs_TABLE_SCALE.csv"
    )
    parser.add_argument(
        "--jobs", type=positive_int, help="parallel runs; default: one per GPU, 1 without GPUs"
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (CUDA)")
    parser.add_argument(
        "--seconds",
        type=positive_int,
        metavar="N",
        help="time limit: begin no run that would exceed it, judging by the runs finished so far",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="run only these rows")
    parser.add_argument(
        "--report", action="store_true", help="train nothing; write the table of finished runs"
    )
    parser.add_argument("--list", action="store_true", help="train nothing; print the commands")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change every run's config",
    )


def main(args):
    check(args)
    default = ROOT / "work_dirs" / "reproduce" / args.scale / args.table
    folder = Path(args.out_dir or default).absolute()
    folder = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    kept = ROOT / "docs" / "results" / f"runs_{args.table}_{args.scale}.csv"
    results = Results(Path(args.results or kept).absolute())
    gpus = visible_gpus()
    jobs, paths = args.jobs or max(1, len(gpus)), (ROOT, ROOT / "tools")
    executor = Executor(ROOT, results, jobs, gpus, tell, args.seconds, paths)
    os.chdir(ROOT)
    table = TABLES[args.table]
    runs = runs_of(table, args.scale, args.seeds, folder, args.cfg_options, args.only, args.amp)
    if args.list:
        for run in runs:
            print(command_line(["python", *run.command()]))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the runs' processes too
    failed = [] if args.report else executor.run(runs)
    if table is FIGURE4:
        figure4(args, folder, executor, runs[0])
    else:
        report(args, folder, table, runs, results)
    if failed:
        raise TrnPluginError(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")


def check(args):
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        raise ConfigError(f"--seeds: expected different numbers >= 0, found {args.seeds}")
    if args.table == "figure4":
        args.seeds = args.seeds[:1]
    with_values = [option for option in args.cfg_options if "=" in option]
    if len(with_values) < len(args.cfg_options):
        raise ConfigError(f"--cfg-options: expected KEY=VALUE, found {args.cfg_options}")


def report(args, folder, table, runs, results):
    """Write the table of the finished runs among those requested."""
    from reproduction.picture import save_comparison
    from reproduction.report import markdown

    done = [run for run in runs if results.has(run)]
    rows = [row for run in done for row in results.of(run)]
    if not rows:
        raise ConfigError(f"{results.path}: no run is finished yet")
    results.check(rows)
    firsts = list({run.row.slug: run for run in reversed(done)}.values())[::-1]
    command = ["python", "tools/reproduce.py", *(a for a in sys.argv[1:] if a != "--report")]
    text = markdown(table, args.scale, rows, firsts, command_line(command))
    with atomic_write(folder / f"{table.name}.md", "--out-dir") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    with atomic_write(folder / f"{table.name}.png", "--out-dir") as partial:
        save_comparison(str(partial), table, rows)
    print(f"{text}\n\nwritten to {folder}")


def figure4(args, folder, executor, run):
    """Run the convergence study on the trained model: online and offline tau."""
    checkpoints = sorted(run.folder.glob("epoch_*.pth"))
    if not checkpoints:
        raise ConfigError(f"{run.folder}: the model of figure4 is not trained yet")
    command = ["tools/benchmarks/convergence_study.py", run.row.config, str(checkpoints[-1])]
    command += ["--out-dir", str(folder), "--cfg-options"]
    command += [o for o in run.options if o.startswith(("model.", "input_size", "train_data"))]
    if not args.report:
        executor.command(command, folder / "figure4.log")
    print(f"{command_line(['python', *command])}\n\nwritten to {folder}")
