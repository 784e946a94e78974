"""Entropic optimal transport between two Gaussians, in closed form."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx._precision import single_inside
from transportx.gaussians._matrices import sqrtm, symmetric
from transportx.gaussians._measures import AffineMap
from transportx.gaussians._transport import check_ends

Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
class Quadratic(eqx.Module):
    """Quadratic function of one point: constant + <linear, z> + <z, matrix z>, z = x - centre.

    Attributes:
        centre: Point from which the argument is measured, shape (d,).
        constant: Value at the centre.
        linear: Gradient at the centre, shape (d,).
        matrix: Half of the Hessian, shape (d, d).

    Example:
        >>> square = tx.gaussians.Quadratic(jnp.ones(2), jnp.array(1.0), jnp.zeros(2), jnp.eye(2))
        >>> float(square(jnp.array([3.0, 1.0])))
        5.0
    """

    centre: Point
    constant: Scalar
    linear: Point
    matrix: Matrix

    @_checks.gate
    def __call__(self, x: Point) -> Scalar:
        """Value at one point."""
        _checks.same_shape("x", x, "centre", self.centre)
        moved = x - self.centre
        return self.constant + self.linear @ moved + moved @ self.matrix @ moved


@_checks.gate
class EntropicGaussianPlan(eqx.Module):
    r"""Optimal entropic plan P between two Gaussians, itself a Gaussian on pairs (x, y).

    $dP(x, y) = \exp((f(x) + g(y) - |x - y|^2) / \varepsilon)\, da(x)\, db(y)$.

    Attributes:
        value: Regularised optimum.
        cross: Cov(x, y) under P, shape (d, d).
        map: The entropic map x -> E[y | x]; given x, y has covariance
            ``epsilon / 2 * map.matrix``.
        f: Source potential, in units of the cost; f at the mean of a is g at that of b.
        g: Target potential, in units of the cost.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> plan = tx.gaussians.entropic_plan(m0, S0, m1, S1, epsilon=1e-3)
        >>> bool(plan.f(m0) == plan.g(m1)), plan.cross.shape
        (True, (2, 2))
    """

    value: Scalar
    cross: Matrix
    map: AffineMap
    f: Quadratic
    g: Quadratic


@_checks.gate
@single_inside
def entropic_plan(
    m0: Point, S0: Matrix, m1: Point, S1: Matrix, *, epsilon: ScalarLike
) -> EntropicGaussianPlan:
    r"""Entropic optimal transport from a = N(m0, S0) to b = N(m1, S1), cost |x - y|^2.

    Minimises $\langle P, |x - y|^2\rangle + \varepsilon\,\mathrm{KL}(P\,\|\,a\otimes b)$ over
    the plans between a and b. With $c = \varepsilon / 4$ the map has the matrix
    $G = S_1^{1/2} ((S_1^{1/2} S_0 S_1^{1/2} + c^2 I)^{1/2} + c I)^{-1} S_1^{1/2}$, the
    positive solution of $G S_0 G + \frac{\varepsilon}{2} G = S_1$, and $\mathrm{Cov}(x, y) =
    S_0 G$. Covariances may be singular. O(d^3).

    Args:
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d).
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d).
        epsilon: Regularisation, in units of the cost.

    Returns:
        The plan, with its value, map and potentials.

    Raises:
        ValueError: Shapes disagree, or `epsilon` is a Python number that is not positive and
            finite. A traced one gives NaN, and so does a matrix that is no covariance.

    Differentiation:
        With respect to all arguments, to any order, where both covariances are positive
        definite.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> plan = tx.gaussians.entropic_plan(m0, S0, m1, S1, epsilon=1e-3)
        >>> plan.map(m0)
        Array([3., 4.], dtype=float32)
        >>> float(plan.map.matrix[0, 0]) < 2.0  # shorter than the optimal map
        True

    References:
        Janati, Muzellec, Peyre and Cuturi, Entropic optimal transport between unbalanced
        Gaussian measures has a closed form, 2020.
        Mallasto, Gerolin and Minh, Entropy-regularized 2-Wasserstein distance between
        Gaussian measures, 2021.
    """
    check_ends(m0, S0, m1, S1)
    epsilon = _checks.positive_value("epsilon", epsilon, m0.dtype)
    root0, root1 = sqrtm(S0), sqrtm(S1)
    forward, penalty = regression(root0, root1, epsilon)
    backward, _ = regression(root1, root0, epsilon)
    apart, cross, identity = m0 - m1, S0 @ forward, jnp.eye(m0.size, dtype=m0.dtype)
    constant = (apart @ apart + penalty) / 2
    return EntropicGaussianPlan(
        value=2 * constant + jnp.trace(S0) + jnp.trace(S1) - 2 * jnp.trace(cross),
        cross=cross,
        map=AffineMap(m0, m1, forward),
        f=Quadratic(m0, constant, 2 * apart, identity - forward),
        g=Quadratic(m1, constant, -2 * apart, identity - backward),
    )


@_checks.gate
@single_inside
def debiased_divergence(
    m0: Point, S0: Matrix, m1: Point, S1: Matrix, *, epsilon: ScalarLike
) -> Scalar:
    """Sinkhorn divergence $V(a, b) - (V(a, a) + V(b, b)) / 2$ between two Gaussians.

    V is the value of `entropic_plan`. The divergence is non-negative and zero, up to
    rounding, at equal laws; it tends to W2^2 as epsilon falls to 0 and to
    |m0 - m1|^2 as epsilon grows. O(d^3).

    Args:
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d).
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d).
        epsilon: Regularisation, in units of the cost |x - y|^2.

    Raises:
        ValueError: Shapes disagree, or `epsilon` is a Python number that is not positive and
            finite. A traced one gives NaN, and so does a matrix that is no covariance.

    Differentiation:
        With respect to all arguments, to any order, where both covariances are positive
        definite.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> round(float(tx.gaussians.debiased_divergence(m0, S0, m1, S0, epsilon=1.0)), 3)
        25.0

    References:
        Janati, Muzellec, Peyre and Cuturi, Entropic optimal transport between unbalanced
        Gaussian measures has a closed form, 2020.
    """
    check_ends(m0, S0, m1, S1)
    epsilon = _checks.positive_value("epsilon", epsilon, m0.dtype)
    root0, root1 = sqrtm(S0), sqrtm(S1)

    def value(left: Matrix, right: Matrix) -> Scalar:
        """Value between centred laws, less the traces of both, which cancel."""
        slope, penalty = regression(left, right, epsilon)
        return penalty - 2 * jnp.trace(left @ slope @ left)

    debiased = value(root0, root1) - (value(root0, root0) + value(root1, root1)) / 2
    return jnp.sum((m0 - m1) ** 2) + debiased


def regression(root0: Matrix, root1: Matrix, epsilon: Scalar) -> tuple[Matrix, Scalar]:
    """Slope of E[y | x] under the entropic plan, and epsilon times its mutual information.

    The arguments are the square roots of both covariances.
    """
    half = root1 @ root0
    shift = epsilon / 4 * jnp.eye(half.shape[0], dtype=half.dtype)
    middle = sqrtm(symmetric(half @ half.T) + shift @ shift) + shift
    slope = symmetric(root1 @ jnp.linalg.solve(middle, root1))
    return slope, epsilon / 2 * jnp.linalg.slogdet(middle / (epsilon / 2))[1]
