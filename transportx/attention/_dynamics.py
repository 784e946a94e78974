"""Tokens in motion: depth as time, layers as Euler steps."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.attention._attention import Attention, token_weights
from transportx.attention._depth import REVERSE, Stepping, check_depths
from transportx.attention._sphere import normalise, tangent, units

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
        sphere: Whether tokens live on the unit sphere.
    """

    attention: Callable[..., Array]
    pointwise: Callable[[Array], Array] | None = None
    decay: ScalarLike = 0.0
    sphere: bool = eqx.field(static=True, default=False)

    @_checks.gate
    def __call__(
        self, t: Float[Array, ""], x: Tokens, args: Float[Array, " n"] | None = None
    ) -> Tokens:
        """Velocities of tokens `x` of weights `args`."""
        if not self.sphere:
            return self._free(x, args)
        unit = units(x, token_weights(x, args))
        norms = jnp.sum(unit * x, axis=1, keepdims=True)
        return norms * tangent(unit, self._free(unit, args))

    @_checks.gate
    def retract(
        self, x: Float[Array, "*k n d"], weights: Float[Array, " n"] | None = None
    ) -> Float[Array, "*k n d"]:
        """Tokens where they live: normalised on the sphere, as they are elsewhere.

        Args:
            x: Tokens, or several records of them.
            weights: Their masses; a token of weight zero at the origin stays there, and is NaN
                if it has any, or by default.
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
def evolve(
    field: TokenField | Attention,
    tokens: Tokens,
    weights: Float[Array, " n"] | None = None,
    *,
    depth: ScalarLike,
    num_steps: int = 100,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
    depths: Float[Array, " k"] | None = None,
    adjoint: diffrax.AbstractAdjoint = REVERSE,
) -> Float[Array, "*k n d"]:
    """Carry a set of tokens through a field; batch with `vmap`.

    With `num_steps` and the default solver this is a transformer of that many layers of
    shared weights and residual scale depth / num_steps.

    Args:
        field: Velocity of all tokens; an `Attention` is one in R^d.
        tokens: Tokens at depth 0; on the sphere they are normalised first.
        weights: Their masses; uniform by default.
        depth: How far to go; may be traced.
        num_steps: Fixed steps; not used when tolerances are given.
        solver: Any diffrax solver; by default Euler at equal steps, Tsit5 when adaptive.
        rtol: Relative tolerance of adaptive steps, which the whole set shares.
        atol: Absolute tolerance of those.
        max_steps: Adaptive steps at most; more, as near a blow-up, give NaN.
        depths: Depths to record, rising from 0 to `depth`; between steps they are
            interpolated by the solver.
        adjoint: Any of diffrax. The default is for reverse mode, with memory like the
            logarithm of the steps' number squared; `diffrax.ForwardMode()` is for jvp, in
            the memory of two sets of tokens; `diffrax.DirectAdjoint()` does both, and
            keeps every step.

    Returns:
        Tokens at `depth`; or, given `depths`, of shape (k, n, d).

    Raises:
        ValueError: As `Attention`; or `depth` is a Python number that is not positive, only
            one tolerance is given, a count is not positive, or depths are out of order.

    Differentiation:
        As `adjoint` says, in tokens, weights, depth and all matrices.
    """
    _checks.points("tokens", tokens)
    _checks.positive("depth", depth)
    field = TokenField(field) if isinstance(field, Attention) else field
    length = jnp.asarray(depth, tokens.dtype)
    if weights is not None:
        _checks.same_size("weights", weights, "tokens", tokens)
    stepping = Stepping(num_steps, rtol, atol, solver, max_steps, adjoint)

    def rates(t, x):
        return field(t, x, weights)

    start, depths = field.retract(tokens, weights), check_depths(depths, length)
    return field.retract(stepping.integrate(rates, start, length, depths), weights)
