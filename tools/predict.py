"""Run an exported model on pictures or videos: `trn-plugin predict`, without installing it."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
