"""Linear systems in discrete time, and the weighted Gaussians between which they are steered."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks


@_checks.gate
class LinearSystem(eqx.Module):
    r"""Linear system $x_{k+1} = A_k x_k + B_k u_k + w_k$, $w_k \sim N(0, W_k)$, over k steps.

    The noises of different steps are independent of each other and of the state.

    Attributes:
        A: Drift of each step, shape (k, d, d); may be singular or unstable.
        B: Gain of the m controls of each step, shape (k, d, m).
        noise: Covariance W of the noise of each step, shape (k, d, d), positive semidefinite;
            zeros for none.

    Example:
        >>> double = jnp.array([[1.0, 0.1], [0.0, 1.0]])
        >>> force = jnp.array([[0.0], [0.1]])
        >>> system = tx.control.LinearSystem(
        ...     jnp.stack([double, double]), jnp.stack([force, force]), jnp.zeros((2, 2, 2))
        ... )
        >>> system.num_steps
        2
    """

    A: Float[Array, "k d d"]
    B: Float[Array, "k d m"]
    noise: Float[Array, "k d d"]

    def __check_init__(self):
        if self.A.ndim == 3 and self.A.shape[0] == 0:
            _checks.reject("A", f"has shape {self.A.shape}", "give at least one step")

    @property
    def num_steps(self) -> int:
        """Number of steps."""
        return self.A.shape[0]


@_checks.gate
def constant_system(
    A: Float[Array, "d d"], B: Float[Array, "d m"], noise: Float[Array, "d d"], *, steps: int
) -> LinearSystem:
    """Linear system whose drift, gain and noise are the same in all steps.

    Args:
        A: Drift, shape (d, d).
        B: Gain of the m controls, shape (d, m).
        noise: Covariance of the noise of one step, shape (d, d), positive semidefinite; zeros for
            none.
        steps: Number of steps, at least 1.

    Raises:
        ValueError: Shapes disagree, or `steps` is not a positive integer.

    Example:
        >>> system = tx.control.constant_system(
        ...     jnp.eye(2), jnp.eye(2), jnp.zeros((2, 2)), steps=10
        ... )
        >>> system.A.shape
        (10, 2, 2)
    """
    _checks.count("steps", steps)
    return LinearSystem(*(jnp.broadcast_to(each, (steps, *each.shape)) for each in (A, B, noise)))


@_checks.gate
class GaussianMeasure(eqx.Module):
    """Gaussian measure of any mass: a mass times N(mean, covariance).

    Attributes:
        mass: Total mass, positive.
        mean: Mean, shape (d,).
        covariance: Covariance, shape (d, d), symmetric.

    Example:
        >>> swarm = tx.control.GaussianMeasure(3.0, jnp.zeros(2), jnp.eye(2))
        >>> swarm.mass, swarm.mean.shape
        (3.0, (2,))
    """

    mass: ScalarLike
    mean: Float[Array, " d"]
    covariance: Float[Array, "d d"]
