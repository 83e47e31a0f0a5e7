"""``python -m trn_plugin`` runs ``trn-plugin``."""

from trn_plugin.cli import main

if __name__ == "__main__":
    main()
