"""Export a checkpoint as one ONNX file: `trn-plugin export`."""

import sys

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
