"""Train one row of a table and measure it on the table's sets, in one process.

tools/reproduce.py starts this script.

Example:
    python tools/reproduction/training.py configs/mtfl/mtl-fast_resnet18_mtfl.py --out mtl.json
"""

from reproduction import scarce_data  # noqa: F401, registers its classes
from trn_plugin.cli.running import start
from trn_plugin.experiments.training import add_arguments, main

if __name__ == "__main__":
    start(__doc__, add_arguments, main)
