"""``python -m trn_plugin`` is ``trn-plugin``."""

from trn_plugin.cli import main

if __name__ == "__main__":
    main()
