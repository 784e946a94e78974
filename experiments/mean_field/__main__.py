"""`python -m experiments.mean_field`."""

from experiments.harness.command import exit_cleanly
from experiments.mean_field.run import main

if __name__ == "__main__":
    exit_cleanly(main)
