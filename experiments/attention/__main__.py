"""What attention does to a measure of tokens, in five pictures.

    python -m experiments.attention configs/attention.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

Tokens on the circle and on the sphere gather in clusters, which last long before they merge;
how many there are at which depth, for which beta; Gaussian tokens spread until softmax
attention blows them up, and do not in L2 attention; mean shift finds the modes of a mixture.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `metrics.jsonl` (clusters,
energy and order at every recorded depth), `circle.png`, `sphere.png`, `sweep.png`,
`gaussian.png`, `shift.png` and `summary.json`.
"""

from experiments.attention.run import Config, run, show
from experiments.harness.main import main

if __name__ == "__main__":
    main("attention", __doc__, Config, run, show)
