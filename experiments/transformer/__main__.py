"""A small transformer on real digits, with softmax and with Sinkhorn attention, read as a flow.

    python -m experiments.transformer configs/transformer.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

Trains both on patches of 8 x 8 digits as tokens, with the same settings and a few seeds, and
compares their accuracy and their time. Then reads each layer as a step of a flow of measures:
the tokens' ways, their interaction energy and clusters along depth, and how far attention is
from a gradient.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `metrics.jsonl` (losses of
every run), `training.png`, `tokens.png`, `depth.png`, `shares.png` and `summary.json`.
"""

from experiments.harness.main import main
from experiments.transformer.run import Config, run, show

if __name__ == "__main__":
    main("transformer", __doc__, Config, run, show)
