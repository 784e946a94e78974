"""`python -m experiments.learned_energy`."""

from experiments.harness.command import exit_cleanly
from experiments.learned_energy.run import main

if __name__ == "__main__":
    exit_cleanly(main)
