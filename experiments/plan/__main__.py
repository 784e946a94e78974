"""`python -m experiments.plan`."""

from experiments.harness.command import exit_cleanly
from experiments.plan.run import main

if __name__ == "__main__":
    exit_cleanly(main)
