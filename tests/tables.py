"""Everything public of each kind, once, so that one battery of properties runs over all.

Add a new cost, coupling, interpolant, field or solver here; a test in `test_tables.py`
fails until it is.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import transportx as tx


def in_float64(module):
    """The module with its parameters in float64: networks are made in float32's default."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, module
    )


def covariance(key, dim):
    """A well-conditioned covariance; two of them do not commute."""
    root = jr.normal(key, (dim, dim)) / jnp.sqrt(dim)
    return root @ root.T + 0.3 * jnp.eye(dim)


def mixture(key, weights, dim):
    """A Gaussian mixture with the given weights, means of size 2 and general covariances."""
    mean_key, covariance_key = jr.split(key)
    keys = jr.split(covariance_key, len(weights))
    return tx.gaussians.Mixture(
        jnp.array(weights),
        2 * jr.normal(mean_key, (len(weights), dim)),
        jax.vmap(covariance, in_axes=(0, None))(keys, dim),
    )


def _ends(dim):
    keys = jr.split(jr.key(7), 4)
    return (
        jr.normal(keys[0], (dim,)),
        covariance(keys[1], dim),
        jr.normal(keys[2], (dim,)),
        covariance(keys[3], dim),
    )


COSTS = {
    "squared_euclidean": tx.geometry.SquaredEuclidean(),
    "euclidean": tx.geometry.Euclidean(),
    "p_norm": tx.geometry.PNorm(1.5),
    "dot": tx.geometry.Dot(),
    "cosine": tx.geometry.Cosine(),
    "geodesic": tx.geometry.Geodesic(),
    "pointwise": tx.geometry.Pointwise(lambda x, y: jnp.sum(jnp.cosh(x - 2 * y))),
    "swapped": tx.geometry.Swapped(
        tx.geometry.Pointwise(lambda x, y: jnp.sum(jnp.cosh(x - 2 * y)))
    ),
}

COUPLINGS = {
    "independent": tx.couplings.Independent(),
    "assignment": tx.couplings.Assignment(),
    "entropic": tx.couplings.Entropic(0.05),
    "exact": tx.couplings.Exact(),
    "unbalanced": tx.couplings.Unbalanced(0.05, rho=0.5),
}

PINNED_INTERPOLANTS = {
    "linear": tx.interpolants.Linear(),
    "trigonometric": tx.interpolants.Trigonometric(),
    "variance_preserving": tx.interpolants.VariancePreserving(),
    "brownian_bridge": tx.interpolants.BrownianBridge(0.7),
    "encoding_decoding": tx.interpolants.EncodingDecoding(),
    "sigmoid": tx.interpolants.Warped(
        tx.interpolants.Trigonometric(), tx.interpolants.Sigmoid(5.0)
    ),
    "learnt": tx.interpolants.Warped(
        tx.interpolants.BrownianBridge(0.4), tx.interpolants.Bernstein(jnp.array([0.3, -1.0, 0.5]))
    ),
    "noised": tx.interpolants.Noised(
        tx.interpolants.Trigonometric(), tx.interpolants.BridgeNoise(0.6)
    ),
}

INTERPOLANTS = PINNED_INTERPOLANTS | {
    "wide_end": tx.interpolants.Linear(0.1),
    "variance_exploding": tx.interpolants.VarianceExploding(0.5, 8.0),
    "blurred": tx.interpolants.Noised(tx.interpolants.Linear(), tx.interpolants.ConstantNoise(0.2)),
}

# Fields of points in R^3, callable as field(t, x, args) with args None.
FIELDS = {
    "mlp": in_float64(tx.fields.MLP(3, 16, 2, num_frequencies=2, key=jr.key(1))),
    "gaussian": tx.fields.GaussianField(*_ends(3)),
    "mixture": tx.fields.MixtureField(
        mixture(jr.key(2), [0.3, 0.7], 3), mixture(jr.key(3), [0.2, 0.5, 0.3], 3)
    ),
    "empirical": tx.fields.EmpiricalField(jr.normal(jr.key(4), (20, 3))),
    "sourced_empirical": tx.fields.SourcedEmpiricalField(
        jr.normal(jr.key(11), (6, 3)), lambda x: -jnp.sum(jnp.log(jnp.cosh(x)))
    ),
    "velocity_from": tx.fields.VelocityFrom(
        in_float64(tx.fields.MLP(3, 8, 1, num_frequencies=2, key=jr.key(8))),
        tx.interpolants.Linear(),
        tx.interpolants.from_noise,
    ),
    "score_of": tx.fields.ScoreOf(
        tx.fields.EmpiricalField(jr.normal(jr.key(9), (5, 3))), tx.interpolants.Linear()
    ),
    "rescheduled": tx.fields.Rescheduled(
        in_float64(tx.fields.MLP(3, 8, 1, num_frequencies=2, key=jr.key(10))),
        tx.interpolants.Linear(),
        tx.interpolants.Trigonometric(),
    ),
    "energy_guided": tx.fields.EnergyGuided(
        lambda t, x, args: jnp.sin(x[::-1]) - t * x,
        tx.interpolants.Linear(),
        lambda x1, args: jnp.sum(jnp.cosh(x1)),
        0.3,
    ),
    "classifier_guided": tx.fields.ClassifierGuided(
        lambda t, x, args: jnp.sin(x[::-1]) - t * x,
        tx.interpolants.Linear(),
        lambda t, x, args: t * jnp.sum(jnp.sin(x)),
    ),
    "observation_guided": tx.fields.ObservationGuided(
        lambda t, x, args: jnp.sin(x[::-1]) - t * x,
        tx.interpolants.Linear(),
        lambda x: x[:2] - x[1:],
        jnp.array([0.4, -1.0]),
        0.5,
    ),
}

# Fields that need conditions or images, with one example and its args.
CONDITIONED_FIELDS = {
    "dit": (
        in_float64(
            tx.fields.DiT(
                (4, 6, 2), patch=2, width=16, depth=2, heads=2, num_labels=3, key=jr.key(5)
            )
        ),
        jr.normal(jr.key(6), (4, 6, 2)),
        jnp.array(1),
    ),
    "guided": (
        tx.fields.Guided(
            lambda t, x, label: x * (1 + t) * label.astype(x.dtype), strength=2.0, null_label=3
        ),
        jr.normal(jr.key(6), (3,)),
        jnp.array(1),
    ),
}

# Flow maps, callable as u(s, t, x, args) with args None, and the shape of their points.
FLOW_MAPS = {
    "gaussian": (tx.fields.GaussianFlowMap(*_ends(3)), (3,)),
    "line": (
        tx.fields.LineFlowMap(
            tx.fields.MixtureField(
                mixture(jr.key(2), [0.3, 0.7], 1), mixture(jr.key(3), [0.2, 0.5, 0.3], 1)
            )
        ),
        (1,),
    ),
    "mlp": (in_float64(tx.fields.MLPFlowMap(3, 16, 2, num_frequencies=2, key=jr.key(1))), (3,)),
    "dit": (
        in_float64(
            tx.fields.DiTFlowMap((2, 4, 1), patch=2, width=8, depth=1, heads=2, key=jr.key(5))
        ),
        (2, 4, 1),
    ),
}
