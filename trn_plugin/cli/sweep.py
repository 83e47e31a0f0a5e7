"""Train a grid of settings with several seeds; compare accuracy, parameters and latency.

The process that trains a run also measures it. A run with rows in OUT_DIR/runs.csv is not repeated,
and a stopped run resumes. The results are sweep.csv, sweep.md and sweep.png in OUT_DIR, with the
Pareto front marked; each run has its own folder there.

Example:
    trn-plugin sweep trn_plugin::toy/mtl_test-resnet_toy.py model.backbone.shared_stages=0,2,-1
    trn-plugin sweep trn_plugin::mtfl/mtl-fast_resnet18_mtfl.py \\
        model.backbone.shared_stages=0,1,2,3,4 model.heads.landmarks.loss_weight=10,30 \\
        --seeds 0 1 2 --jobs 2 --equal-compute --out-dir work_dirs/sweep
"""

import dataclasses
import json
from pathlib import Path

from trn_plugin.cli.config import load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.errors import ConfigError, TrnPluginError
from trn_plugin.experiments import grid, plan
from trn_plugin.experiments.cost import Cost, model_cost
from trn_plugin.experiments.execution import Executor, command_line, tell, visible_gpus
from trn_plugin.experiments.picture import save_sweep
from trn_plugin.experiments.results import Results, numbers
from trn_plugin.experiments.summary import Cell, markdown, measures_of, summary_rows
from trn_plugin.files import atomic_write, write_json, write_table

EPOCHS = "train_cfg.max_epochs"


def add_arguments(parser):
    parser.add_argument("config", help="config file, or trn_plugin::PATH for a packaged config")
    parser.add_argument("grid", nargs="+", metavar="KEY=A,B,C", help="values to try for a key")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="(0)")
    parser.add_argument(
        "--jobs", type=positive_int, help="parallel runs; default: one per GPU, 1 without GPUs"
    )
    parser.add_argument("--out-dir", help="default: work_dirs/sweep/<config name>")
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="KEY", help="default: the first of each task"
    )
    parser.add_argument(
        "--splits", nargs="+", choices=("val", "test"), default=["val"], help="to measure (val)"
    )
    parser.add_argument(
        "--equal-compute",
        action="store_true",
        help="train the cheapest cell for the config's epochs, the others for fewer",
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (CUDA)")
    parser.add_argument(
        "--report", action="store_true", help="train nothing; write the tables of finished runs"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change every run's config",
    )


def main(args):
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        raise ConfigError(f"--seeds: expected different numbers >= 0, found {args.seeds}")
    rows = grid.cells(args.config, args.grid)
    folder = Path(args.out_dir or Path("work_dirs/sweep") / Path(args.config).stem)
    digest = grid.content_digest(load_config(args.config).to_dict())
    costs = [measured_cost(args, row, folder, digest) for row in rows]
    if args.equal_compute:
        rows = with_equal_compute(args, rows, costs)
    scale = plan.Scale("", tuple(args.cfg_options), tuple(args.splits))
    options = dict(amp=args.amp, digest=digest)
    runs = [plan.Run(row, seed, scale, folder, **options) for seed in args.seeds for row in rows]
    results = Results(folder / "runs.csv", same=("labels",), option="--out-dir")
    failed = []
    if not args.report:
        gpus = visible_gpus()
        failed = Executor(Path.cwd(), results, args.jobs or max(1, len(gpus)), gpus, tell).run(runs)
    for split in args.splits:
        found = [(run, row) for run in runs for row in results.of(run) if row["split"] == split]
        if found:
            cells = [Cell(row.name, cost) for row, cost in zip(rows, costs, strict=True)]
            report(args, split, folder, cells, found)
        elif not failed:
            raise ConfigError(
                f"{results.path}: no run is finished yet with its {split} set measured; run "
                f"without --report and with --splits {' '.join(args.splits)}"
            )
    if failed:
        raise TrnPluginError(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")


def measured_cost(args, row, folder, digest):
    """The cost of a cell's model, measured once, before the trainings start."""
    path = folder / row.slug / "cost.json"
    options = [*args.cfg_options, *row.options]
    settings = {"config": args.config, "content": digest, "options": options}
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if known.get("settings") == settings:
        return Cost(**known["cost"])
    cost = model_cost(load_config(args.config, grid.parse_options(args.config, options)))
    write_json(path, {"settings": settings, "cost": dataclasses.asdict(cost)}, "--out-dir")
    return cost


def with_equal_compute(args, rows, costs):
    """The cells with the epochs of --equal-compute."""
    config = load_config(args.config, grid.parse_options(args.config, args.cfg_options))
    epochs = config.train_cfg.get("max_epochs")
    if epochs is None:
        raise ConfigError(f"--equal-compute: expected a config with {EPOCHS}")
    if any(option.startswith(f"{EPOCHS}=") for option in rows[0].options):
        raise ConfigError(f"--equal-compute sets {EPOCHS}, which the grid changes too")
    steps = [cost.multiplications for cost in costs]
    shares = grid.equal_epochs(epochs, steps)
    spent = [n * cost for n, cost in zip(shares, steps, strict=True)]
    if max(spent) > 1.1 * min(spent):
        tell(
            f"--equal-compute: rounded to whole epochs, some trainings cost up to "
            f"{100 * max(spent) / min(spent) - 100:.0f} % more than others; raise {EPOCHS}"
        )
    return [
        dataclasses.replace(
            row, name=f"{row.name}, {n} epochs", options=(*row.options, f"{EPOCHS}={n}")
        )
        for row, n in zip(rows, shares, strict=True)
    ]


def report(args, split, folder, cells, found):
    """Write the table and the plot of one measured set."""
    keys = list(dict.fromkeys(key for _, row in found for key in row if "/" in key))
    measures = measures_of(keys, args.metrics)
    by_name = {cell.name: cell for cell in cells}
    for run, row in found:
        for key, value in numbers(row).items():
            by_name[run.row.name].values.setdefault(key, []).append(value)
    lines = summary_rows(cells, measures)
    name = "sweep" if split == "val" else f"sweep_{split}"
    devices = " and ".join(sorted({cell.cost.device for cell in cells}))
    about = f"{Path(args.config).name}, {'validation' if split == 'val' else 'test'} set"
    text = "\n\n".join(
        [
            f"{about}: mean ± standard deviation over seeds. Latency: median forward pass of one "
            f"picture ({devices}).",
            markdown(lines, measures),
            f"```bash\n{command_line(a for a in args.command_line if a != '--report')}\n```",
        ]
    )
    write_table(folder / f"{name}.csv", lines, option="--out-dir")
    with atomic_write(folder / f"{name}.md", "--out-dir") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    with atomic_write(folder / f"{name}.png", "--out-dir") as partial:
        save_sweep(str(partial), cells, measures, f"{about}, latency on {devices}")
    print(f"{text}\n\nwritten to {folder / name}.csv, .md, .png")
