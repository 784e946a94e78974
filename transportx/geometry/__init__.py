"""What moving costs: costs between points, and the clouds or matrices they are taken on.

A *cost* says what it takes to move one point to another. A *geometry* is all the costs
between two weighted sets: `CostMatrix` holds them, `PointCloud` computes them, in tiles
where they would not fit, and those of a `ShardedCloud` lie over many devices;
`cloud_between` makes either cloud. A *kernel* is exp((f_i + g_j - C_ij) / epsilon) as a
linear operator. Algorithms see only products with kernels and
`AbstractGeometry.fold_tiles`, a reduction over targets by a *merge*, so dense, streamed and
sharded problems are the same call. What needs rows of costs whole takes `map_tiles`.

To add a cost, subclass `AbstractPointwiseCost` and write `__call__`, or pass any callable
`cost(x, y) -> scalar` to `PointCloud`.
"""

from transportx.geometry._costs import AbstractCost as AbstractCost
from transportx.geometry._costs import AbstractPointwiseCost as AbstractPointwiseCost
from transportx.geometry._costs import Cosine as Cosine
from transportx.geometry._costs import Dot as Dot
from transportx.geometry._costs import Euclidean as Euclidean
from transportx.geometry._costs import Geodesic as Geodesic
from transportx.geometry._costs import PNorm as PNorm
from transportx.geometry._costs import Pointwise as Pointwise
from transportx.geometry._costs import SquaredEuclidean as SquaredEuclidean
from transportx.geometry._costs import Swapped as Swapped
from transportx.geometry._geometries import AbstractCloud as AbstractCloud
from transportx.geometry._geometries import AbstractGeometry as AbstractGeometry
from transportx.geometry._geometries import CostMatrix as CostMatrix
from transportx.geometry._geometries import PointCloud as PointCloud
from transportx.geometry._layout import Layout as Layout
from transportx.geometry._sharded import ShardedCloud as ShardedCloud
from transportx.geometry._sharded import cloud_between as cloud_between
