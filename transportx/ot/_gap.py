"""The duality gap of potentials, as a sum of terms that are not negative."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx._varying import where_asked
from transportx.geometry import internal
from transportx.geometry.internal import Sum, capped_exp
from transportx.ot._problem import Problem, gain

Scalar = Float[Array, ""]

# Exponents above this, exp of whose opposite is small.
_NEAR = -10.0
# In place of the exponents of pairs that carry nothing.
_LOWEST = -1e30


def duality_gap(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Scalar:
    """The least of two bounds, each a sum of terms that are not negative."""
    return jnp.minimum(_repaired_gap(problem, f, g), _product_gap(problem, f, g))


def _repaired_gap(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Scalar:
    """Objective of the repaired plan less the dual one."""
    a, b = problem.a, problem.b
    required_a, required_b = problem.required_a(f), problem.required_b(g)
    kernel = problem.kernel(f, g)
    # Cut rows, then columns, down to what is required; spread what is then missing.
    cut_a = _cut(required_a, a * (kernel @ b))
    columns = b * (kernel.T @ (a * (1 - cut_a)))
    cut_b = _cut(required_b, columns)
    rows = a * (1 - cut_a) * (kernel @ (b * (1 - cut_b)))
    missing_a = jnp.maximum(required_a - rows, 0)
    missing_b = jnp.maximum(required_b - columns * (1 - cut_b), 0)
    most = jnp.maximum(jnp.sum(missing_a), jnp.sum(missing_b))
    spread = _quotient(missing_b, most)

    share_a, share_b = _quotient(missing_a, a), _quotient(spread, b)

    excess = eqx.Partial(_excess, problem.epsilon)
    of_columns = b, g, cut_b, share_b
    repaired = problem.geometry.fold_rows(Sum(), excess, of_columns, f, a, cut_a, share_a)
    left_a, left_b = missing_a * jnp.sum(spread), jnp.sum(missing_a) * spread
    gap = problem.epsilon * jnp.sum(repaired)
    for loose, has, required in (
        (problem.loose_a, rows + left_a, required_a),
        (problem.loose_b, columns * (1 - cut_b) + left_b, required_b),
    ):
        rest = jnp.sum(_divergence(has, required)) / jnp.where(loose > 0, loose, 1)
        gap = gap + jnp.where(loose > 0, rest, 0)
    return gap


def _product_gap(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Scalar:
    r"""Objective of the plan $a\otimes b / |b|$, less the dual one, with masses that agree.

    It is $\varepsilon\sum_{ij} a_i b_j (e^{x_{ij}} - 1 - x_{ij})$ for exponents x of the plan,
    and what penalties cost: small where epsilon is far above the costs, where rounding of
    marginals, times epsilon, would spoil the other bound. Infinite where it is not used.
    """
    a, b = problem.a, problem.b
    mass_a, mass_b = jnp.sum(a), jnp.sum(b)
    size = a @ jnp.abs(f) / mass_a + b @ jnp.abs(g) / mass_b
    slack = 100 * jnp.finfo(a.dtype).eps
    of_unit_mass = (jnp.abs(mass_a - 1) <= slack) & (jnp.abs(mass_b - 1) <= slack)
    used = of_unit_mass & (problem.epsilon > size)

    def bound():
        convex = eqx.Partial(_convexity, problem.epsilon)
        excess = problem.geometry.fold_rows(Sum(), convex, (b, g), f)
        loose = a @ (f - gain(f, problem.loose_a)) + b @ (g - gain(g, problem.loose_b))
        return problem.epsilon * jnp.sum(a * excess) + jnp.maximum(loose, 0)

    return where_asked(used, bound, jnp.full_like(problem.epsilon, jnp.inf), (problem, f, g))


def _convexity(epsilon, columns, costs, f):
    """Weighted sum over a row of e^x - 1 - x, by its series where that is small."""
    b, g = columns
    x = internal.exponents(costs, f + g, epsilon)
    small = jnp.abs(x) < 0.1
    near = jnp.where(small, x, 0)
    series = near**2 * (1 / 2 + near * (1 / 6 + near * (1 / 24 + near * (1 / 120 + near / 720))))
    terms = jnp.where(small, series, capped_exp(x) - 1 - x)
    return jnp.sum(jnp.where(b > 0, b * terms, 0))


def _excess(epsilon, columns, costs, f, a, cut, share):
    """KL of one row of the repaired plan from that row of the plan; no term is negative."""
    b, g, column_cut, share_b = columns
    exponents = internal.exponents(costs, f + g, epsilon)
    ratios, extra = capped_exp(exponents), share * share_b
    lost = cut + column_cut - cut * column_cut
    repaired = (1 - lost) * ratios + extra
    # Of entries that changed little, by the change; of tiny ones the logarithms are apart, so
    # that none underflows.
    change = extra * capped_exp(-jnp.maximum(exponents, _NEAR)) - lost
    logs = jnp.log(jnp.where(repaired > 0, repaired, 1)) - jnp.maximum(exponents, _LOWEST)
    far = jnp.where(repaired > 0, repaired * logs, 0) - repaired + ratios
    terms = jnp.where(exponents > _NEAR, ratios * _relative_entropy(change), far)
    carried = jnp.where((extra > 0) & (exponents == -jnp.inf), jnp.inf, jnp.maximum(terms, 0))
    return a * jnp.sum(jnp.where(b > 0, b * carried, 0))


def _relative_entropy(change: Array) -> Array:
    """(1 + d) log(1 + d) - d for d >= -1, by its series where that is small."""
    small = jnp.abs(change) < 0.05
    d = jnp.where(small, change, 0)
    series = d**2 * (1 / 2 - d * (1 / 6 - d * (1 / 12 - d * (1 / 20 - d / 30))))
    kept = jnp.where(small, 1, 1 + change)
    return jnp.where(small, series, jax.scipy.special.xlogy(kept, kept) - change)


def _quotient(p: Array, q: Array) -> Array:
    """The ratio p / q, and zero where q is."""
    return jnp.where(q > 0, p / jnp.where(q > 0, q, 1), 0)


def _cut(required: Array, has: Array) -> Array:
    """Fraction of each mass to remove, to bring it down to the required one."""
    return jnp.where(has > required, _quotient(has - required, has), 0)


def _divergence(p: Array, q: Array) -> Array:
    """Terms p log(p / q) - p + q, entry by entry; never below zero by rounding."""
    terms = p * jnp.log(jnp.where(p > 0, _quotient(p, q), 1)) - p + q
    return jnp.maximum(jnp.where((p > 0) & (q == 0), jnp.inf, terms), 0)
