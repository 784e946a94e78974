"""Particles and densities that descend energies: which reach a target, and how fast.

    python -m experiments.gradient_flows configs/gradient_flows.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

One spot of particles flows onto two moons under the squared MMD (alone, and with birth and
death of weight), the energy distance, sliced W2 and the Sinkhorn divergence. Beside them the
porous medium equation, the flow of its energy, on a grid against Barenblatt's solution; and the
heat and Fokker-Planck equations by cells, by quantiles, and by particles with noise and without.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `metrics.jsonl` (energy,
dissipation and exact W2 of every recorded time), `particles.png`, `energies.png`,
`porous.png`, `line.png` and `summary.json`. W2 to the target stands beside its floor, that
between two samples of the target, and W2 to an exact law beside that of a sample.
"""

from experiments.gradient_flows.run import Config, run, show
from experiments.harness.main import main

if __name__ == "__main__":
    main("gradient_flows", __doc__, Config, run, show)
