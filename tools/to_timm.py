"""Write one task's path as the weights of a timm model: `trn-plugin to-timm`."""

import sys

from trn_plugin.cli import main

if __name__ == "__main__":
    main(["to-timm", *sys.argv[1:]])
