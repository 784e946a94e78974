"""What tests of losses of flow maps share: an exact family, a network, laws of times."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import transportx as tx
from tests.tables import in_float64

LINEAR = tx.interpolants.Linear()
MEAN, VARIANCE = jnp.array([1.0, -2.0]), jnp.array([0.3, 2.0])
PAIRS = tx.losses.TimePairs(equal_fraction=0.3)


def growth(s, t):
    """Rate of the deviation over [s, t], relative to the one at s: from N(0, 1) to VARIANCE."""
    first, last = (jnp.sqrt((1 - r) ** 2 + r**2 * VARIANCE) for r in (s, t))
    return (-2 + (1 + VARIANCE) * (s + t)) / (first + last) / first


def teacher(t, x, args=None):
    return MEAN + growth(t, t) * (x - t * MEAN)


def family(weights):
    """Flow maps linear in their weights; (1, 1, 0, 0, 0) is the exact one."""

    def u(s, t, x, args=None):
        spread = growth(s, t) * (x - s * MEAN)
        basis = jnp.stack([MEAN, spread, x, (t - s) * x, jnp.cos(s) * jnp.ones_like(x)])
        return weights @ basis

    return u


TRUTH = jnp.array([1.0, 1.0, 0.0, 0.0, 0.0])


def distillation(form):
    return functools.partial(tx.losses.flow_map_distillation, teacher=teacher, form=form)


# Each loss with the law of its times.
LOSSES = {
    "mean_flow": (tx.losses.mean_flow, PAIRS),
    "improved": (tx.losses.improved_mean_flow, PAIRS),
    "shortcut": (tx.losses.shortcut, PAIRS),
    "consistency": (tx.losses.consistency, tx.losses.uniform_times),
    "eulerian": (distillation("eulerian"), PAIRS),
    "lagrangian": (distillation("lagrangian"), PAIRS),
    "semigroup": (distillation("semigroup"), PAIRS),
}
every_loss = pytest.mark.parametrize(("loss", "times"), LOSSES.values(), ids=LOSSES.keys())
every_name = pytest.mark.parametrize("name", LOSSES)


NETWORK = in_float64(tx.fields.MLPFlowMap(2, 6, 1, activation=jnp.tanh, key=jr.key(4)))
PARAMETERS, STATIC = eqx.partition(NETWORK, eqx.is_inexact_array)
X0, X1 = jr.normal(jr.key(5), (2, 4, 2))
STARTS, STOPS = jnp.array([0.1, 0.3, 0.6, 0.4]), jnp.array([0.9, 0.5, 0.7, 0.4])


def fixed_pairs(num, dtype, *, key):
    return STARTS.astype(dtype), STOPS.astype(dtype)


def fixed_times(num, dtype, *, key):
    return STARTS.astype(dtype)


def total_rate(s, t, x, along):
    """(t - s) times the derivative of the network in s and x, by its whole Jacobian."""
    in_time, in_space = jax.jacfwd(NETWORK, (0, 2))(s, t, x)
    return (t - s) * (in_time + in_space @ along)


def equal_times(num, dtype, *, key):
    return fixed_times(num, dtype, key=key), fixed_times(num, dtype, key=key)
