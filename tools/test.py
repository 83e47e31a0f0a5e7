"""Measure a checkpoint or an exported file: `trn-plugin test`."""

import sys

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["test", *sys.argv[1:]])
