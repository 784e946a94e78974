"""Generators of one step and of few, beside a flow of many: how good they are, and how fast.

    python -m experiments.few_step configs/few_step.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

Networks of one size are trained for equal seconds on a law of the plane: the field of a flow
(flow matching, and reflow of it), flow maps (mean flow, shortcut, consistency, distillation of the
field), and generators by descent (of the Sinkhorn divergence for several epsilons, by drifting for
several bandwidths, of the energy distance). Each is sampled by 1, 2, 4, 8 and 100 evaluations where
it can be, and judged by the energy distance to fresh points, beside the floor, that between two
fresh samples.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `metrics.jsonl` (every row),
`samples.png` (the same noise by every method and number of evaluations), `training.png` (batches
of a generator on their way) and `summary.json`. Seconds of training leave compiling out; that of
the field which reflow and distillation start from is not counted again.
"""

from experiments.few_step.run import Config, run, show
from experiments.harness.main import main

if __name__ == "__main__":
    main("few_step", __doc__, Config, run, show)
