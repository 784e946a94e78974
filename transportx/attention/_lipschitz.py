"""Lipschitz constants: bounds for softmax attention on a ball, and local ones at a point."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx._status import Status, judge
from transportx.attention._attention import Attention
from transportx.attention._softmax import Softmax

Scalar = Float[Array, ""]
Points = Float[Array, "*n d"]


@_checks.gate
def field_lipschitz_bound(attention: Attention, *, radius: ScalarLike) -> Scalar:
    r"""Lipschitz bound of x -> Gamma[alpha](x), at every x, of every alpha on a ball about 0.

    With $A_h = K_h^\top Q_h/\tau$ and p the softmax weights at x, the Jacobian is
    $\sum_h V_h \mathrm{Cov}_p(y) A_h$, and no law on a ball of radius R has a variance above
    R^2: the bound is $\sum_h \|V_h\| \|A_h\| R^2$. Two tokens at $\pm R e$ attain it.

    Args:
        attention: Attention with `Softmax`; causal or not.
        radius: R, not negative, of the ball that the context's tokens are in.

    Raises:
        ValueError: The mixing is not `Softmax`, or `radius` is a negative Python number.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> round(float(tx.attention.field_lipschitz_bound(attention, radius=2.0)), 2)
        4.0
    """
    values, steepness = _norms(attention, radius)
    return jnp.sum(values * steepness)


@_checks.gate
def lipschitz_bound(
    attention: Attention, *, radius: ScalarLike, num_tokens: ScalarLike = jnp.inf
) -> Scalar:
    r"""Lipschitz bound of self-attention x -> Gamma[x](x) of n tokens of equal weight on a ball.

    The norm is the Euclidean norm of all tokens at once. With $a_h = \|A_h\| R^2$ of
    `field_lipschitz_bound` it is

    $$\sum_h \|V_h\| \big((1 + a_h)\sqrt{c_h} + a_h\big), \qquad c_h = \min(n, e^{2 a_h}).$$

    Proof: row i of the differential is $V(\sum_j p_{ij}\,dx_j + \sum_j p_{ij}(x_j - m_i)
    \langle A x_i, dx_j\rangle + C_i A\,dx_i)$ with m, C mean and covariance under p_i. By
    Cauchy and Schwarz the first two are at most $(1 + a)(\sum_j p_{ij}|dx_j|^2)^{1/2}$, the third
    at most $a\,|dx_i|$; and a column of p sums to at most n, and to at most $e^{2a}$, as no
    p_ij exceeds $e^{2a}/n$ (not so where causal: there c = n).

    The order $\sqrt n$ is attained where all tokens look at one. For n infinite this bounds
    the constant in W2 of attention as a map of measures; it is infinite if causal.

    Args:
        attention: Attention with `Softmax`; causal or not.
        radius: R, not negative, of the ball that the tokens are in.
        num_tokens: n, positive; infinity, the default, bounds every number.

    Raises:
        ValueError: The mixing is not `Softmax`, `radius` is a negative Python number, or
            `num_tokens` is not positive.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> bound = tx.attention.lipschitz_bound(attention, radius=1.0, num_tokens=1)
        >>> round(float(bound), 2)  # (1 + a) sqrt(1) + a with a = 1
        3.0

    References:
        Castin, Ablin and Peyre, How smooth is attention?, 2024: both regimes, sqrt(n) and
        independent of n, with matching lower bounds; the constants here are by the proof
        above.
    """
    _checks.positive("num_tokens", num_tokens)
    values, steepness = _norms(attention, radius)
    most = jnp.asarray(num_tokens, values.dtype)
    most = jnp.where(most > 0, most, jnp.nan)
    causal = isinstance(attention.mixing, Softmax) and attention.mixing.causal
    crowd = most if causal else jnp.minimum(most, jnp.exp(2 * steepness))
    return jnp.sum(values * ((1 + steepness) * jnp.sqrt(crowd) + steepness))


def _norms(attention: Attention, radius: ScalarLike) -> tuple[Array, Array]:
    """Head by head, the norm of V and that of A times R^2."""
    mixing = attention.mixing
    if not isinstance(mixing, Softmax):
        problem = f"is {type(mixing).__name__}, for which no bound is known here"
        _checks.reject("attention.mixing", problem, "give Softmax")

    def norm(matrix):
        return jnp.linalg.norm(matrix, ord=2)

    dtype = attention.value.dtype
    size = _checks.not_negative_value("radius", radius, dtype)
    scale = size**2 / _checks.positive_value("temperature", mixing.temperature, dtype)
    scores = jax.vmap(lambda query, key: norm(key.T @ query))(attention.query, attention.key)
    return jax.vmap(norm)(attention.value), scale * scores


@_checks.gate
class Stretch(eqx.Module):
    """Local Lipschitz constant of a function: a singular value of its Jacobian J, with a residual.

    Attributes:
        value: |J v|: never above the largest singular value, but for rounding.
        direction: v, of norm one, in the shape of the point.
        residual: |J^T J v - value^2 v| / value^2: the square of some singular value is that
            close to value^2, relative to it; from a random start, of the largest.
        num_steps: Number of products with J and with its transpose.
        status: How the iteration ended.

    Example:
        >>> stretch = tx.attention.local_lipschitz(lambda x: 3 * x, jnp.ones(2), key=jr.key(0))
        >>> bool(stretch.converged)
        True
    """

    value: Scalar
    direction: Points
    residual: Scalar
    num_steps: Int[Array, ""]
    status: Status

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the residual meets the tolerance."""
        return self.status == Status.CONVERGED


@_checks.gate
def local_lipschitz(
    function: Callable[[Points], Array],
    x: Points,
    *,
    key: PRNGKeyArray,
    tol: ScalarLike = 1e-3,
    max_steps: int = 1000,
) -> Stretch:
    """Local Lipschitz constant of a function at a point, by power iteration on J^T J.

    One jvp and one vjp per step, in the memory of the function; steps grow like the inverse
    of the relative gap between the two largest singular values.

    Args:
        function: Function of one array, such as tokens (n, d); returns an array.
        x: Point at which J is taken, an array of that shape.
        key: Randomness of the first direction.
        tol: Bound on the residual, positive; the error of `value` is of its square where the
            largest singular value stands apart.
        max_steps: Largest number of steps.

    Raises:
        ValueError: `x` is not real, or `tol` or `max_steps` not positive.

    Differentiation:
        `value`, once, with respect to x and the arrays of `function`: the direction is a
        constant, which is exact where it has converged to a simple singular value.

    Example:
        >>> stretch = tx.attention.local_lipschitz(lambda x: 3 * x, jnp.ones(2), key=jr.key(0))
        >>> round(float(stretch.value), 2)
        3.0
    """
    _checks.floating("x", x)
    _checks.positive("tol", tol)
    _checks.count("max_steps", max_steps)
    return _local_lipschitz(function, x, key, jnp.asarray(tol, x.dtype), max_steps)


@eqx.filter_jit
def _local_lipschitz(function, x, key, most, max_steps) -> Stretch:
    frozen, fixed = _held_fixed(function, x), jax.lax.stop_gradient(x)

    def step(state):
        _, image, _, taken = state
        v = image / jnp.linalg.norm(image)
        pushed = jax.jvp(frozen, (fixed,), (v,))[1]
        image = jax.vjp(frozen, fixed)[1](pushed)[0]
        square = jnp.sum(pushed**2)
        flat = square == 0
        residual = jnp.linalg.norm(image - square * v) / jnp.where(flat, 1, square)
        return v, jnp.where(flat, v, image), residual, taken + 1

    def goes_on(state):
        # A residual that is not a number ends the loop.
        return (state[2] > most) & (state[3] < max_steps)

    noise = jr.normal(key, x.shape, x.dtype)
    start = noise, noise, jnp.full((), jnp.inf, x.dtype), jnp.zeros((), int)
    v, _, residual, taken = jax.lax.while_loop(goes_on, step, start)
    value = jnp.linalg.norm(jax.jvp(function, (x,), (v,))[1])
    status = judge(
        (~jnp.isfinite(residual + value), Status.NON_FINITE),
        (residual <= most, Status.CONVERGED),
        otherwise=Status.MAX_STEPS,
    )
    value = jnp.where(status == Status.NON_FINITE, jnp.nan, value)
    return Stretch(value, v, residual, taken, status)


def _held_fixed(function: Callable[[Points], Array], x: Points) -> Callable[[Points], Array]:
    """The function without derivatives in what it holds, so that no loop carries them."""
    arrays, others = eqx.partition(eqx.filter_closure_convert(function, x), eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), others)
