"""From samples or a field to one number.

Distances between clouds have a sampling floor: two fresh samples of one law are not at
distance zero. Each docstring says how large; print the floor, the same distance between
two samples of the target, beside any figure.

To add a metric, write a function of clouds or of a field, and state its floor.
"""

from transportx.metrics._distances import energy_distance as energy_distance
from transportx.metrics._distances import mmd as mmd
from transportx.metrics._distances import wasserstein2 as wasserstein2
from transportx.metrics._paths import normalized_path_energy as normalized_path_energy
from transportx.metrics._paths import path_energy as path_energy
from transportx.metrics._paths import straightness as straightness
from transportx.ot import sliced_wasserstein as sliced_wasserstein
