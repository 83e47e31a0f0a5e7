"""Measure by a short training where tasks should part: `trn-plugin advise`."""

import sys

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["advise", *sys.argv[1:]])
