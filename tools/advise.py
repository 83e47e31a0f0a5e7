"""Measure how related tasks are at each stage of the backbone: `trn-plugin advise`."""

import sys

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["advise", *sys.argv[1:]])
