"""`python -m experiments.speed_gradient_flows`."""

from experiments.harness.command import exit_cleanly
from experiments.speed_gradient_flows.run import main

if __name__ == "__main__":
    exit_cleanly(main)
