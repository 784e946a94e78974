"""A small network, the risks that its tests share, and what a training must leave."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array

import transportx as tx
import transportx.mean_field as mf
from tests.helpers import quick

KEYS = jr.split(jr.key(0), 6)
N, M, D, E = 9, 14, 3, 2
X = jr.normal(KEYS[0], (M, D))
Y = jr.normal(KEYS[1], (M, E))
WEIGHTS = jnp.array([0.11, 0.29, 0.153, 0.097, 0.052, 0.148, 0.03, 0.07, 0.05])
SIGNS = jnp.sign(Y)
CLASSES = jnp.array([[0.3, 0.7], [1.0, 0.0]])[jnp.arange(M) % 2]
RISKS = {
    "square": mf.Risk(X, Y, ridge=0.1),
    "logistic": mf.Risk(X, SIGNS, mf.logistic_loss),
    "softmax": mf.Risk(X, CLASSES, mf.softmax_loss, 0.2),
}


def network(
    activation: mf.AbstractActivation = mf.Tanh(),  # noqa: B008
    weights: Array | None = WEIGHTS,
    *,
    tile: int | None = None,
):
    made = mf.random_network(N, dim=D, num_outputs=E, key=KEYS[2], activation=activation)
    return mf.Network(made.inner, made.outer, weights, activation, tile)


def trained(risk, start, **options):
    made = quick(lambda risk, start: mf.train(risk, start, **options))(risk, start)
    assert made.completed, tx.Status[made.status]
    return made


def check_lost(made):
    assert all(jnp.all(jnp.isnan(leaf)) for leaf in (made.risk[-1], made.dissipation[-1]))
    assert all(jnp.all(jnp.isnan(leaf)) for leaf in jax.tree.leaves(made.final))
    alive = jnp.isfinite(made.risk)
    assert jnp.all(jnp.isfinite(made.networks.inner) == alive[:, None, None])
