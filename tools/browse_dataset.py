"""Draw the samples that training sees: `trn-plugin browse`."""

import sys

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["browse", *sys.argv[1:]])
