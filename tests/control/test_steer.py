"""Density control: against closed forms, the semidefinite program, searches and differences."""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import transportx as tx
from tests.control.systems import (
    Steered,
    control,
    measure,
    policy_error,
    random_problem,
    unit_cost,
)
from tests.helpers import check_derivatives, quick

INF = np.inf
EYE, ZEROS = jnp.eye(2), jnp.zeros((2, 2))
WIDE = jnp.array([[2.0, 0.5], [0.5, 1.0]])
INTEGRATOR = control.constant_system(EYE, EYE, ZEROS, steps=4)
START, END = jnp.array([1.0, -1.0]), jnp.array([2.0, 1.0])


def steer(system, source, target, *, R=EYE, rho_a=INF, rho_b=INF):
    return control.steer(system, R, source, target, rho_a=rho_a, rho_b=rho_b)


def is_status(answer, word):
    return bool(answer.status == getattr(tx.Status, word))


# Closed forms


def test_a_single_integrator_pays_the_squared_distance_over_the_steps():
    answer = steer(INTEGRATOR, measure(3.0, START, EYE), measure(3.0, END, WIDE))
    distance = tx.gaussians.wasserstein2_squared(START, EYE, END, WIDE)
    np.testing.assert_allclose(answer.value, 3 * distance / 4, rtol=1e-12)
    np.testing.assert_allclose(answer.control_cost, answer.value, rtol=1e-10)
    np.testing.assert_allclose(answer.means[2], (START + END) / 2, rtol=1e-12)
    assert answer.converged
    assert answer.deterministic
    assert float(answer.dynamics_residual) < 1e-14


def test_a_known_start_is_left_by_a_control_that_is_drawn():
    answer = steer(INTEGRATOR, measure(1.0, START, ZEROS), measure(1.0, END, WIDE))
    # One control is drawn and repeated: the transport of a point.
    transport = jnp.sum((END - START) ** 2) + jnp.trace(WIDE)
    np.testing.assert_allclose(answer.value, transport / 4, rtol=1e-7)
    assert answer.converged
    assert not answer.deterministic
    assert float(answer.value) <= float(transport) / 4 <= float(answer.value + answer.gap)
    np.testing.assert_allclose(answer.covariances[-1], WIDE, rtol=1e-5)


def test_without_noise_it_is_unbalanced_transport_by_the_gramian():
    problem = random_problem(3, 2, 2, 4, radius=1.2, rhos=(2.0, 3.0))
    turn = jnp.array([[1.1, 0.3], [-0.2, 0.9]])
    system = control.constant_system(turn, problem.system.B[0], ZEROS, steps=4)
    problem = problem._replace(system=system)
    answer = problem.by()
    transition, gramian = np.eye(2), np.zeros((2, 2))
    A, B = (np.asarray(each) for each in (problem.system.A[0], problem.system.B[0]))
    for _ in range(4):
        transition = A @ transition
        gramian = A @ gramian @ A.T + B @ np.linalg.solve(problem.R, B.T)
    root = np.linalg.inv(np.linalg.cholesky(gramian))  # of the inverse Gramian

    def seen(law, to):
        to = jnp.asarray(to)
        return law.mass, to @ law.mean, to @ law.covariance @ to.T

    ends = (*seen(problem.source, root @ transition), *seen(problem.target, root))
    plan = tx.gaussians.unbalanced(*ends, rho_a=2.0, rho_b=3.0)
    np.testing.assert_allclose(answer.value, plan.value, rtol=1e-10)
    np.testing.assert_allclose(answer.mass, plan.mass, rtol=1e-10)
    last = seen(measure(1.0, answer.means[-1], answer.covariances[-1]), root)
    np.testing.assert_allclose(last[1], plan.m1, rtol=1e-9)
    np.testing.assert_allclose(last[2], plan.S1, rtol=1e-9)


def test_growing_penalties_tend_to_enforced_ends():
    hard = random_problem(4, 2, 2, 4, radius=0.8, noise=0.05)
    soft = hard._replace(rho_a=1e9, rho_b=1e9).by()
    enforced = hard.by()
    np.testing.assert_allclose(soft.value, enforced.value, rtol=1e-7)
    np.testing.assert_allclose(soft.mass, enforced.mass, rtol=1e-7)
    np.testing.assert_allclose(enforced.covariances[-1], hard.target.covariance, rtol=1e-9)
    np.testing.assert_allclose(soft.policy.gains, enforced.policy.gains, atol=1e-6)
    half = hard._replace(rho_b=2.0).by()
    np.testing.assert_allclose(half.mass, 1.5, rtol=1e-14)
    assert float(half.value) < float(enforced.value)


@pytest.mark.parametrize("rhos", [(2.0, 0.5), (INF, 0.7), (1.3, INF)])
def test_the_mass_is_that_of_a_search(rhos):
    problem = random_problem(5, 2, 2, 4, radius=1.1, noise=0.05, rhos=rhos)
    answer = problem.by()
    cost = unit_cost(problem, answer)
    a, b = float(problem.source.mass), float(problem.target.mass)

    def total(mass):
        pairs = ((a, rhos[0]), (b, rhos[1]))
        finite = [(m, rho) for m, rho in pairs if np.isfinite(rho)]
        return mass * cost + sum(rho * (mass * np.log(mass / m) - mass + m) for m, rho in finite)

    found = next((m for m, rho in ((a, rhos[0]), (b, rhos[1])) if np.isinf(rho)), None)
    if found is None:
        options = {"xatol": 1e-10}
        search: Any = scipy.optimize.minimize_scalar(
            total, bounds=(1e-3, 5.0), method="bounded", options=options
        )
        found = search.x
    np.testing.assert_allclose(answer.mass, found, rtol=1e-7)
    np.testing.assert_allclose(answer.value, total(float(answer.mass)), rtol=1e-9)


# The semidefinite program


FEW = {
    "enforced": random_problem(10, 2, 2, 4, radius=0.8, noise=0.05),
    "penalised": random_problem(11, 2, 2, 4, radius=1.3, noise=0.05, rhos=(1.0, 2.0)),
    "noise-free": random_problem(12, 2, 2, 4, radius=1.0, rhos=(INF, 1.0)),
    "singular": random_problem(13, 2, 2, 4, radius=0.9, singular=True, rhos=(3.0, INF)),
}


@pytest.mark.parametrize("problem", FEW.values(), ids=FEW.keys())
def test_newton_agrees_with_the_semidefinite_program(problem):
    answer, reference = problem.by(), problem.by(control.Conic())
    assert answer.converged
    # Its own word for this, at its tightest tolerance, depends on the machine.
    assert float(reference.gap) < 3e-9 * float(reference.value)
    np.testing.assert_allclose(answer.value, reference.value, rtol=1e-7)
    np.testing.assert_allclose(answer.mass, reference.mass, rtol=1e-6)
    np.testing.assert_allclose(answer.means, reference.means, atol=1e-5)
    if answer.deterministic:
        assert float(policy_error(answer, reference)) < 1e-4
    assert float(reference.value) <= float(answer.value + answer.gap) * (1 + 1e-8)


def test_the_semidefinite_program_knows_targets_out_of_reach():
    noisy = control.constant_system(EYE, EYE, EYE, steps=4)
    ends = measure(1.0, START, EYE), measure(1.0, END, EYE / 2)
    for solver in (control.DualNewton(), control.Conic()):
        answer = control.steer(noisy, EYE, *ends, solver=solver)
        assert is_status(answer, "INFEASIBLE")
        assert jnp.isnan(answer.value)


def test_the_semidefinite_program_stays_on_the_host_and_says_what_it_needs(monkeypatch):
    arguments = INTEGRATOR, EYE, measure(1.0, START, EYE), measure(1.0, END, EYE)
    with pytest.raises(ValueError, match="`solver` is `Conic`, which runs on the host"):
        jax.eval_shape(lambda *given: control.steer(*given, solver=control.Conic()), *arguments)
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(ImportError, match=r'pip install "transportx\[control\]"') as refused:
        control.steer(*arguments, solver=control.Conic())
    assert "\n" not in str(refused.value)


# Statuses


ONE_FORCE = jnp.array([[0.0, 0.0], [0.1, 0.0]])
DOUBLE = jnp.array([[1.0, 0.1], [0.0, 1.0]])
NOISY = control.constant_system(EYE, EYE, EYE, steps=4)
STRAIGHT = control.constant_system(DOUBLE, ONE_FORCE, ZEROS, steps=4)
APART = control.constant_system(EYE, ONE_FORCE, ZEROS, steps=4)
HOME, AWAY = measure(1.0, START, EYE), measure(1.0, END, WIDE)
BAD = {
    "noise spreads more than the target": ("INFEASIBLE", NOISY, HOME, measure(1.0, END, EYE / 2)),
    "masses differ": ("INFEASIBLE", INTEGRATOR, HOME, measure(1.1, END, WIDE)),
    "a mass of zero": ("INFEASIBLE", INTEGRATOR, HOME, measure(0.0, END, WIDE)),
    "an indefinite source": ("INFEASIBLE", INTEGRATOR, measure(1.0, START, -EYE), AWAY),
    "a singular target": ("INFEASIBLE", INTEGRATOR, HOME, measure(1.0, END, ZEROS)),
    "an uncontrollable pair": ("UNCONTROLLABLE", APART, HOME, AWAY),
    "not a number": ("NON_FINITE", INTEGRATOR, HOME, measure(1.0, END * jnp.nan, WIDE)),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_a_problem_without_an_answer_says_why_and_is_nan(case):
    word, *arguments = case
    answer = steer(*arguments)
    assert is_status(answer, word)
    for numbers in (answer.value, answer.mass, answer.means, answer.covariances, answer.policy):
        assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(numbers))


def test_costs_of_controls_must_be_positive():
    for R in (-EYE, jnp.array([[1.0, 2.0], [2.0, 1.0]]), ZEROS):
        assert is_status(steer(INTEGRATOR, HOME, AWAY, R=R), "INFEASIBLE")


def test_a_penalty_makes_an_uncontrollable_pair_a_problem_again():
    answer = steer(APART, HOME, AWAY, rho_b=2.0)
    assert answer.converged
    # What no control moves stays where it is.
    np.testing.assert_allclose(answer.means[:, 0], START[0], rtol=1e-12)
    np.testing.assert_allclose(answer.covariances[:, 0, 0], 1, rtol=1e-12)
    assert steer(STRAIGHT, HOME, AWAY).converged


def test_too_few_steps_say_so():
    solver = control.DualNewton(max_steps=2)
    answer = control.steer(INTEGRATOR, EYE, HOME, AWAY, solver=solver)
    assert is_status(answer, "MAX_STEPS")
    assert not answer.converged


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"R": jnp.eye(3)}, "R"),
        ({"source": measure(1.0, jnp.zeros(3), jnp.eye(3))}, "source.mean"),
        ({"target": control.GaussianMeasure(0.0, START, EYE)}, "target.mass"),
        ({"rho_a": 0.0}, "rho_a"),
        ({"rho_b": -1.0}, "rho_b"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, argument):
    given = {"system": INTEGRATOR, "R": EYE, "source": HOME, "target": AWAY} | change
    with pytest.raises(ValueError, match=f"^`{argument}`"):
        control.steer(**given)


@pytest.mark.usefixtures("without_type_checks")
def test_bad_systems_are_refused_by_name():
    with pytest.raises(ValueError, match="^`A`"):
        control.LinearSystem(jnp.zeros((4, 2, 3)), jnp.zeros((4, 2, 1)), jnp.zeros((4, 2, 2)))
    with pytest.raises(ValueError, match="^`A`"):
        control.LinearSystem(jnp.zeros((0, 2, 2)), jnp.zeros((0, 2, 1)), jnp.zeros((0, 2, 2)))
    with pytest.raises(ValueError, match="^`steps`"):
        control.constant_system(EYE, EYE, ZEROS, steps=0)
    with pytest.raises(ValueError, match="^`tol`"):
        control.DualNewton(tol=INF)
    with pytest.raises(ValueError, match="^`tol`"):
        control.Conic(tol=INF)


# Transforms


def _outcome(A, B, noise, R, m0, S0, m1, S1, masses, rhos):
    system = control.constant_system(A, B, noise, steps=3)
    source, target = measure(masses[0], m0, S0), measure(masses[1], m1, S1)
    answer = Steered(system, R, source, target, *rhos).by()
    return answer.value, answer.mass, answer.policy, answer.means, answer.covariances


ARGUMENTS = (
    DOUBLE,
    jnp.array([[0.1], [0.5]]),
    EYE / 50,
    jnp.eye(1),
    START,
    EYE,
    END,
    WIDE,
    jnp.array([1.5, 0.7]),
    jnp.array([2.0, 3.0]),
)


@pytest.mark.slow
def test_everything_differentiates_in_everything():
    check_derivatives(_outcome, *ARGUMENTS, step=1e-5, tol=1e-5)


@pytest.mark.slow
def test_enforced_ends_differentiate_too():
    def outcome(*given: Any, **held: Any):
        value, _, policy, _, covariances = _outcome(*given, **held)
        return value, policy, covariances

    hard = functools.partial(outcome, masses=jnp.ones(2), rhos=(INF, INF))
    check_derivatives(hard, *ARGUMENTS[:-2], step=1e-5, tol=1e-5)


def test_a_batch_is_its_members_and_a_failed_one_spoils_no_other():
    def one(mean):
        target = control.GaussianMeasure(jnp.array(1.0), mean, WIDE)
        return steer(INTEGRATOR, HOME, target, rho_b=2.0)

    means = jnp.stack([END, jnp.full(2, jnp.nan), 2 * END])
    batch = quick(jax.vmap(one))(means)
    assert batch.converged.tolist() == [True, False, True]
    for i in (0, 2):
        np.testing.assert_allclose(batch.value[i], one(means[i]).value, rtol=1e-12)
        np.testing.assert_allclose(batch.policy.gains[i], one(means[i]).policy.gains, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_costs_go_by_the_square_of_the_length_that_is_the_unit(scale):
    A, B, noise = jnp.array([[1.0, 0.1], [0.0, 1.0]]), jnp.array([[0.0], [1.0]]), 0.01 * jnp.eye(2)

    @jax.jit
    def value(scale):
        square = scale**2
        system = control.constant_system(
            *(part.astype(jnp.float32) for part in (A, B, square * noise)), steps=8
        )
        ends = [(0.0, 1.0), (1.0, 2.0)]
        laws = [
            control.GaussianMeasure(
                jnp.float32(1.0),
                jnp.full(2, mean * scale, jnp.float32),
                (spread * square * jnp.eye(2)).astype(jnp.float32),
            )
            for mean, spread in ends
        ]
        answer = control.steer(system, jnp.eye(1, dtype=jnp.float32), *laws)
        return answer.converged, answer.value

    converged, scaled = value(jnp.array(scale))
    assert converged
    np.testing.assert_allclose(scaled / scale**2, value(jnp.array(1.0))[1], rtol=1e-5)
