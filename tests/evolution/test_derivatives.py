"""Everything that moves by fixed steps: derivatives in both modes, programs without the host."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import transportx as tx
from transportx import attention as att
from transportx import gradient_flows as gf
from transportx import mean_field as mf

X = jr.normal(jr.key(0), (3, 2))
WEIGHTS = jnp.array([0.2, 0.3, 0.5])
MATRIX = jnp.array([[0.6, -0.9], [0.4, 0.3]])
T1 = jnp.array(0.4)


def turning(matrix):
    return eqx.Partial(lambda matrix, t, x, args: jnp.tanh(matrix @ x) + t * x[::-1], matrix)


def sampled(x, matrix, t1):
    return tx.sampling.flow(turning(matrix), x, steps=3, t1=t1)


def log_density(x, matrix):
    def base(x):
        return -jnp.sum(x**2) / 2

    return tx.sampling.log_prob(turning(matrix), x, base_log_prob=base, steps=3)


def descended(x, weights, stiffness, t1):
    """Points, energies and dissipation, in points, weights, a parameter and the last time."""
    well = gf.Potential(eqx.Partial(lambda k, x: k * jnp.sum(x**4), stiffness))
    energy = well + gf.Interaction(lambda x, y: jnp.exp(-jnp.sum((x - y) ** 2)))
    ends = jnp.stack([0 * t1, t1])
    made = gf.flow(energy, x, weights, t1=t1, steps=3, times=ends)
    return made.x[-1], made.energy, made.dissipation


def trained(inner, outer, weights, t1):
    risk = mf.Risk(X, jnp.sin(X[:, :1]))
    network = mf.Network(inner, outer, weights, mf.Tanh())
    made = mf.train(risk, network, t1=t1, steps=3, times=jnp.stack([0 * t1, t1]))
    return made.final.neurons, made.risk, made.dissipation


def attended(x, weights, matrix, depth):
    field = att.Attention(matrix, matrix.T, matrix)
    return att.evolve(field, x, weights, depth=depth, steps=3)


MOVING = {
    "sampling.flow": (sampled, (X, MATRIX, jnp.array(0.9))),
    "sampling.log_prob": (log_density, (X, MATRIX)),
    "gradient_flows.flow": (descended, (X, WEIGHTS, jnp.array(0.3), jnp.array(0.2))),
    "mean_field.train": (trained, (0.5 * X, X[:, :1], WEIGHTS, T1)),
    "attention.evolve": (attended, (X, WEIGHTS, MATRIX, T1)),
}
every_motion = pytest.mark.parametrize("name", MOVING)


@pytest.mark.slow
@every_motion
def test_jvp_vjp_and_hessian_are_finite_differences(name):
    """Along every coordinate. A central difference of step 1e-5 errs by 1e-7 and less."""
    function, arguments = MOVING[name]
    flat, unravel = ravel_pytree(arguments)
    step, basis = 1e-5, jnp.eye(flat.size)

    def value(flat):
        return ravel_pytree(function(*unravel(flat)))[0]

    def total(flat):
        outcome = value(flat)
        return outcome @ jnp.cos(jnp.arange(outcome.size, dtype=outcome.dtype))

    def value_and_slopes(flat):
        outcome, pull = jax.vjp(value, flat)
        return outcome, pull(jnp.cos(jnp.arange(outcome.size, dtype=outcome.dtype)))[0]

    @jax.jit
    def compare(flat):
        forward = jax.vmap(lambda v: jax.jvp(value, (flat,), (v,))[1])(basis)
        moved = jnp.concatenate([0 * basis[:1], step * basis, -step * basis])
        values, slopes = jax.lax.map(lambda shift: value_and_slopes(flat + shift), moved)
        return forward, jax.hessian(total)(flat), values, slopes

    forward, hessian, values, slopes = compare(flat)
    (ahead, behind), (up, down) = (np.split(ends[1:], 2) for ends in (values, slopes))
    expected = (ahead - behind) / (2 * step), (up - down) / (2 * step)
    weights = np.cos(np.arange(values.shape[1]))
    found = forward, hessian, slopes[0]
    for one, other in zip(found, (*expected, expected[0] @ weights), strict=True):
        assert np.max(np.abs(other)) > 1e-2
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@every_motion
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_programs_for_accelerators_do_not_call_the_host(name, platform):
    def lowered(function, *arguments):
        traced = jax.jit(function).trace(*arguments)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    # Equinox was not told to leave out its checks, which call the host and are refused here.
    with pytest.raises(ValueError, match="is different from the lowering platform"):
        lowered(lambda x: eqx.error_if(x, x > 0, "positive"), jnp.ones(()))
    function, arguments = MOVING[name]
    program = lowered(function, *arguments)
    assert "callback" not in program
    assert "xla_ffi" not in program
