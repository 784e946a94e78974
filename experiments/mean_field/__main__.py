"""What networks look like as measures over neurons, in three pictures.

    python -m experiments.mean_field configs/mean_field.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

Students of a teacher network turn to its directions, in the plane where one sees it and beyond;
by the Wasserstein flow, with birth and death of neurons, and by SGD on the same clock. Networks
of growing width approach one limit, which linear neurons have in closed form.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `metrics.jsonl` (risk and
dissipation of every record), `neurons.png`, `descent.png`, `width.png` and `summary.json`.
"""

from experiments.harness.main import main
from experiments.mean_field.run import Config, run, show

if __name__ == "__main__":
    main("mean_field", __doc__, Config, run, show)
