"""Flows of densities on cells and of Gaussians: structure, closed solutions, orders."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg

import transportx as tx
import transportx.gradient_flows as gf
from tests.helpers import check_reverse, quick
from tests.tables import _ends, covariance

BOX = gf.CellBox((-3.0,), (3.0,), (40,))
CENTRES = BOX.centres[:, 0]


def bump(centre, width, box=BOX):
    """Masses of a Gaussian on the cells, of total one, on a faint background."""
    squares = jnp.sum((box.centres - centre) ** 2, axis=1)
    masses = jnp.exp(-squares / (2 * width**2)) + 1e-12
    return masses / jnp.sum(masses)


def double_well(x):
    return jnp.sum((x**2 - 1) ** 2)


PARTS = (
    gf.Potential(double_well),
    gf.Potential(lambda x: jnp.sum(x**2)),
    gf.Interaction(tx.geometry.SquaredEuclidean()),
    gf.Interaction(gf.Gaussian(0.4)),
    gf.MMD(jnp.array([[-1.0], [1.2]]), gf.Gaussian(0.8)),
    gf.Entropy(BOX.volume),
    gf.HalfFisher(BOX, bump(0.0, 1.0)),
)


def combined(*factors, exponent=2.0, cap=1e6):
    """Multiples of all parts, of the porous medium and of a cap: one program for every choice."""
    factors = *factors, *(0.0,) * (len(PARTS) + 2 - len(factors))
    parts = *PARTS, gf.PorousMedium(BOX.volume, exponent), gf.DensityCap(BOX.volume, cap, 0.01)
    return gf.FunctionalSum(tuple(gf.Scaled(*pair) for pair in zip(factors, parts, strict=True)))


CAP = 0.7
DESCENTS = {
    "heat": combined(0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    "fokker_planck": combined(1.0, 0.0, 0.0, 0.0, 0.0, 0.3),
    "porous": combined(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    "porous_drift": combined(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, exponent=3.0),
    "aggregation": combined(0.0, 0.0, 1.0, 1.0, 0.0, 0.05),
    "mmd": combined(0.0, 0.0, 0.0, 0.0, 1.0, 0.01),
    "quantum_drift": combined(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    "crowd": combined(0.0, 1.0, 0.0, 0.0, 0.0, 0.02, 0.0, 0.0, 1.0, cap=CAP),
}
NUM_STEPS = 10


@quick
def carry(functional, masses, t1):
    """Ten steps, of a program compiled once."""
    return gf.grid_flow(functional, BOX, masses, t1=t1, steps=NUM_STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", DESCENTS)
def test_steps_far_beyond_the_explicit_limit_keep_the_structure(name):
    functional = DESCENTS[name]
    masses = bump(-0.8, 0.4) / 2 + bump(0.5, 0.7) / 2
    step = 100 * BOX.volume**2 / 2
    made = carry(functional, masses, NUM_STEPS * step)
    assert made.completed, (tx.Status[made.status], made.decrement)
    assert jnp.allclose(jnp.sum(made.masses, axis=1), jnp.sum(masses), rtol=0, atol=1e-12)
    assert jnp.all(made.masses > 0)
    assert jnp.all(jnp.diff(made.energy) <= 1e-15)


def test_the_structure_holds_even_where_newton_is_cut_short():
    box = gf.CellBox((-2.0,), (2.0,), (12,))
    functional = gf.Potential(double_well) + gf.PorousMedium(box.volume, 2.0)
    options = {"t1": 20.0, "steps": 3, "max_steps": 2}
    made = quick(lambda m: gf.grid_flow(functional, box, m, **options))(bump(-0.4, 0.4, box))
    assert made.status == tx.Status.MAX_STEPS
    assert jnp.allclose(jnp.sum(made.masses, axis=1), 1, rtol=0, atol=1e-12)
    assert jnp.all(made.masses > 0)
    assert jnp.all(jnp.diff(made.energy) < 0)


@pytest.mark.slow
def test_fokker_planck_rests_at_the_gibbs_measure_of_the_cells():
    made = carry(DESCENTS["fokker_planck"], bump(-0.5, 0.6), 1e6)
    gibbs = jnp.exp(-jax.vmap(double_well)(BOX.centres) / 0.3)
    assert jnp.allclose(made.masses[-1], gibbs / jnp.sum(gibbs), atol=1e-8)


@pytest.mark.slow
def test_crowds_rest_where_pressure_and_potential_balance():
    crowd, start = DESCENTS["crowd"], bump(-0.8, 0.7)
    made = gf.grid_flow(crowd, BOX, start, t1=1e6, steps=NUM_STEPS, tol=1e-12)
    assert made.completed
    assert jnp.max(made.masses) < CAP * BOX.volume
    potential = np.asarray(CENTRES) ** 2

    def pressed(level):
        """Masses of one level: V + .02 (log rho + 1) + .01 / (1 - rho / c), by bisection."""
        low, high = np.full(40, 1e-290), np.full(40, CAP)
        for _ in range(80):
            middle = np.sqrt(low) * np.sqrt(high)
            slope = potential + 0.02 * (np.log(middle) + 1) + 0.01 / (1 - middle / CAP)
            low, high = np.where(slope < level, middle, low), np.where(slope < level, high, middle)
        return low * BOX.volume

    level = scipy.optimize.brentq(lambda level: pressed(level).sum() - 1, -1, 4, xtol=1e-14)
    assert jnp.allclose(made.masses[-1], pressed(level), atol=1e-8)
    # Hard congestion: the cap up to 1 / 2 c from the centre, and nothing beyond.
    edges = np.linspace(-3, 3, 41)
    packed = np.diff(np.clip(edges, -1 / (2 * CAP), 1 / (2 * CAP))) * CAP
    assert np.sum(np.abs(np.asarray(made.masses[-1]) - packed)) < 0.15


def test_masses_above_the_cap_are_infeasible():
    made = carry(DESCENTS["crowd"], bump(0.0, 0.4), 0.1)
    assert made.status == tx.Status.INFEASIBLE
    assert jnp.all(jnp.isnan(made.masses))


def test_half_fisher_information_is_of_second_order_in_the_cells():
    mean, width = 0.3, 0.8
    exact = gf.GaussianFisher(jnp.zeros(1), jnp.eye(1))(jnp.array([mean]), jnp.array([[width**2]]))
    errors = []
    for cells in (60, 120):
        box = gf.CellBox((-6.0,), (6.0,), (cells,))
        squares = box.centres[:, 0] ** 2
        masses = jnp.exp(-((box.centres[:, 0] - mean) ** 2) / (2 * width**2))
        found = gf.HalfFisher(box, jnp.exp(-squares / 2))(box.centres, masses / jnp.sum(masses))
        errors.append(abs(float(found - exact)))
    assert 3.8 < errors[0] / errors[1] < 4.2


def test_half_fisher_flows_square_variances_exponentially():
    # c' = 2 (1 / c - c) has c^2 = 1 + (c(0)^2 - 1) e^{-4t}.
    start, ends = bump(0.0, 0.6), []
    for rounds in (1, 2):
        masses = start
        for _ in range(rounds):
            masses = carry(DESCENTS["quantum_drift"], masses, 0.2 / rounds).masses[-1]
        ends.append(masses @ CENTRES**2)
    first = start @ CENTRES**2
    expected = jnp.sqrt(1 + (first**2 - 1) * jnp.exp(-0.8))
    # Richardson's limit in time; cells of .15 and walls at 3 leave a percent.
    assert abs((2 * ends[1] - ends[0]) / expected - 1) < 0.01


@pytest.mark.slow
def test_grid_steps_are_of_first_order_in_time():
    ends = []
    for rounds in (4, 8, 16):
        masses = bump(-0.5, 0.6)
        for _ in range(rounds):
            masses = carry(DESCENTS["fokker_planck"], masses, 0.2 / rounds).masses[-1]
        ends.append(masses)
    ratio = jnp.sum(jnp.abs(ends[0] - ends[1])) / jnp.sum(jnp.abs(ends[1] - ends[2]))
    assert 1.9 < ratio < 2.1


def barenblatt(t, x, exponent=2.0, height=0.3):
    """In one dimension; the mass is what it is."""
    rate = 1 / (exponent + 1)
    bend = rate * (exponent - 1) / (2 * exponent)
    inside = np.maximum(height - bend * x**2 * t ** (-2 * rate), 0)
    return t**-rate * inside ** (1 / (exponent - 1))


def averaged(t, box):
    """Masses of the profile on cells, by the midpoints of 50 parts of each."""
    width = box.volume
    parts = (np.arange(50) + 0.5) / 50 * width - width / 2
    return jnp.asarray(np.mean(barenblatt(t, np.asarray(box.centres) + parts), axis=1) * width)


def test_porous_medium_follows_barenblatt_at_second_order_in_the_cells():
    errors = []
    for cells in (30, 60):
        box = gf.CellBox((-4.0,), (4.0,), (cells,))
        # Cells ahead of the fronts are empty.
        start = averaged(1.0, box)
        functional = gf.PorousMedium(box.volume, 2.0)
        # Four times the steps for half the cells: both errors fall by four.
        end = quick(
            lambda start, f=functional, box=box, n=cells**2 // 150: gf.grid_flow(
                f, box, start, t1=1.0, steps=n
            )
        )(start).masses[-1]
        errors.append(float(jnp.sum(jnp.abs(end - averaged(2.0, box))) / jnp.sum(start)))
    assert errors[1] < 0.004
    assert 3.0 < errors[0] / errors[1] < 6.0


def test_heat_spreads_a_gaussian_by_two_t():
    made = carry(DESCENTS["heat"], bump(0.0, 0.6), 0.1)
    moments = made.masses @ CENTRES**2
    # Steps of .01 leave two percent.
    assert abs((moments[-1] - moments[0]) / 0.2 - 1) < 0.03


def test_flows_in_the_plane_keep_structure_and_symmetry_and_rest_at_gibbs():
    box = gf.CellBox((-2.0, -2.0), (2.0, 2.0), (6, 6))
    functional = gf.Potential(lambda x: jnp.sum(x**2)) + gf.Entropy(box.volume)
    start = bump(0.4, 0.6, box)
    made = quick(lambda m: gf.grid_flow(functional, box, m, t1=2e4, steps=3))(start)
    assert made.completed
    assert jnp.allclose(jnp.sum(made.masses, axis=1), 1, rtol=0, atol=1e-12)
    assert jnp.all(made.masses > 0)
    squares = made.masses.reshape(-1, 6, 6)
    assert jnp.allclose(squares, squares.transpose(0, 2, 1), atol=1e-12)
    gibbs = jnp.exp(-jnp.sum(box.centres**2, axis=1))
    assert jnp.allclose(made.masses[-1], gibbs / jnp.sum(gibbs), atol=1e-9)


@pytest.mark.slow
def test_grid_flows_differentiate_in_masses_time_and_parameters():
    box = gf.CellBox((-2.0,), (2.0,), (8,))

    def end(masses, stiffness, temperature, t1):
        well = gf.Potential(lambda x: stiffness * jnp.sum((x - 0.3) ** 2))
        pull = 0.3 * gf.Interaction(tx.geometry.SquaredEuclidean())
        functional = well + pull + temperature * gf.Entropy(box.volume)
        made = gf.grid_flow(functional, box, masses, t1=t1, steps=2)
        return made.masses[-1], made.energy[-1]

    arguments = bump(0.0, 0.8, box), jnp.array(0.7), jnp.array(0.5), jnp.array(0.4)
    # Minima are found to about 1e-10, which a smaller step would show.
    check_reverse(end, *arguments, step=1e-4)


def test_masses_that_are_negative_absent_or_not_numbers_end_in_a_status():
    start = bump(0.0, 1.0)
    for masses in (start.at[3].set(-1e-9), jnp.zeros_like(start)):
        made = carry(DESCENTS["heat"], masses, 0.1)
        assert made.status == tx.Status.INFEASIBLE
        assert jnp.all(jnp.isnan(made.masses))
    made = carry(DESCENTS["heat"], start.at[3].set(jnp.nan), 0.1)
    assert made.status == tx.Status.NON_FINITE


def test_heat_fills_cells_that_are_empty_or_nearly_so_as_if_they_never_were():
    def ends(mass):
        return carry(DESCENTS["heat"], bump(0.0, 0.6).at[jnp.array([3, 20, 21])].set(mass), 0.1)

    made = ends(0.0)
    assert made.completed
    laplacian = np.diff(np.diff(np.eye(40), axis=0, prepend=0, append=0), axis=0)
    laplacian[0, 0] = laplacian[-1, -1] = -1
    rates = laplacian / BOX.volume**2
    exact = scipy.linalg.expm(0.1 * rates) @ np.asarray(made.masses[0])
    # Ten implicit steps, of first order.
    assert jnp.allclose(made.masses[-1], exact, atol=0.02 * exact.max())
    for mass in (1e-300, 1e-20):
        assert jnp.allclose(ends(mass).masses[1:], made.masses[1:], atol=1e-11)


def test_porous_media_reach_one_level_in_both_wells_from_any_start():
    box = gf.CellBox((-3.0,), (3.0,), (48,))
    x = np.asarray(box.centres[:, 0])
    potential = 0.3 * (5 * (x**2 - 1) ** 2 + x)
    functional = gf.PorousMedium(box.volume, 3.0) + 0.3 * gf.Potential(
        lambda x: jnp.sum(5 * (x**2 - 1) ** 2 + x)
    )
    rough = jnp.exp(2 * jr.normal(jr.key(41), (48,)))
    holes = [rough.at[jnp.array([5, 6, 20, 24, 40])].set(mass) for mass in (0.0, 1e-300, 1e-20)]
    one_cell = jnp.zeros(48).at[30].set(1.0)
    starts = jnp.stack([rough, *holes, bump(-1.0, 0.2, box), one_cell, one_cell + 1e-20])
    starts = starts / jnp.sum(starts, axis=1, keepdims=True)

    def levelled(level):
        """Masses where 3/2 rho^2 + V is the level, none where V is above it."""
        return np.sqrt(np.maximum(level - potential, 0) / 1.5) * box.volume

    level = scipy.optimize.brentq(lambda level: levelled(level).sum() - 1, -1, 4, xtol=1e-14)

    @quick
    def carried(starts, t1):
        return jax.vmap(lambda m: gf.grid_flow(functional, box, m, t1=t1, steps=3))(starts)

    # What crosses between the wells needs a little mass there, about t1^-1/2.
    far, near = carried(starts, 1e13), carried(starts, 0.03)
    for made in (far, near):
        assert jnp.all(made.completed), made.decrement
        assert jnp.allclose(jnp.sum(made.masses, axis=2), 1, rtol=0, atol=1e-14)
        assert jnp.all(made.masses[:, 1:] > 0)
        assert jnp.all(jnp.diff(made.energy, axis=1) < 0)
    assert jnp.allclose(far.masses[:, -1], levelled(level)[None, :], atol=1e-6)
    # What a hole of 1e-20 changes is of its size, also where wells have not met.
    for k, other in ((1, 2), (1, 3), (5, 6)):
        assert jnp.allclose(near.masses[k, 1:], near.masses[other, 1:], atol=1e-8)


def test_one_porous_step_is_the_minimum_that_a_slow_barrier_method_finds():
    box, tau = gf.CellBox((-2.0,), (2.0,), (10,)), 0.1
    functional = gf.PorousMedium(box.volume, 3.0) + gf.Potential(double_well)
    start = jnp.zeros(10).at[jnp.array([2, 7])].set(jnp.array([0.7, 0.3]))
    made = quick(lambda m: gf.grid_flow(functional, box, m, t1=tau, steps=1))(start)
    assert made.completed
    potential = (box.centres[:, 0] ** 2 - 1) ** 2

    def cost(after, barrier):
        """Energy and Benamou-Brenier cost of a step on the line, and a barrier before zero."""
        passed = jnp.cumsum(start - after)[:-1]
        low, high = after[:-1], after[1:]
        mean = (low - high) / jnp.log(low / high)
        energy = jnp.sum(after**3) / (2 * box.volume**2) + after @ potential
        travelled = jnp.sum((box.volume * passed) ** 2 / mean) / (2 * tau)
        return energy + travelled - barrier * jnp.sum(jnp.log(after))

    @quick
    def slopes(after, barrier):
        return jax.grad(cost)(after, barrier), jax.hessian(cost)(after, barrier)

    # From neighbours that differ, whose mean is defined, by eight steps at every barrier.
    after, ones = np.linspace(0.08, 0.12, 10), np.ones((10, 1))
    for barrier in np.repeat(0.5 ** np.arange(3, 45), 8):
        slope, hessian = map(np.asarray, slopes(jnp.asarray(after), barrier))
        system = np.block([[hessian, ones], [ones.T, np.zeros((1, 1))]])
        direction = np.linalg.solve(system, np.append(-slope, 0))[:10]
        after = after + direction * min(1, 0.5 / np.max(np.abs(direction / after)))
    reached = made.masses[-1]
    assert cost(reached, 0.0) < cost(jnp.asarray(after), 0.0) + 1e-9
    assert np.allclose(reached, after, atol=1e-6)


# Entropic JKO.


def test_entropic_jko_is_the_gaussian_proximal_step():
    box = gf.CellBox((-5.0,), (5.0,), (200,))
    target, start, tau = bump(0.0, 1.0, box), bump(1.0, 0.6, box), 0.25
    geometry = tx.geometry.PointCloud(box.centres, box.centres)
    epsilon = 0.1
    masses, plan = quick(
        functools.partial(
            gf.entropic_jko_step, tau=tau, epsilon=epsilon, solver=tx.ot.Newton(tol=1e-8)
        )
    )(geometry, start, target)
    assert plan.converged
    mean = masses @ box.centres[:, 0]
    deviation = jnp.sqrt(masses @ (box.centres[:, 0] - mean) ** 2)
    assert jnp.allclose(jnp.sum(masses), 1, atol=1e-7)
    assert jnp.allclose(mean, 1 / (1 + tau), atol=1e-6)

    def objective(moments):
        # Of Gaussians with deviation s and correlation r to the start.
        s, r = moments
        apart = 0.36 + s**2 - 1.2 * s * r - epsilon / 2 * np.log(1 - r**2)
        return apart / (2 * tau) + s**2 / 2 - np.log(s)

    exact = scipy.optimize.minimize(objective, (0.7, 0.9), method="Nelder-Mead", tol=1e-10).x[0]
    # The background of 1e-12 and the cells' width of .05 leave the rest.
    assert jnp.allclose(deviation, exact, atol=1e-5)


# Gaussians.

M0, S0, M1, C1 = _ends(3)


MATRIX = covariance(jr.key(30), 3)
STANDARD = jnp.zeros(3), jnp.eye(3)
ENERGIES = {
    "kl_standard": gf.GaussianRelativeEntropy(*STANDARD),
    "fisher": gf.GaussianFisher(*STANDARD),
    "w2": lambda m, S: tx.gaussians.wasserstein2_squared(m, S, *STANDARD),
    "mmd": lambda m, S: jnp.sum((S - jnp.eye(3)) ** 2),
    "sinkhorn": lambda m, S: tx.gaussians.debiased_divergence(m, S, *STANDARD, epsilon=0.5),
    "kl": gf.GaussianRelativeEntropy(M1, C1),
    "heat": gf.gaussian_entropy,
    "interaction": gf.GaussianInteraction(MATRIX),
    "well": lambda m, S: (m - M1) @ C1 @ (m - M1) / 2 + jnp.sum(C1 * S) / 2,
}


class Combined(eqx.Module):
    """Multiples of all energies: one program serves every choice."""

    factors: jax.Array

    def __call__(self, m, S):
        return sum(c * f(m, S) for c, f in zip(self.factors, ENERGIES.values(), strict=True))


@quick
def _moments(energy, m0, S0, t1):
    return gf.gaussian_flow(energy, m0, S0, t1=t1, steps=tx.evolution.AdaptiveSteps(1e-10, 1e-10))


def moments(*names, m0=M0, S=S0, t1=0.6):
    factors = jnp.array([float(name in names) for name in ENERGIES])
    made = _moments(Combined(factors), m0, S, t1)
    assert made.completed, tx.Status[made.status]
    return made


def test_fokker_planck_moments_are_those_of_ornstein_uhlenbeck():
    made = moments("kl")
    shrunk = scipy.linalg.expm(-0.6 * np.linalg.inv(C1))
    assert jnp.allclose(made.means[-1], M1 + shrunk @ (M0 - M1), atol=1e-8)
    expected = C1 + shrunk @ (S0 - C1) @ shrunk
    assert jnp.allclose(made.covariances[-1], expected, atol=1e-8)


def test_heat_and_interaction_moments():
    made = moments("heat")
    assert jnp.allclose(made.covariances[-1], S0 + 1.2 * jnp.eye(3), atol=1e-8)
    made = moments("interaction")
    shrunk = scipy.linalg.expm(-0.6 * np.asarray(MATRIX))
    assert jnp.allclose(made.covariances[-1], shrunk @ S0 @ shrunk, atol=1e-8)
    assert jnp.all(made.means == M0[None, :])


# Eigenvalues of the covariance, on the way to the standard normal.
RATES = {
    "kl_standard": lambda c: 2 * (1 - c),
    "fisher": lambda c: 2 * (1 / c - c),
    "w2": lambda c: 4 * (np.sqrt(c) - c),
    "mmd": lambda c: 8 * (c - c**2),
    "sinkhorn": lambda c: 4 * np.sqrt(c + 1 / 64) - 4 * np.sqrt(c**2 + 1 / 64),
}


@pytest.mark.parametrize("name", RATES)
def test_covariances_flow_to_the_standard_normal_at_the_known_rates(name):
    made = moments(name, m0=jnp.zeros(3), t1=0.3)
    values, vectors = np.linalg.eigh(S0)
    exact = scipy.integrate.solve_ivp(
        lambda t, c: RATES[name](c), (0, 0.3), values, rtol=1e-12, atol=1e-12, method="DOP853"
    ).y[:, -1]
    assert np.allclose(made.covariances[-1], vectors @ np.diag(exact) @ vectors.T, atol=1e-8)


def test_gaussian_energy_falls_at_the_rate_of_its_dissipation():
    step = 0.002
    starts, made = [(M0, S0)], []
    for _ in range(4):
        made.append(moments("fisher", "well", m0=starts[-1][0], S=starts[-1][1], t1=step))
        starts.append((made[-1].means[-1], made[-1].covariances[-1]))
    before, near, behind, after = (made[k].energy[e] for k, e in ((0, 0), (1, 0), (2, -1), (3, -1)))
    slope = (before - 8 * near + 8 * behind - after) / (12 * step)
    assert jnp.allclose(slope, -made[2].dissipation[0], rtol=1e-4)


def test_particles_have_the_moments_of_the_gaussian_flow():
    # A cloud whose empirical moments are exact, so that linear fields keep them.
    cloud = jr.normal(jr.key(31), (20, 3))
    cloud = cloud - jnp.mean(cloud, axis=0)[None, :]
    root = jnp.linalg.cholesky(cloud.T @ cloud / 20)
    cloud = M0[None, :] + jnp.linalg.solve(root, cloud.T).T @ jnp.linalg.cholesky(S0).T
    well = gf.Potential(lambda x: (x - M1) @ C1 @ (x - M1) / 2)
    functional = well + gf.Interaction(lambda x, y: (x - y) @ MATRIX @ (x - y) / 2)
    particles = quick(
        lambda x: gf.flow(functional, x, t1=0.6, steps=tx.evolution.AdaptiveSteps(1e-9, 1e-9))
    )(cloud)
    made = moments("well", "interaction")
    assert jnp.allclose(jnp.mean(particles.x[-1], axis=0), made.means[-1], atol=1e-7)
    assert jnp.allclose(jnp.cov(particles.x[-1].T, bias=True), made.covariances[-1], atol=1e-7)
    assert jnp.allclose(particles.energy[-1], made.energy[-1], atol=1e-6)


@pytest.mark.long
def test_gaussian_flows_differentiate():
    def end(m0, S0, centre):
        energy = gf.GaussianRelativeEntropy(centre, C1)
        made = gf.gaussian_flow(energy, m0, (S0 + S0.T) / 2, t1=0.3)
        return made.means[-1], made.covariances[-1]

    check_reverse(end, M0, S0, M1, tol=1e-5)


POINTS, MASSES = tx.geometry.PointCloud(BOX.centres, BOX.centres), bump(0.0, 1.0)


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ("shape", lambda: gf.CellBox((0.0,), (1.0, 2.0), (3,))),
        ("shape", lambda: gf.CellBox((0.0,), (1.0,), (1,))),
        ("high", lambda: gf.CellBox((0.0,), (0.0,), (3,))),
        ("masses0", lambda: gf.grid_flow(DESCENTS["heat"], BOX, jnp.ones(3), t1=1.0, steps=1)),
        ("t1", lambda: gf.grid_flow(DESCENTS["heat"], BOX, bump(0, 1), t1=-1.0, steps=1)),
        ("steps", lambda: gf.grid_flow(DESCENTS["heat"], BOX, bump(0, 1), t1=1.0, steps=0)),
        ("epsilon", lambda: gf.entropic_jko_step(POINTS, MASSES, MASSES, tau=0.1, epsilon=0.2)),
        ("nodes0", lambda: gf.line_flow(gf.Entropy, jnp.ones(3), jnp.ones(3), t1=1.0, steps=1)),
        ("tol", lambda: gf.jko_flow(PARTS[0], BOX.centres, t1=1.0, steps=1, tol=0.0)),
        ("S0", lambda: gf.gaussian_flow(gf.gaussian_entropy, M0, S0[:2], t1=1.0)),
        ("steps", lambda: gf.gaussian_flow(gf.gaussian_entropy, M0, S0, t1=1.0, steps=0)),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input_is_refused_by_name(named, call):
    with pytest.raises(ValueError, match=f"`{named}`"):
        call()


def test_a_singular_start_is_not_believed():
    made = quick(lambda S: gf.gaussian_flow(gf.gaussian_entropy, M0, S, t1=1.0))(jnp.zeros((3, 3)))
    assert not made.completed
    assert jnp.all(jnp.isnan(made.energy[-1]))


# JKO steps of particles and of quantiles.


def test_jko_steps_of_a_quadratic_potential_are_implicit_euler():
    cloud, weights = jr.normal(jr.key(33), (4, 3)), jnp.array([0.1, 0.2, 0.3, 0.4])
    functional = gf.Potential(lambda x: (x - M1) @ C1 @ (x - M1) / 2)
    made = quick(lambda x: gf.jko_flow(functional, x, weights, t1=30.0, steps=3))(cloud)
    assert made.completed
    shrink = np.linalg.matrix_power(np.linalg.inv(np.eye(3) + 10 * np.asarray(C1)), 3)
    expected = M1[None, :] + (cloud - M1[None, :]) @ shrink
    assert jnp.allclose(made.x[-1], expected, atol=1e-12)
    assert jnp.all(jnp.diff(made.energy) < 0)


@pytest.mark.slow
def test_jko_steps_are_of_first_order_and_never_rise_where_explicit_ones_blow_up():
    functional = gf.MMD(jr.normal(jr.key(34), (5, 2)), gf.Gaussian(1.0)) + gf.Potential(
        lambda x: 20 * double_well(x)
    )
    cloud = jr.normal(jr.key(35), (4, 2))
    long = quick(lambda x: gf.jko_flow(functional, x, t1=10.0, steps=5))(cloud)
    assert long.completed
    assert jnp.all(jnp.diff(long.energy) <= 1e-14)
    explicit = quick(lambda x: gf.flow(functional, x, t1=10.0, steps=5))(cloud)
    assert explicit.status == tx.Status.ROSE
    carried = quick(lambda x, t1: gf.jko_flow(functional, x, t1=t1, steps=10).x[-1])
    ends = []
    for rounds in (1, 2, 4):
        x = cloud
        for _ in range(rounds):
            x = carried(x, 0.01 / rounds)
        ends.append(x)
    ratio = jnp.linalg.norm(ends[0] - ends[1]) / jnp.linalg.norm(ends[1] - ends[2])
    assert 1.9 < ratio < 2.1


def gaussian_nodes(count, width=1.0, reach=4.0):
    """Ends of intervals on [-reach, reach] widths, and their masses under N(0, width^2)."""
    ends = np.linspace(-reach, reach, count + 1)
    masses = np.diff(scipy.stats.norm.cdf(ends))
    return jnp.asarray(width * ends), jnp.asarray(masses / masses.sum())


def test_line_flow_of_fokker_planck_is_of_first_order_in_time():
    nodes, masses = gaussian_nodes(60, 0.6)

    def functional(lengths):
        return gf.Potential(lambda x: jnp.sum(x**2) / 2) + gf.Entropy(lengths)

    carried = quick(functools.partial(gf.line_flow, functional, steps=10))
    ends = []
    for rounds in (1, 2, 4):
        end = nodes
        for _ in range(rounds):
            made = carried(end, masses, t1=0.5 / rounds)
            assert made.completed
            assert jnp.all(jnp.diff(made.energy) < 0)
            end = made.nodes[-1]
        ends.append(end)
    ratio = jnp.linalg.norm(ends[0] - ends[1]) / jnp.linalg.norm(ends[1] - ends[2])
    assert 1.9 < ratio < 2.1
    # Richardson's limit in time is the Ornstein-Uhlenbeck scaling, up to the intervals' width.
    limit = 2 * ends[2] - ends[1]
    exact = nodes * np.sqrt(1 + (0.36 - 1) * np.exp(-1.0)) / 0.6
    inner = slice(15, -15)
    assert jnp.allclose(limit[inner], exact[inner], atol=5e-3)


def test_line_flow_tracks_the_front_of_barenblatt():
    # Of exponent 2, front at |x| = sqrt(c / k) t^(1/3) with c = .3, k = 1/12.
    front = np.sqrt(0.3 * 12)
    nodes = jnp.linspace(-front, front, 41)
    ends = np.asarray(nodes)
    masses = jnp.asarray(np.diff(0.3 * ends - ends**3 / 36))
    made = quick(
        functools.partial(
            gf.line_flow, lambda lengths: gf.PorousMedium(lengths, 2.0), t1=1.0, steps=40
        )
    )(nodes, masses)
    assert made.completed
    expected = nodes * 2 ** (1 / 3)
    errors = jnp.abs(made.nodes[-1] - expected) / front
    assert jnp.max(errors[1:-1]) < 0.01
    # Where the density ends it is constant on the last interval: first order.
    assert jnp.max(errors) < 0.03
    assert jnp.all(made.densities > 0)


@pytest.mark.long
def test_line_flow_differentiates():
    nodes, masses = gaussian_nodes(6, 0.8, 2.0)

    def functional(lengths):
        return gf.Potential(lambda x: jnp.sum(x**4)) + gf.Entropy(lengths)

    def end(nodes, masses, t1):
        return gf.line_flow(functional, nodes, masses, t1=t1, steps=2).nodes[-1]

    check_reverse(end, nodes, masses, jnp.array(0.3))
    push = quick(lambda t1: jax.jvp(lambda t1: end(nodes, masses, t1), (t1,), (jnp.ones(()),)))
    _, slope = push(jnp.array(0.3))
    ends = [push(jnp.array(t1))[0] for t1 in (0.3 + 1e-5, 0.3 - 1e-5)]
    assert jnp.allclose(slope, (ends[0] - ends[1]) / 2e-5, atol=1e-7)
