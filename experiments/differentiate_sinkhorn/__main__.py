"""`python -m experiments.differentiate_sinkhorn`."""

from experiments.differentiate_sinkhorn.run import main
from experiments.harness.command import exit_cleanly

if __name__ == "__main__":
    exit_cleanly(main)
