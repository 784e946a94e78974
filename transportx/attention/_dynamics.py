"""Tokens in motion: depth as time, layers as Euler steps."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status
from transportx.attention._attention import Attention, token_weights
from transportx.attention._sphere import normalise, tangent, units
from transportx.evolution import Evolution, Steps, as_steps, check_times, integrate, time_dtype

Tokens = Float[Array, "n d"]


@_checks.gate
class TokenField(eqx.Module):
    r"""Velocity of all tokens at once: $\dot x_i = P_{x_i}(\Gamma[\alpha](x_i) + p(x_i) - c\,x_i)$.

    A field `field(t, x, args)` whose one example is a set of tokens (n, d), and whose args
    are their weights, so that everything in `sampling` takes it. On the sphere P is the
    projection onto the tangent, evaluated at x / |x| and scaled by |x|: norms are constant
    in depth, and an Euler step is x + h P(...) on unit tokens, renormalised: a residual
    layer with layer norm.

    Attributes:
        attention: Anything called with (x, y, weights), most often `Attention`.
        pointwise: p, the MLP of a transformer; acts on one token. Nothing by default.
        decay: c; 1 with `L2` and identity matrices is mean shift.
        sphere: Whether tokens are confined to the unit sphere.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> field = tx.attention.TokenField(attention, sphere=True)
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> velocity = field(jnp.array(0.0), x)
        >>> bool(jnp.allclose(jnp.sum(velocity * x, axis=1), 0.0, atol=1e-6))  # tangent
        True
    """

    attention: Callable[..., Array]
    pointwise: Callable[[Array], Array] | None = None
    decay: ScalarLike = 0.0
    sphere: bool = eqx.field(static=True, default=False)

    @_checks.gate
    def __call__(
        self, t: Float[Array, ""], x: Tokens, args: Float[Array, " n"] | None = None
    ) -> Tokens:
        """Velocities of a set of tokens.

        Args:
            t: Depth; the field does not depend on it.
            x: Tokens, shape (n, d).
            args: Their masses, shape (n,); uniform by default.
        """
        if not self.sphere:
            return self._free(x, args)
        unit = units(x, token_weights(x, args))
        norms = jnp.sum(unit * x, axis=1, keepdims=True)
        return norms * tangent(unit, self._free(unit, args))

    @_checks.gate
    def retract(
        self, x: Float[Array, "*k n d"], weights: Float[Array, " n"] | None = None
    ) -> Float[Array, "*k n d"]:
        """Tokens returned to the sphere, normalised; unchanged if the field is not on a sphere.

        Args:
            x: Tokens, shape (n, d), or several records of them.
            weights: Their masses, shape (n,). A token at the origin stays there if its weight is
                zero, and is NaN if it is not, or by default.
        """
        if not self.sphere:
            return x
        return normalise(x) if weights is None else units(x, weights)

    def _free(self, x: Tokens, weights) -> Tokens:
        velocity = self.attention(x, x, weights)
        _checks.velocity(velocity, x)
        velocity = velocity - jnp.asarray(self.decay, x.dtype) * x
        return velocity if self.pointwise is None else velocity + jax.vmap(self.pointwise)(x)


@_checks.gate
class TokenPath(eqx.Module):
    """Tokens that a field carried through depth, with the status of the integration.

    Attributes:
        tokens: Tokens at the last depth, shape (n, d); or at the recorded ones, shape (k, n, d).
            NaN from where it failed, as at a blow-up.
        num_steps: Number of steps, rejected ones included.
        status: `COMPLETED`, `MAX_STEPS` or `NON_FINITE`.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> path = tx.attention.token_path(attention, jnp.eye(2), depth=1.0, steps=4)
        >>> bool(path.completed), int(path.num_steps)
        (True, 4)
    """

    tokens: Float[Array, "*k n d"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether the last depth was reached with finite tokens."""
        return self.status == Status.COMPLETED


@_checks.gate
def evolve(
    field: TokenField | Attention,
    tokens: Tokens,
    weights: Float[Array, " n"] | None = None,
    *,
    depth: ScalarLike,
    steps: Steps = 100,
    depths: Float[Array, " k"] | None = None,
) -> Float[Array, "*k n d"]:
    """Carry a set of tokens through a field in depth; batch with `vmap`.

    With an int for `steps` this is a transformer of that many layers of shared weights and
    residual scale depth / steps.

    Args:
        field: Velocity of all tokens; an `Attention` is one in R^d.
        tokens: Tokens at depth 0, shape (n, d); on the sphere they are normalised first.
        weights: Their masses, shape (n,); uniform by default.
        depth: Final depth, positive; may be traced.
        steps: An int for that many equal Euler steps; `evolution.FixedSteps` for another solver; or
            `evolution.AdaptiveSteps`, which the whole set shares.
        depths: Depths to record, shape (k,), rising within 0 and `depth`; between steps they are
            interpolated by the solver.

    Returns:
        Tokens at `depth`; or, given `depths`, of shape (k, n, d). NaN where it failed:
        `token_path` says why.

    Raises:
        ValueError: Arrays do not fit the attention, `depth` is a Python number that is not
            positive, or depths are out of order.

    Differentiation:
        With respect to tokens, weights, depth and all matrices: forward and reverse mode with
        fixed steps, the mode that they name with adaptive ones.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> tx.attention.evolve(attention, jnp.eye(2), depth=1.0, steps=4).shape
        (2, 2)
    """
    return token_path(field, tokens, weights, depth=depth, steps=steps, depths=depths).tokens


@_checks.gate
def token_path(
    field: TokenField | Attention,
    tokens: Tokens,
    weights: Float[Array, " n"] | None = None,
    *,
    depth: ScalarLike,
    steps: Steps = 100,
    depths: Float[Array, " k"] | None = None,
) -> TokenPath:
    """Carry a set of tokens through a field in depth, and say how that ended.

    Args:
        field: Velocity of all tokens; an `Attention` is one in R^d.
        tokens: Tokens at depth 0, shape (n, d); on the sphere they are normalised first.
        weights: Their masses, shape (n,); uniform by default.
        depth: Final depth, positive; may be traced.
        steps: An int for that many equal Euler steps; `evolution.FixedSteps` for another solver; or
            `evolution.AdaptiveSteps`, which the whole set shares.
        depths: Depths to record, shape (k,), rising within 0 and `depth`; between steps they are
            interpolated by the solver.

    Returns:
        The tokens that `evolve` returns, with a status and the number of steps.

    Raises:
        ValueError: Arrays do not fit the attention, `depth` is a Python number that is not
            positive, or depths are out of order.

    Differentiation:
        With respect to tokens, weights, depth and all matrices: forward and reverse mode with
        fixed steps, the mode that they name with adaptive ones.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> depths = jnp.array([0.0, 0.5, 1.0])
        >>> path = tx.attention.token_path(attention, jnp.eye(2), depth=1.0, steps=4, depths=depths)
        >>> path.tokens.shape, tx.Status[path.status][:28]
        ((3, 2, 2), 'The last time was reached, f')
    """
    _checks.points("tokens", tokens)
    _checks.positive("depth", depth)
    field = TokenField(field) if isinstance(field, Attention) else field
    if weights is not None:
        _checks.same_size("weights", weights, "tokens", tokens)
    if depths is not None:
        check_times("depths", depths, 0.0, depth)
    length = _numbers.not_negative(depth, time_dtype(tokens))
    made = _carry(field, tokens, weights, length, as_steps(steps), depths)
    return TokenPath(made.states, made.num_steps, made.status)


@eqx.filter_jit
def _carry(field, tokens, weights, depth, steps, depths) -> Evolution:
    def rates(t, x, weights):
        return field(t, x, weights)

    start = field.retract(tokens, weights)
    made = integrate(rates, start, weights, t1=depth, steps=steps, times=depths)
    return Evolution(field.retract(made.states, weights), made.num_steps, made.status)
