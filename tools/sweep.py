"""Train a grid of settings with several seeds: `trn-plugin sweep`."""

import sys

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["sweep", *sys.argv[1:]])
