"""The gate: what it refuses and in which words, what it lets pass, and that it hides nothing."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from tests import calls

# What follows breaks the annotations on purpose.
ot: Any = tx.ot
gaussians: Any = tx.gaussians
interpolants: Any = tx.interpolants
X, Y = jnp.arange(6.0).reshape(3, 2), jnp.ones((4, 2))


def divergence(x: Any = X, y: Any = Y, **settings):
    return ot.sinkhorn_divergence(x, y, **({"epsilon": 0.1} | settings))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ot.solve(X, Y, epsilon=0.1),
            r"`geometry` has .*shape \(3, 2\); give .*`tx.geometry.PointCloud\(x, y\)",
        ),
        (lambda: divergence([[0.0]]), r"`x` is of type list; give a jax or numpy array"),
        (lambda: divergence(None), r"`x` is None; give a jax or numpy array"),
        (lambda: divergence("x"), r"`x` is 'x'; give a jax or numpy array"),
        (lambda: divergence(X.astype(int)), "`x` has dtype int64; convert it to a floating-point"),
        (lambda: divergence(X[0]), r"`x` has shape \(2,\); give shape \(n, d\)"),
        (lambda: divergence(X[:0]), r"`x` has shape \(0, 2\); give at least one example"),
        (lambda: divergence(y=Y[:, :1]), r"`y` has shape \(4, 1\).*d = 2, as in `x`"),
        (lambda: divergence(np.array([["a"]])), "`x` has dtype .*; give a jax or numpy array"),
        (lambda: divergence(epsilon=jnp.ones(1)), r"`epsilon` has .*shape \(1,\); give a number"),
        (lambda: divergence(epsilon=True), "`epsilon` is True; give a number"),
        (lambda: divergence(epsilon=10**400), "`epsilon` is .*; give a number that a float can"),
        (lambda: divergence(solver=ot.Newton), r"`solver` is the class `Newton`.*ot.Newton\(\)"),
        (lambda: ot.soft_rank(X), r"`x` has shape \(3, 2\); give shape \(n,\), and batch with"),
        (
            lambda: ot.sliced_wasserstein(X, Y, key=0),
            r"`key` is 0; give one key, as `jax.random.key\(0\)`",
        ),
    ],
)
def test_refusals_say_what_it_was_and_what_to_give(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_arrays_and_numbers_are_as_good_as_those_of_jax():
    given = gaussians.wasserstein2(np.zeros(2), np.eye(2), np.ones(2), 4 * np.eye(2))
    np.testing.assert_allclose(given, 2.0, rtol=1e-12)  # |m|^2 = 2 and (2 - 1)^2 for each axis
    one = interpolants.BrownianBridge(np.float32(0.5))
    assert isinstance(one.sigma, float)


def test_tracers_pass_and_signatures_stay():
    batch = jax.vmap(ot.soft_sort)(jnp.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]]))
    assert batch.shape == (2, 3)
    assert list(inspect.signature(ot.sliced_wasserstein).parameters)[:2] == ["x", "y"]
    assert ot.sliced_wasserstein(X, X, key=jr.key(0)) == 0


@pytest.mark.parametrize("room", sorted(calls.rooms()))
def test_everything_public_with_arguments_is_gated(room):
    for call in calls.calls(room):
        plain = call.function.__init__ if inspect.isclass(call.function) else call.function
        named = not inspect.isclass(call.function) or not issubclass(call.function, tuple)
        assert not (call.hints and named) or _is_gated(plain), call.name


def _is_gated(function):
    """Whether one of the functions that wrap each other is the gate's."""
    while function is not None:
        if getattr(function, "__code__", None) is ot.solve.__code__:
            return True
        function = getattr(function, "__wrapped__", getattr(function, "__func__", None))
    return False
