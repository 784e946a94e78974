"""What homogeneous activations keep, and where their neurons point."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx.mean_field._network import Network


@_checks.gate
def invariants(network: Network) -> Float[Array, " n"]:
    r"""$|u_i|^2 - |w_i|^2 / p$ of each neuron, which the flow keeps.

    For an activation homogeneous of degree p, V(w, u) is so in each argument, of degree p and
    1; hence $\langle u, \nabla_u V\rangle = \langle w, \nabla_w V\rangle / p$ for every loss and
    data. A ridge lambda makes them decay as exp(-2 lambda t); gradient steps of length h
    change them at order h^2 a step.

    Raises:
        ValueError: The activation is not homogeneous.

    References:
        Du, Hu and Lee, Algorithmic regularization in learning deep homogeneous models, 2018;
        Chizat and Bach, 2018.
    """
    degree = network.activation.degree
    if degree is None:
        cure = "take one with a `degree`: only homogeneous activations keep something"
        _checks.reject("network.activation", f"is {network.activation}", cure)
    inner, outer = (jnp.sum(part**2, axis=1) for part in (network.inner, network.outer))
    return outer - inner / degree


@_checks.gate
def strengths(network: Network) -> Float[Array, " n"]:
    r"""$a_i |u_i| |w_i|^p$ of each neuron: its share of the outputs; p = 1 where there is none."""
    degree = network.activation.degree or 1
    inner, outer = (jnp.linalg.norm(part, axis=1) for part in (network.inner, network.outer))
    return network.masses * outer * inner**degree


@_checks.gate
def alignment(network: Network, teacher: Network) -> Float[Array, " n"]:
    """Alignment of each neuron with the nearest of the teacher's: 1 in its direction, at least 0.

    The largest product, over the teacher's neurons, of the cosines between inner and between
    outer weights, each zero where negative. For scalar outputs it is the cosine of the inner
    directions, among teachers of the same sign. A neuron of length zero has 0.

    Args:
        network: Network of n neurons.
        teacher: Network with the same dimensions of data and outputs.

    Returns:
        One number per neuron, shape (n,), in [0, 1].

    Example:
        >>> teacher = tx.mean_field.Network(jnp.eye(2), jnp.ones((2, 1)))
        >>> student = tx.mean_field.Network(jnp.array([[5.0, 0.0]]), jnp.ones((1, 1)))
        >>> tx.mean_field.alignment(student, teacher).tolist()
        [1.0]
    """
    _checks.same_dimension("teacher.inner", teacher.inner, "network.inner", network.inner)
    _checks.same_dimension("teacher.outer", teacher.outer, "network.outer", network.outer)
    pairs = (network.inner, teacher.inner), (network.outer, teacher.outer)
    inner, outer = (jnp.maximum(_directions(a) @ _directions(b).T, 0) for a, b in pairs)
    return jnp.max(inner * outer, axis=1)


def _directions(points: Float[Array, "n d"]) -> Float[Array, "n d"]:
    norms = jnp.linalg.norm(points, axis=1, keepdims=True)
    return points / jnp.where(norms > 0, norms, 1)
