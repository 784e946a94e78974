r"""Density control of linear systems between Gaussian measures, and transport by value functions.

A `LinearSystem` is $x_{k+1} = A_k x_k + B_k u_k + w_k$, without limits on its controls. `steer`
takes it from one `GaussianMeasure` to another; penalties decide how tightly each is held, and so
how much mass is steered. The answer, a `Steering`, holds an `AffinePolicy`, the moments at every
step, and a status; `simulate` moves a weighted swarm by it. Steps are counted by k, and times by
k + 1, both ends included.

Where every step may go anywhere, at the cost H |x' - x|^2 of each of H, a process is known by
value functions: `value_transport` between finite sets, `gaussian_values` in closed form;
`descend` follows their gradients from samples of the source to samples of the target.

A new solver is a subclass of `AbstractSteeringSolver`, which makes a `Steering` of a
`SteeringProblem`. Tests compare it with `DualNewton` and `Conic`.

Example:
    >>> system = tx.control.constant_system(jnp.eye(1), jnp.eye(1), jnp.zeros((1, 1)), steps=2)
    >>> narrow = tx.control.GaussianMeasure(1.0, jnp.zeros(1), jnp.eye(1))
    >>> wide = tx.control.GaussianMeasure(1.0, jnp.zeros(1), 4 * jnp.eye(1))
    >>> steering = tx.control.steer(system, jnp.eye(1), narrow, wide)
    >>> round(float(steering.value), 3)  # (2 - 1)^2 / 2
    0.5
"""

from transportx.control._answer import AffinePolicy as AffinePolicy
from transportx.control._answer import Steering as Steering
from transportx.control._conic import Conic as Conic
from transportx.control._gaussian_values import GaussianValues as GaussianValues
from transportx.control._gaussian_values import descend as descend
from transportx.control._gaussian_values import gaussian_values as gaussian_values
from transportx.control._problem import SteeringProblem as SteeringProblem
from transportx.control._simulate import Swarm as Swarm
from transportx.control._simulate import simulate as simulate
from transportx.control._solver import AbstractSteeringSolver as AbstractSteeringSolver
from transportx.control._solver import DualNewton as DualNewton
from transportx.control._steer import steer as steer
from transportx.control._systems import GaussianMeasure as GaussianMeasure
from transportx.control._systems import LinearSystem as LinearSystem
from transportx.control._systems import constant_system as constant_system
from transportx.control._values import ValueTransport as ValueTransport
from transportx.control._values import value_transport as value_transport
