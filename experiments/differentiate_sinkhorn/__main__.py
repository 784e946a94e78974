"""What the map and the gradient of entropic transport are good for, on real photographs.

    python -m experiments.differentiate_sinkhorn configs/differentiate_sinkhorn.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

Colour transfer: a plan between a few thousand pixels of two photographs maps every pixel of
the first. Registration: a smooth warp brings one cloud of edge pixels onto another, no two
of them partners, by the gradient of the Sinkhorn divergence, balanced and unbalanced, and
beside them of the energy distance; clean, then with a second object in view.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `metrics.jsonl` (loss and
error of every step), `colour_transfer.png`, `registration.png` and `summary.json`. Errors
are distances to the known truth, in units of half the pagoda's height; `error_floor` is
that of the same family of warps told the partners; `divergence_floor` is taken at the truth.
"""

from experiments.differentiate_sinkhorn.run import Config, run, show
from experiments.harness.main import main

if __name__ == "__main__":
    main("differentiate_sinkhorn", __doc__, Config, run, show)
