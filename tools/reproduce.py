"""Train and measure all rows of a table of the paper: see tools/reproduction/main.py."""

from reproduction import main

from trn_plugin.cli.running import start

if __name__ == "__main__":
    start(main.__doc__, main.add_arguments, main.main)
