"""`python -m experiments.train`."""

from experiments.harness.command import exit_cleanly
from experiments.train.run import main

if __name__ == "__main__":
    exit_cleanly(main)
