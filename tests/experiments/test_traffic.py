"""What programs move to and from memory: against XLA's own count, and loops multiplied out."""

import jax
import jax.numpy as jnp
import pytest

from experiments.plan.traffic import traffic


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def test_without_loops_it_is_the_compilers_count():
    def product(x, w):
        return jnp.sum(jnp.tanh(x @ w) @ w.T + x[3:4], axis=0)

    program = compiled(jax.jacrev(product), jnp.ones((64, 32)), jnp.ones((32, 16)))
    costs = program.cost_analysis()
    assert costs is not None
    assert traffic(program.as_text() or "") == pytest.approx(costs["bytes accessed"], rel=0.01)


def test_loops_move_what_their_body_does_as_often_as_it_runs():
    """Each step reads its own slice of the weights, not all of them."""

    def through(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, weights)[0]

    size = 64

    def moved(length):
        program = compiled(through, jnp.ones((8, size)), jnp.ones((length, size, size)))
        return traffic(program.as_text() or "")

    step = (moved(30) - moved(10)) / 20
    slice_bytes = 8 * size * size
    # The weights once or, copied out of their stack first, three times; the rest is small.
    assert slice_bytes <= step <= 4 * slice_bytes
