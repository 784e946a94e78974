"""`python -m experiments.transformer`."""

from experiments.harness.command import exit_cleanly
from experiments.transformer.run import main

if __name__ == "__main__":
    exit_cleanly(main)
