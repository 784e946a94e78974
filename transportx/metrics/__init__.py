"""Distances between clouds of samples, and how far and straight the paths of a field are.

A cloud is an array (n, d) of n samples with equal weights; `wasserstein2` takes others too.
Distances between clouds have a sampling floor: the value that they take, on average, between
two fresh samples of one law, which is not zero. Each docstring says how large it is; print the
floor, the same distance between two samples of the target, beside any figure.

To add a metric, write a function of clouds or of a field, and state its floor.

Example:
    >>> x, y = jr.normal(jr.key(0), (8, 2)), jr.normal(jr.key(1), (8, 2))
    >>> far = tx.metrics.energy_distance(x, y + 5.0)
    >>> bool(far > tx.metrics.energy_distance(x, y))
    True
"""

from transportx.metrics._distances import energy_distance as energy_distance
from transportx.metrics._distances import mmd as mmd
from transportx.metrics._distances import wasserstein2 as wasserstein2
from transportx.metrics._paths import normalized_path_energy as normalized_path_energy
from transportx.metrics._paths import path_energy as path_energy
from transportx.metrics._paths import straightness as straightness
from transportx.ot import sliced_wasserstein as sliced_wasserstein
