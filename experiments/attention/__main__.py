"""`python -m experiments.attention`."""

from experiments.attention.run import main
from experiments.harness.command import exit_cleanly

if __name__ == "__main__":
    exit_cleanly(main)
