"""What would a training run need on these accelerators? Asked of their compiler, without them.

    python -m experiments.plan configs/digits.toml --topology v5e:2x4 [--set ...] [--largest]

Compiles one training step of the config, coupling included and the batch shared by all
devices, for TPUs ("v5e:2x4", "v5e:16x16", "v6e:2x4", "v5p:2x2x1"; extra `tpu`) or H100s
("h100:8"; extra `h100`). Prints, of one device: parameters; the compiler's own memory figure
against what the device has; FLOPs, bytes of memory traffic and bytes that collectives bring,
counted in the compiled program; and the step's time if the slowest of the three ran at the
data sheet's peak: a bound, not a forecast. Loops of known length are multiplied out. Those
that run until something holds, as a coupling's do, are named and count as one run. Peaks are
of bfloat16: products in float32 take several passes that do not count. `--largest` doubles
the batch until it no longer fits. The step is the one that `experiments.train` takes there
with `--set training.devices=8` (or as many as there are). Exit code 1: it does not fit.
"""

import functools

from experiments.harness.command import exit_cleanly
from experiments.plan.run import main

if __name__ == "__main__":
    exit_cleanly(functools.partial(main, __doc__))
