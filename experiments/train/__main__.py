"""Train, sample and judge a flow-matching model.

    python -m experiments.train configs/digits.toml [--set section.key=value ...]
        [--out DIR] [--resume] [--smoke]
        [--coordinator HOST:PORT --processes N --process I]

Shows a progress bar with loss and speed. Writes to the run folder (`runs/NAME`): the
resolved `config.toml`, `metrics.jsonl`, checkpoints, pictures, and `summary.json` with
every figure, its sampling floor, versions and device. A run killed at any moment goes on
with `--resume` to the same bits. SIGTERM, as clouds send before they take a machine away,
saves a checkpoint after the steps in hand and ends with exit code 143; during the report it
ends with 2, and `--resume` reports anew.

`--set training.devices=8` shares every batch among eight devices. Several processes run
the same command, with `--process` from 0, a shared run folder, and `training.devices` all
that they have together; on a TPU slice `--coordinator auto` says the rest. Images lie over the
devices, a share on each, from which it draws its share of every batch: no process loads
anything between steps. As many are left out as the devices do not divide.
"""

import functools

from experiments.harness.command import exit_cleanly
from experiments.train.run import main

if __name__ == "__main__":
    exit_cleanly(functools.partial(main, __doc__))
