"""Measure how related tasks are: `trn-plugin similarity`."""

import sys

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["similarity", *sys.argv[1:]])
