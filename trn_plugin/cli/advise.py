"""Measure how related the tasks are at each stage of the backbone, with two short trainings.

The first shares all stages and measures the cosine of the tasks' gradients at each stage. The
second shares nothing and measures tau of the tasks' features at each stage. Both are printed with
tau of the labels and of the predictions. The command suggests no cut; trn-plugin sweep compares
cuts by training.

Example:
    trn-plugin advise trn_plugin::toy/mtl_test-resnet_toy.py --epochs 2 --out-dir advice
    trn-plugin advise trn_plugin::mtfl/mtl-fast_resnet18_mtfl.py --steps 500
"""

import tempfile
from pathlib import Path

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.experiments import advice_report
from trn_plugin.experiments.advice import measure
from trn_plugin.files import atomic_write, write_table

NO_SUGGESTION = (
    "No cut is suggested: on MTFL, a cut chosen from these cosines was no better than sharing all "
    "but the last stage. trn-plugin sweep compares cuts by training."
)


def add_arguments(parser):
    add_config_arguments(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=positive_int,
        metavar="K",
        help="epochs of each training; default: a tenth of the config's",
    )
    length.add_argument("--steps", type=positive_int, metavar="N", help="steps, instead of epochs")
    parser.add_argument("--out-dir", metavar="D", help="write a CSV file, a plot and the logs here")


def main(args):
    config = load_config(args.config, args.cfg_options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.out_dir or scratch)
        findings = measure(config, folder, args.epochs, args.steps)
    rows = advice_report.findings_rows(findings)
    print(advice_report.findings_table(rows))
    notes = advice_report.undefined_taus(findings)
    notes += advice_report.sentences(findings.stages, findings.cosines)
    print(*notes, NO_SUGGESTION, sep="\n")
    if args.out_dir:
        write_table(folder / "advice.csv", rows, option="--out-dir")
        with atomic_write(folder / "advice.png", "--out-dir") as partial:
            advice_report.save_findings(str(partial), findings, Path(args.config).name)
        print(f"written to {folder}/advice.csv, advice.png")
