"""Path energy and straightness of the particles that a field moves."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from transportx import _checks
from transportx._precision import single_inside
from transportx.evolution import Steps
from transportx.metrics._distances import wasserstein2
from transportx.sampling import flow

Scalar = Float[Array, ""]


@_checks.gate
@single_inside
def path_energy(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    steps: Steps = 100,
) -> Scalar:
    r"""Kinetic energy of the flow, $E \int_0^1 |v(t, x_t)|^2\,dt$, averaged over the batch.

    By Benamou and Brenier it is at least W2^2 between the laws at both ends, with equality
    for the optimal transport.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x0: Samples of the source, shape (b, ...); the flow starts from them.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        steps: An int for that many equal Euler steps, or `evolution.FixedSteps` or
            `evolution.AdaptiveSteps`.

    Returns:
        The energy, in squared units of x.

    Sampling floor: the mean over the b starting points has standard error std / sqrt(b);
    it is not a distance and has no bias.

    Example:
        >>> def field(t, x, args):
        ...     return jnp.array([3.0, 4.0])
        >>> round(float(tx.metrics.path_energy(field, jnp.zeros((2, 2)), steps=2)), 3)
        25.0

    References:
        Benamou and Brenier, A computational fluid mechanics solution to the Monge-Kantorovich
        mass transfer problem, 2000.
    """
    energy, _ = _energy_and_end(field, x0, args, steps)
    return energy


@_checks.gate
@single_inside
def straightness(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    steps: Steps = 100,
) -> Scalar:
    r"""Deviation from straight paths, $E \int_0^1 |v(t, x_t) - (x_1 - x_0)|^2\,dt$.

    Positions $x_t$ follow the field itself. Zero exactly when every particle moves on a
    straight line at constant speed, so that one Euler step suffices. Computed as the path
    energy less $E|x_1 - x_0|^2$, which equals it: values below the rounding of the path
    energy mean zero.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x0: Samples of the source, shape (b, ...); the flow starts from them.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        steps: An int for that many equal Euler steps, or `evolution.FixedSteps` or
            `evolution.AdaptiveSteps`.

    Returns:
        The deviation, in squared units of x.

    Sampling floor: none but the standard error over b; straight paths give zero.

    Example:
        >>> def field(t, x, args):
        ...     return 2 * t * jnp.ones_like(x)  # straight, but not at constant speed
        >>> round(float(tx.metrics.straightness(field, jnp.zeros((2, 1)), steps=100)), 2)
        0.33

    References:
        Liu, Gong and Liu, Flow Straight and Fast, 2022, equation 9.
    """
    energy, end = _energy_and_end(field, x0, args, steps)
    displacement = (end - x0.reshape(x0.shape[0], -1)) ** 2
    return energy - jnp.mean(jnp.sum(displacement, axis=1))


@_checks.gate
@single_inside
def normalized_path_energy(
    field: Callable[..., Array],
    x0: Float[Array, "n d"],
    x1: Float[Array, "n d"],
    args: PyTree[Array] = None,
    *,
    steps: Steps = 100,
) -> Scalar:
    r"""Normalised path energy: $|\text{path energy} - W_2^2| / W_2^2$ between two clouds.

    W2 is the exact distance between the clouds; zero for the optimal field.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x0: Samples of the source, shape (n, d); the flow starts from them.
        x1: As many samples of the target, shape (n, d).
        args: Conditions, a pytree of arrays with leading axis n, or None.
        steps: An int for that many equal Euler steps, or `evolution.FixedSteps` or
            `evolution.AdaptiveSteps`.

    Sampling floor: for the optimal field, the relative error of W2^2 between clouds of n
    points, of order n^{-1/2} in the plane; it falls on either side of zero before the
    absolute value is taken.

    Raises:
        ValueError: A cloud is empty, shapes differ, or `field` returns another shape than
            that of its point.

    Example:
        >>> def field(t, x, args):
        ...     return jnp.ones_like(x)
        >>> x0 = jnp.array([[0.0], [1.0]])
        >>> round(float(tx.metrics.normalized_path_energy(field, x0, x0 + 1.0, steps=2)), 3)
        0.0

    References:
        Tong et al., Improving and generalizing flow-based generative models with minibatch
        optimal transport, 2023, section 5.1.
    """
    transport = wasserstein2(x0, x1) ** 2
    energy = path_energy(field, x0, args, steps=steps)
    return jnp.abs(energy - transport) / transport


@eqx.filter_jit
def _energy_and_end(field, x0, args, steps) -> tuple[Scalar, Float[Array, "b d"]]:
    """Path energy, and the flattened ends: the energy rides along as one more coordinate."""
    _checks.batch("x0", x0)
    shape = x0.shape[1:]

    def augmented(t, state, args):
        x = state[:-1].reshape(shape)
        velocity = field(t, x, args)
        _checks.velocity(velocity, x)
        return jnp.append(velocity, jnp.sum(velocity**2))

    flat = x0.reshape(x0.shape[0], -1)
    start = jax.vmap(lambda x: jnp.append(x, jnp.zeros((), x.dtype)))(flat)
    end = flow(augmented, start, args, steps=steps)
    return jnp.mean(end[:, -1]), end[:, :-1]
