"""`python -m experiments.gradient_flows`."""

from experiments.gradient_flows.run import main
from experiments.harness.command import exit_cleanly

if __name__ == "__main__":
    exit_cleanly(main)
