"""JKO steps by input-convex networks: maps of the whole space, and densities along them."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status, judge, rose
from transportx.gradient_flows._cells import lives_on_cells
from transportx.gradient_flows._convex_potential import ConvexPotential
from transportx.gradient_flows._functional import AbstractFunctional, Cloud, Weights, as_weights

Scalar = Float[Array, ""]


class Pushed(NamedTuple):
    """Other points carried along a flow.

    Attributes:
        x: Where they are at each of its times.
        log_determinants: Log of the volume's growth at each point since time 0: the log of the
            density is that at time 0 less this.
    """

    x: Float[Array, "k j d"]
    log_determinants: Float[Array, "k j"]


@_checks.gate
class ConvexFlow(eqx.Module):
    """A recorded flow of n particles, at k times, each moved by the map of a convex potential.

    Attributes:
        times: When.
        x: Positions; NaN from where the flow failed.
        weights: Weights of the points, the same at all times.
        energy: Energy of each record: F, plus the temperature times the entropy less that at
            time 0.
        potentials: Convex potentials of the k - 1 maps, stacked along a leading axis.
        residuals: Norm of the gradient of each step's objective by the network's parameters where
            the descent stopped, relative to that of the given potential at time 0.
        num_steps: Steps of the optimiser in all.
        status: COMPLETED if every residual met the tolerance and the energy never rose.
    """

    times: Float[Array, " k"]
    x: Float[Array, "k n d"]
    weights: Float[Array, " n"]
    energy: Float[Array, " k"]
    potentials: ConvexPotential
    residuals: Float[Array, " steps"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether every step met the tolerance, with an energy that fell."""
        return self.status == Status.COMPLETED

    @_checks.gate
    def push(self, z: Float[Array, "j d"]) -> Pushed:
        """Carry other points along, with what their densities change by."""
        _checks.points("z", z)
        _checks.same_dimension("z", z, "x", self.x[0])

        def step(carry, potential):
            z, volumes = carry
            z, grown = jax.vmap(eqx.Partial(_map_and_volume, potential))(z)
            return (z, volumes + grown), (z, volumes + grown)

        start = z, jnp.zeros(z.shape[0], z.dtype)
        _, records = jax.lax.scan(step, start, self.potentials)
        return Pushed(*(jnp.concatenate([s[None], r]) for s, r in zip(start, records, strict=True)))


@_checks.gate
def convex_flow(
    functional: AbstractFunctional,
    potential: ConvexPotential,
    x0: Cloud,
    weights: Weights | None = None,
    *,
    t1: ScalarLike,
    steps: int,
    temperature: ScalarLike = 0.0,
    tol: ScalarLike = 1e-4,
    max_steps: int = 500,
) -> ConvexFlow:
    r"""Let particles descend $F + T\int\rho\log\rho$ by JKO steps whose maps are networks.

    Each step minimises, over the parameters of a convex potential and from those of the step
    before, by L-BFGS,
    $$F((\nabla\psi)_\#\alpha) - T\sum_i w_i\log\det\nabla^2\psi(x_i)
    + \frac{1}{2\tau}\sum_i w_i|\nabla\psi(x_i) - x_i|^2.$$
    A map that is the gradient of a convex function is optimal, so that the last term is
    $W_2^2 / 2\tau$ whatever the step's length. Maps act on other points too, and give their
    densities: `ConvexFlow.push`. First order in tau, up to what the network can express. With a
    temperature, give it few units where points are few, or it learns the sample. A few
    evaluations of F and of the network's Hessian at all points a step of the optimiser.

    Args:
        functional: F, the functional that falls, of known value.
        potential: Where the first step starts from; its width and depth are those of all.
        x0: Points at time 0, drawn of a density where the temperature is not zero.
        weights: Not negative; uniform of total one by default.
        t1: Last time, positive; may be traced.
        steps: Number of equal steps, each of them recorded.
        temperature: T, not negative; may be traced.
        tol: Bound on `ConvexFlow.residuals`.
        max_steps: Steps of the optimiser at most, each time step.

    Raises:
        ValueError: A cloud, weights or a number does not fit, or F has an entropy of cells.

    Differentiation:
        `ConvexFlow.push` in its points, forward and reverse. Not through the descent: reverse
        mode raises.

    Example:
        >>> gf = tx.gradient_flows
        >>> bowl = gf.Potential(lambda x: jnp.sum(x**2) / 2)
        >>> psi = gf.ConvexPotential(1, width=2, depth=1, key=jr.key(0))
        >>> x0 = jnp.array([[-1.0], [1.0]])
        >>> path = gf.convex_flow(bowl, psi, x0, t1=0.5, steps=1, tol=1e-2)
        >>> path.x.shape, bool(path.energy[-1] < path.energy[0])
        ((2, 2, 1), True)

    References:
        Mokrov, Korotin, Li, Genevay, Solomon and Burnaev, Large-scale Wasserstein gradient flows,
        2021; Alvarez-Melis, Schiff and Mroueh, Optimizing functionals on the space of
        probabilities with input convex neural networks, 2022.
    """
    weights = as_weights(x0, weights, "x0")
    _checks.positive("t1", t1)
    _checks.positive("tol", tol)
    _checks.not_negative("temperature", temperature)
    _checks.count("steps", steps)
    _checks.count("max_steps", max_steps)
    if lives_on_cells(functional):
        cure = "leave the entropy out, and give its factor as `temperature`"
        _checks.reject("functional", "has an entropy of cells, which do not move", cure)
    _checks.point("potential.shift", potential.shift, "x0", x0)
    dtype = x0.dtype
    t1, temperature = (_numbers.not_negative(number, dtype) for number in (t1, temperature))
    # A descent whose values are all NaN stays where it is: a NaN step shows in its residual.
    tau = jnp.where(jnp.isnan(temperature), jnp.nan, t1 / steps)
    tol = jnp.asarray(tol, dtype)
    potential = jax.tree.map(lambda leaf: leaf.astype(dtype), potential)
    problem = _Step(functional, weights, tau, temperature)
    scale = optax.tree.norm(jax.grad(problem.objective)(potential, x0))

    def step(carry, _):
        potential, x, volume = carry
        found = _descend(problem, potential, x, tol * scale, max_steps)
        x, grown = problem.moved(found.potential, x)
        volume = volume + grown
        entropic = jnp.where(temperature > 0, temperature * volume, 0)
        energy = functional.value(x, weights) - entropic
        return (found.potential, x, volume), (x, energy, found)

    start = potential, x0, jnp.zeros((), dtype)
    _, (x, energy, found) = jax.lax.scan(step, start, length=steps)
    x = jnp.concatenate([x0[None], x])
    energy = jnp.concatenate([functional.value(x0, weights)[None], energy])
    met = jnp.all(found.slope <= tol * scale)
    finite = jnp.all(jnp.isfinite(energy)) & jnp.all(jnp.isfinite(x))
    status = judge(
        (~finite, Status.NON_FINITE),
        (rose(energy), Status.ROSE),
        (met, Status.COMPLETED),
        otherwise=Status.MAX_STEPS,
    )
    times = tau * jnp.arange(steps + 1, dtype=dtype)
    residuals = found.slope / scale
    return ConvexFlow(
        times, x, weights, energy, found.potential, residuals, jnp.sum(found.steps), status
    )


class _Step(NamedTuple):
    """What one JKO step minimises, but for its points."""

    functional: AbstractFunctional
    weights: Weights
    tau: Scalar
    temperature: Scalar

    def moved(self, potential: ConvexPotential, x: Cloud) -> tuple[Cloud, Scalar]:
        """Where the points go, and the mean log of what volumes grow by."""
        moved, grown = jax.vmap(eqx.Partial(_map_and_volume, potential))(x)
        return moved, jnp.sum(self.weights * grown)

    def objective(self, potential: ConvexPotential, x: Cloud) -> Scalar:
        def entropic():
            moved, volume = self.moved(potential, x)
            return moved, self.temperature * volume

        def plain():
            return jax.vmap(jax.grad(potential))(x), jnp.zeros((), x.dtype)

        # Without temperature the map may collapse, and no Hessian is needed.
        moved, volume = jax.lax.cond(self.temperature > 0, entropic, plain)
        travelled = jnp.sum(self.weights * jnp.sum((moved - x) ** 2, axis=1))
        return self.functional.value(moved, self.weights) - volume + travelled / (2 * self.tau)


class _Found(NamedTuple):
    potential: ConvexPotential
    slope: Scalar
    steps: Int[Array, ""]


def _descend(problem: _Step, start: Any, x: Cloud, bound: Scalar, limit: int) -> _Found:
    """L-BFGS until the slope is within the bound."""
    optimizer = optax.lbfgs()

    def value_of(potential: Any) -> Scalar:
        return problem.objective(potential, x)

    value_and_slopes = optax.value_and_grad_from_state(value_of)

    def unfinished(carry) -> Bool[Array, ""]:
        _, _, slope, steps = carry
        return (steps < limit) & (slope > bound)

    def step(carry) -> Any:
        potential, memory, _, steps = carry
        value, slopes = value_and_slopes(potential, state=memory)
        # Its counters mix kinds of integers.
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = optimizer.update(
                slopes, memory, potential, value=value, grad=slopes, value_fn=value_of
            )
        potential = optax.apply_updates(potential, updates)
        slope = optax.tree.norm(optax.tree.get(memory, "grad"))
        return potential, memory, slope, steps + 1

    first = optax.tree.norm(jax.grad(value_of)(start))
    carry = start, optimizer.init(start), first, jnp.zeros((), jnp.int32)
    potential, _, slope, steps = jax.lax.while_loop(unfinished, step, carry)
    return _Found(potential, slope, steps)


def _map_and_volume(potential: ConvexPotential, x: Float[Array, " d"]):
    """The map at one point, and the log of its Jacobian's determinant."""
    slope = jax.grad(potential)
    return slope(x), jnp.linalg.slogdet(jax.jacfwd(slope)(x))[1]
