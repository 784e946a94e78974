"""Costs of transport: between two points, and between all points of two sets.

A *cost* says what it takes to move one point to another. A *geometry* is all the costs
between n sources and m targets: `CostMatrix` holds them as a matrix, `PointCloud` computes
them, in tiles of rows where the matrix would not fit in memory, and those of a
`ShardedCloud` lie over many devices. `cloud_between` makes the cloud that a `Layout` (devices
and tile) asks for. Algorithms visit a geometry in two ways: `map_tiles` applies a function to
whole rows of costs, `fold_tiles` reduces over the targets block by block. So dense, streamed
and sharded problems are the same call.

Adding a cost: pass any callable `cost(x, y) -> scalar` to `PointCloud`, or subclass
`AbstractPointwiseCost` and write `__call__`.
"""

from transportx.geometry._cost import AbstractCost as AbstractCost
from transportx.geometry._cost import AbstractPointwiseCost as AbstractPointwiseCost
from transportx.geometry._cost import Pointwise as Pointwise
from transportx.geometry._cost import Swapped as Swapped
from transportx.geometry._costs import Cosine as Cosine
from transportx.geometry._costs import Dot as Dot
from transportx.geometry._costs import Euclidean as Euclidean
from transportx.geometry._costs import Geodesic as Geodesic
from transportx.geometry._costs import PNorm as PNorm
from transportx.geometry._costs import SquaredEuclidean as SquaredEuclidean
from transportx.geometry._geometries import AbstractGeometry as AbstractGeometry
from transportx.geometry._geometries import CostMatrix as CostMatrix
from transportx.geometry._layout import Layout as Layout
from transportx.geometry._point_cloud import AbstractCloud as AbstractCloud
from transportx.geometry._point_cloud import PointCloud as PointCloud
from transportx.geometry._sharded import ShardedCloud as ShardedCloud
from transportx.geometry._sharded import cloud_between as cloud_between
