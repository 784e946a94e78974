"""The one clock: against diffrax's own loop, closed forms and finite differences."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from tests.helpers import check_derivatives
from transportx.evolution import AdaptiveSteps, FixedSteps, Noise, integrate

Y0 = {"a": jnp.array([0.4, -1.1]), "b": jnp.array(0.7)}
RATE = jnp.array(0.8)


def swing(t, y, rate):
    """Not autonomous, not linear, and the parts of the state act on each other."""
    return {"a": jnp.sin(3 * t) * y["a"] - rate * y["b"], "b": jnp.cos(y["a"][0]) - y["b"] ** 2}


WRONG: Any = "many"
TIMES = jnp.array([0.0, 0.05, 0.06, 0.5, 0.93, 1.0])
SOLVERS = {
    "euler": diffrax.Euler(),
    "tsit5": diffrax.Tsit5(),
    "rk4": tx.sampling.RK4(),
    "reversible": diffrax.ReversibleHeun(),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_fixed_steps_and_records_are_those_of_diffrax(solver):
    """Records in one step, in none, at nodes and at both ends; forward and back."""
    grid = tx.sampling.PowerGrid(1.7)

    @jax.jit
    def both(t0, t1, times):
        nodes = t0 + (t1 - t0) * grid(7, jnp.float64)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(swing),
            solver,
            t0,
            t1,
            None,
            Y0,
            RATE,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.StepTo(ts=nodes),
            max_steps=7,
        )
        steps = FixedSteps(7, solver, grid)
        made = integrate(swing, Y0, RATE, t0=t0, t1=t1, steps=steps, times=times)
        return solution.ys, made

    for t0, t1, times in ((0.0, 1.0, TIMES), (1.0, 0.0, TIMES[::-1])):
        theirs, ours = both(jnp.array(t0), jnp.array(t1), times)
        for one, other in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours.states), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-13, atol=1e-13)
        assert ours.completed
        assert ours.num_steps == 7


@pytest.mark.slow
def test_fixed_steps_differentiate_in_both_modes_to_second_order():
    """In the state, the rate, both ends of time and the recorded times, across a remainder."""

    def recorded(y0, rate, t1, times):
        steps = FixedSteps(5, diffrax.Heun())
        return integrate(swing, y0, rate, t0=0.1, t1=t1, steps=steps, times=times).states

    check_derivatives(recorded, Y0, RATE, jnp.array(1.1), jnp.array([0.33, 0.95]), order=2)


def test_first_derivatives_of_a_solver_that_keeps_its_last_stage():
    def last(y0, rate):
        return integrate(swing, y0, rate, steps=FixedSteps(3, diffrax.Tsit5())).states

    check_derivatives(last, Y0, RATE)


def test_checkpoints_change_memory_and_not_derivatives():
    def slope(checkpoint):
        steps = FixedSteps(11, checkpoint=checkpoint)

        def total(y0):
            return sum(
                map(jnp.sum, jax.tree.leaves(integrate(swing, y0, RATE, steps=steps).states))
            )

        return jax.jit(jax.grad(total))

    kept, again = slope(False)(Y0), slope(True)(Y0)
    assert jnp.allclose(kept["a"], again["a"], rtol=1e-13)
    assert jnp.allclose(kept["b"], again["b"], rtol=1e-13)

    def held(checkpoint):
        def total(x):
            made = integrate(
                lambda t, y, args: jnp.sin(y), x, steps=FixedSteps(400, checkpoint=checkpoint)
            )
            return jnp.sum(made.states)

        shape = jax.ShapeDtypeStruct((1000,), jnp.float64)
        analysis = jax.jit(jax.grad(total)).lower(shape).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes / 8000

    # In states: every step's without, about twice the root of 400 with.
    assert held(False) > 390
    assert held(True) < 80


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_fixed_steps_lower_without_a_call_to_the_host(platform):
    def carried(y0, times):
        steps = FixedSteps(6, diffrax.Tsit5())
        noisy = integrate(swing, y0, RATE, steps=6, noise=Noise(lambda t, args: t, jr.key(0)))
        return integrate(swing, y0, RATE, steps=steps, times=times).states, noisy.states

    program = jax.jit(carried).trace(Y0, TIMES).lower(lowering_platforms=(platform,)).as_text()
    assert "callback" not in program
    assert "xla_ffi" not in program


NOISY = {
    name: getattr(diffrax, name)()
    for name in ("Euler", "Heun", "SEA", "SRA1", "ShARK", "SPaRK", "SlowRK")
}


@pytest.mark.parametrize("solver", NOISY.values(), ids=NOISY.keys())
def test_every_solver_of_additive_noise_has_the_law_of_the_equation(solver):
    """dX = -X dt + (1 + t) dW from 1: mean exp(-1), variance (5 - exp(-2)) / 4."""
    count = 20_000
    steps = FixedSteps(40, solver)

    @jax.jit
    def ends(key):
        start = {"one": jnp.ones(count), "other": jnp.ones((count, 1))}
        noise = Noise(lambda t, args: 1 + t, key)
        made = integrate(
            lambda t, x, a: jax.tree.map(jnp.negative, x), start, steps=steps, noise=noise
        )
        return made.states

    found = ends(jr.key(5))
    one, other = np.asarray(found["one"]), np.asarray(found["other"])[:, 0]
    variance = (5 - np.exp(-2)) / 4
    # Four standard errors, and 40 steps of a scheme of weak order one.
    for sample in (one, other):
        assert abs(sample.mean() - np.exp(-1)) < 4 * np.sqrt(variance / count) + 0.5 / 40
        assert abs(sample.var() - variance) < 4 * variance * np.sqrt(2 / count) + 1 / 40
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(count)


def test_area_solvers_see_the_path_inside_a_step():
    """One step of ShARK of dX = -X dt + dW: X = (1 - h / 2) (W - h H), by its tableau.

    W has variance h; the area H, of variance h / 12, is independent of it.
    """
    count, h = 200_000, 0.5
    noise = Noise(lambda t, args: jnp.ones_like(t), jr.key(8))
    steps = FixedSteps(1, diffrax.ShARK())
    made = integrate(lambda t, x, a: -x, jnp.zeros(count), t1=h, steps=steps, noise=noise)
    exact = (1 - h / 2) ** 2 * (h + h**3 / 12)
    assert abs(np.var(np.asarray(made.states)) - exact) < 4 * exact * np.sqrt(2 / count)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("num", [100, 1000])
def test_halves_keep_time_and_sums_in_single_precision(dtype, num):
    start = jnp.full((2, 3), 0.7, dtype)
    ends = tx.sampling.flow(lambda t, x, args: jnp.full_like(x, 0.3), start, steps=num)
    assert ends.dtype == dtype
    assert jnp.all(ends == 1)
    # Time itself: the mean of sin(20 t) over [0, 1].
    path = tx.sampling.flow(
        lambda t, x, args: jnp.sin(20 * t) * jnp.ones_like(x), 0 * start, steps=num
    )
    assert np.allclose(path.astype(jnp.float32), (1 - np.cos(20)) / 20, atol=0.5 / num + 1e-3)


def test_noise_of_halves_is_not_of_halves():
    noise = Noise(lambda t, args: jnp.ones_like(t), jr.key(3))
    ends = integrate(lambda t, x, a: 0 * x, jnp.zeros(4000, jnp.bfloat16), steps=1000, noise=noise)
    assert ends.states.dtype == jnp.bfloat16
    assert abs(np.var(np.asarray(ends.states, np.float32)) - 1) < 4 * np.sqrt(2 / 4000)


def test_what_happened_is_in_the_status():
    steps = AdaptiveSteps(1e-6, 1e-6, max_steps=50)

    @jax.jit
    def adaptive(x, times):
        return integrate(lambda t, y, args: y**2, x, steps=steps, times=times)

    times = jnp.array([0.25, 1.0])
    calm, steep, lost = (adaptive(jnp.array(x), times) for x in (0.5, 2.0, jnp.nan))
    assert calm.status == tx.Status.COMPLETED
    assert jnp.allclose(calm.states, jnp.array([4 / 7, 1.0]), atol=1e-4)
    assert steep.status == tx.Status.MAX_STEPS
    assert steep.num_steps == 50
    assert jnp.allclose(steep.states[0], 4.0, atol=1e-3)
    assert jnp.isnan(steep.states[1])
    assert lost.status == tx.Status.NON_FINITE

    fixed = jax.jit(lambda x: integrate(lambda t, y, args: 1e200 * y**3, x, steps=5))
    assert fixed(jnp.array(1.0)).status == tx.Status.NON_FINITE
    assert fixed(jnp.array(0.0)).completed


def test_records_outside_of_the_span_are_nan_and_not_a_guess():
    found = jax.jit(lambda ts: integrate(swing, Y0, RATE, steps=4, times=ts).states)(
        jnp.array([-0.1, 0.5, 1.2])
    )
    assert jnp.array_equal(jnp.isnan(found["b"]), jnp.array([True, False, True]))


def test_adaptive_steps_differentiate_in_the_mode_that_they_name():
    def end(derivatives):
        steps = AdaptiveSteps(1e-9, 1e-9, derivatives=derivatives)
        return lambda y: integrate(lambda t, y, a: jnp.sin(y), y, steps=steps).states

    # tan(y / 2) grows by e.
    y, grown = 0.6, np.e * np.tan(0.3)
    exact = np.e / np.cos(0.3) ** 2 / (1 + grown**2)
    assert np.isclose(end("reverse")(jnp.array(y)), 2 * np.arctan(grown), atol=1e-7)
    along = jax.jvp(end("forward"), (jnp.array(y),), (jnp.ones(()),))[1]
    assert np.isclose(along, exact, atol=1e-7)
    assert np.isclose(jax.grad(end("reverse"))(jnp.array(y)), exact, atol=1e-7)


def test_an_event_ends_the_way():
    """y' = -y from 1 is below 1/4 at the end of a step after log 4."""
    made = tx.evolution.integrate_until(
        lambda t, y, args: (jnp.ones(()), -y[1]),
        (jnp.zeros(()), jnp.ones(())),
        lambda y: y[1] < 0.25,
        steps=AdaptiveSteps(1e-8, 1e-8),
    )
    assert made.completed
    assert np.log(4) < made.states[0] < np.log(4) + 0.3
    assert np.isclose(made.states[1], np.exp(-made.states[0]), atol=1e-7)


def test_a_network_of_another_precision_follows_its_points():
    field = tx.fields.MLP(2, 4, 1, key=jr.key(0))

    def cast(to):
        return jax.tree.map(
            lambda leaf: leaf.astype(to) if eqx.is_inexact_array(leaf) else leaf, field
        )

    single, double = cast(jnp.float32), cast(jnp.float64)
    x0 = jr.normal(jr.key(1), (3, 2), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        ends = tx.sampling.flow(double, x0, steps=4)
    assert ends.dtype == jnp.float32
    assert jnp.allclose(ends, tx.sampling.flow(single, x0, steps=4), atol=1e-5)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FixedSteps(0), "`steps` is 0; give an integer of at least 1"),
        (lambda: FixedSteps(3, diffrax.Kvaerno3()), "`solver` is implicit.*root_finder="),
        (lambda: AdaptiveSteps(1e-3, -1.0), "`atol` is -1.0; give a positive number"),
        (lambda: AdaptiveSteps(1e-3, 1e-3, diffrax.Euler()), "`solver` is .*error estimate"),
        (
            lambda: integrate(swing, Y0, RATE, steps=FixedSteps(3, grid=lambda n, d: jnp.zeros(n))),
            "`grid` returns shape",
        ),
        (lambda: integrate(lambda t, y, a: y["a"], Y0), "`field` returns .*every part"),
        (lambda: integrate(lambda t, y, a: y.astype(complex), jnp.ones(2)), "has dtype complex128"),
        (lambda: integrate(lambda t, y, a: y, jnp.ones(2, int)), "`y0` has dtype int"),
        (lambda: integrate(swing, Y0, RATE, steps=WRONG), "`steps` is"),
        (
            lambda: integrate(
                lambda t, y, a: y,
                jnp.ones(2),
                steps=AdaptiveSteps(1e-3, 1e-3),
                noise=Noise(lambda t, a: t, jr.key(0)),
            ),
            "`steps` is adaptive where there is noise",
        ),
    ],
)
def test_bad_input_is_named_with_a_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("steps", [FixedSteps(8), AdaptiveSteps(1e-2, 1e-2)])
def test_parts_of_different_dtypes_move_as_each_alone_does(steps):
    kinds = (jnp.bfloat16, jnp.float64, jnp.float32)
    seen = []

    def rates(t, y, args):
        seen.append([str(part.dtype) for part in (t, *y)])
        return tuple(-part for part in y)

    y0 = tuple(jnp.array([1.0, 2.0], kind) for kind in kinds)
    made = integrate(rates, y0, t1=1.0, steps=steps)
    assert all(dtypes == ["float32", "float32", "float64", "float32"] for dtypes in seen)
    assert tuple(part.dtype for part in made.states) == kinds
    assert made.completed
    exact = integrate(lambda t, y, args: -y, y0[1], t1=1.0, steps=steps).states
    for part, slack in zip(made.states, (4e-3, 1e-6, 1e-6), strict=True):
        np.testing.assert_allclose(part.astype(float), exact, rtol=slack)
