"""Value functions between Gaussians in closed form, and descent in sample space along values."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transportx import _checks
from transportx._precision import single_inside
from transportx.gaussians import transport_map

Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
class GaussianValues(eqx.Module):
    r"""Value functions of transport between two Gaussians in H steps of cost H |x' - x|^2.

    With the matrix T of the optimal map, $T_h = (1 - h/H) I + (h/H) T$, $m_h = (1 - h/H) m_0 +
    (h/H) m_1$ and $z = x - m_h$, $V_h(x) = (1 - h/H) |m_1 - m_0|^2 + 2\langle m_0 - m_1, z\rangle
    + \langle z, (I - T) T_h^{-1} z\rangle$. A step $x - \nabla V_h(x) / (2 H)$ moves along the
    displacement interpolation.

    Attributes:
        m0: Source mean, shape (d,).
        m1: Target mean, shape (d,).
        matrix: T, shape (d, d), symmetric.
        num_steps: H.

    Example:
        >>> values = tx.control.GaussianValues(jnp.zeros(1), jnp.ones(1), jnp.eye(1), 4)
        >>> float(values(jnp.array(4), jnp.ones(1)))  # nothing is left to pay at the target's mean
        0.0
    """

    m0: Point
    m1: Point
    matrix: Matrix
    num_steps: int = eqx.field(static=True)

    def __check_init__(self):
        _checks.count("num_steps", self.num_steps)

    @_checks.gate
    def __call__(self, step: Int[Array, ""], x: Point) -> Scalar:
        """V_h at one point, for a step h from 0 to H; NaN outside.

        Args:
            step: h.
            x: Point, shape (d,).
        """
        _checks.same_shape("x", x, "m0", self.m0)
        inside = (step >= 0) & (step <= self.num_steps)
        t = jnp.where(inside, step.astype(x.dtype), jnp.nan) / self.num_steps
        identity = jnp.eye(x.size, dtype=x.dtype)
        z = x - (1 - t) * self.m0 - t * self.m1
        apart = self.m0 - self.m1
        earlier = jnp.linalg.solve((1 - t) * identity + t * self.matrix, z)
        curved = z @ (earlier - self.matrix @ earlier)
        return (1 - t) * apart @ apart + 2 * apart @ z + curved


@_checks.gate
@single_inside
def gaussian_values(m0: Point, S0: Matrix, m1: Point, S1: Matrix, *, steps: int) -> GaussianValues:
    """Value functions of transport from N(m0, S0) to N(m1, S1), in closed form.

    The mean of V_0 under the source, less that of V_H under the target, is W2^2 between them.

    Args:
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d), positive definite.
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d), positive definite.
        steps: H, at least 1.

    Returns:
        Values, as ``values(h, x)``; NaN where a matrix is no covariance.

    Raises:
        ValueError: Shapes disagree, or `steps` is not a positive integer.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> values = tx.control.gaussian_values(m0, S0, m1, S1, steps=5)
        >>> round(float(values(jnp.array(0), m0)), 3)  # |m1 - m0|^2
        25.0

    References:
        Generative Modeling by Value-Driven Transport, arXiv:2605.22507, 2026.
    """
    _checks.count("steps", steps)
    return GaussianValues(m0, m1, transport_map(m0, S0, m1, S1).matrix, steps)


@_checks.gate
@single_inside
def descend(
    value: Callable[[Int[Array, ""], Array], Array], x0: Float[Array, "n d"], *, steps: int
) -> Float[Array, "times n d"]:
    r"""Samples by H steps of descent along value functions, $x_{h+1} = x_h - \nabla V_h / (2 H)$.

    That is the minimiser of $H |x' - x_h|^2 + V_{h+1}(x')$ where $V_h$ is the optimal value.

    Args:
        value: V, `value(h, x) -> scalar` of a step, an integer array from 0, and one point.
        x0: Samples of the source, shape (n, d).
        steps: H, at least 1.

    Returns:
        Samples at every step, shape (H + 1, n, d).

    Raises:
        ValueError: `steps` is not a positive integer, or `value` does not return one number.

    Differentiation:
        In `x0`, and in the arrays of `value`, forward and reverse.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> values = tx.control.gaussian_values(m0, S0, m1, S1, steps=5)
        >>> path = tx.control.descend(values, jnp.array([[1.0, 0.0]]), steps=5)
        >>> np.asarray(path[-1]).round(3).tolist()  # m1 + 2 x
        [[5.0, 4.0]]
    """
    _checks.count("steps", steps)
    _checks.number("value", jax.eval_shape(value, jnp.array(0), x0[0]))
    return _descend(value, x0, steps)


@eqx.filter_jit
def _descend(value, x0, steps):
    def step(x, h):
        slopes = jax.vmap(jax.grad(value, argnums=1), (None, 0))(h, x)
        after = x - slopes / (2 * steps)
        return after, after

    _, later = jax.lax.scan(step, x0, jnp.arange(steps))
    return jnp.concatenate([x0[None], later])
