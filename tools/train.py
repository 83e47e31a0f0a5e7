"""Train a multi-task model from a config: `trn-plugin train`."""

import sys

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
