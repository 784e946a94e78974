"""How large and how fast are particle flows? Beside loops by hand, torch and GeomLoss.

    python -m experiments.speed_gradient_flows [--cells SVGD MMD ...] [--num 50000] [--dim 16]
        [--steps 2] [--small 2000] [--small-steps 20] [--rounds 7] [--smoke] [--out FILE.json]

Cells: SVGD; the flows of the squared MMD of a Gaussian kernel, of the energy distance and of
the Sinkhorn divergence. First with `num` particles and as many of the target, streamed: the
time of an evaluation of the velocity, of which a run has one an Euler step and one for each
of the two records, the memory that XLA plans and the peak of this process so far.

Then with `small` particles beside loops by hand, which hold all pairs and take the derivatives
on paper: in JAX one compiled scan, in torch an eager loop without a graph. All are in float32
and run in turn in this process; ratios are taken within a round. Errors are distances to the
same steps in float64, over the distance that particles travel. For the Sinkhorn divergence,
of a fifth of the steps, each entrant's knob is turned up until the error is below 1e-3, or to
its end. Our times include our records, of energy and dissipation at both ends; others take
none. Needs the extra `peers`.
"""

import functools

from experiments.harness.command import exit_cleanly
from experiments.speed_gradient_flows.run import main

if __name__ == "__main__":
    exit_cleanly(functools.partial(main, __doc__))
