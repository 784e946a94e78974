"""Good calls whose numbers may be traced: what a test of bad values at run time starts from."""

import functools
import typing
from collections.abc import Callable

import jax.numpy as jnp
import jax.random as jr

import transportx as tx
from tests import calls


class Case(typing.NamedTuple):
    """A callable, what is given to it, and what is said about its numbers.

    Attributes:
        function: What to call; the public callable of the case's name by default.
        given: Arguments beside (or instead of) those of the good call.
        positive: Numbers that make sense above zero only.
        from_zero: Numbers that make sense from zero on: ends of a way, where it may be zero.
        reals: Other numbers, in which only NaN and infinity make no sense.
    """

    function: Callable | None = None
    given: dict = {}
    positive: str = ""
    from_zero: str = ""
    reals: str = ""


def _attend(mixing, queries, temperature):
    return mixing(temperature)(queries, tx.attention.Context(queries, Z, Z, A))


def _tokens(x, decay):
    field = tx.attention.TokenField(calls.MADE[tx.attention.Attention](), decay=decay)
    return field(jnp.zeros(()), x)


def _paired(coupling, x0, x1):
    i0, i1 = coupling(x0, x1, key=jr.key(1))
    return tx.couplings.take(x0, i0), tx.couplings.take(x1, i1)


def _entropic(x0, x1, epsilon):
    return _paired(tx.couplings.Entropic(epsilon), x0, x1)


def _mmd(x, weights, target, bandwidth):
    return tx.gradient_flows.MMD(target, tx.gradient_flows.Gaussian(bandwidth))(x, weights)


def _drifting(x, weights, target, bandwidth):
    return tx.gradient_flows.Drifting(target, tx.gradient_flows.Laplace(bandwidth))(x, weights)


def _smoothed(x, weights, bandwidth):
    return tx.gradient_flows.SmoothedEntropy(bandwidth)(x, weights)


def _langevin(x0, temperature):
    energy = tx.gradient_flows.Potential(lambda x: jnp.sum(x**2))
    dynamics = tx.gradient_flows.Langevin(temperature)
    return tx.gradient_flows.flow(
        energy, x0, dynamics=dynamics, t1=0.1, steps=tx.evolution.FixedSteps(2), key=jr.key(0)
    )


def _solve(x, y, a, b, epsilon, rho):
    cloud = tx.geometry.PointCloud(x, y)
    return tx.ot.solve(cloud, a, b, epsilon=epsilon, rho_a=rho, solver=tx.ot.Sinkhorn())


# So few steps meet no narrower tolerance than that of all masses.
_ROUGHLY = {"key": jr.key(0), "tol": 2.0, "num_steps": 2, "batch": 16, "num_audit": 16}
_ROUGHLY["init"] = jnp.zeros(3)


def _semidiscrete(y, b, epsilon):
    return tx.ot.semidiscrete(calls._normal, y, b, epsilon=epsilon, **_ROUGHLY)


def _density(masses, low, high):
    return tx.ot.semidiscrete(tx.ot.GridDensity(masses, low, high), A[:, None], **_ROUGHLY)


def _exact(x, y, a, b):
    return tx.ot.exact(tx.geometry.PointCloud(x, y), a, b)


def _steer(A, B, noise, R, mass0, m0, S0, mass1, m1, S1, rho_a, rho_b):
    system = tx.control.constant_system(A, B, noise, steps=3)
    ends = (tx.control.GaussianMeasure(*end) for end in ((mass0, m0, S0), (mass1, m1, S1)))
    return tx.control.steer(system, R, *ends, rho_a=rho_a, rho_b=rho_b)


def _simulate(A, B, noise, x0, weights, states, controls, gains, own):
    system = tx.control.constant_system(A, B, noise, steps=2)
    policy = tx.control.AffinePolicy(states, controls, gains, own)
    return tx.control.simulate(system, policy, x0, weights, key=jr.key(0))


X, Y = jnp.array([[0.1, 0.4], [0.7, 0.2], [0.5, 0.9]]), jnp.array([[0.3, 0.3], [0.8, 0.6]])
A, B = jnp.array([0.2, 0.5, 0.3]), jnp.array([0.4, 0.6])
Z = jnp.array([[0.2, 0.1], [0.9, 0.8], [0.4, 0.6]])
TWO = {"steps": 2}


def _bent(t, x, args=None):
    return -(x**3) * (1 + t)


CASES: dict[str, Case] = {
    **{
        f"attention.{mixing.__name__}": Case(
            functools.partial(_attend, mixing), {"queries": Z}, "temperature"
        )
        for mixing in (tx.attention.L2, tx.attention.LinearAttention, tx.attention.Softmax)
    },
    "attention.TokenField": Case(_tokens, {"x": Z}, reals="decay"),
    "attention.evolve": Case(given=TWO, from_zero="depth"),
    "attention.energy_rate": Case(),
    "attention.evolve_gaussian": Case(given=TWO, from_zero="depth"),
    "attention.gaussian_rates": Case(reals="decay"),
    "attention.lipschitz_bound": Case(from_zero="radius"),
    "attention.order_parameter": Case(),
    "attention.softmax_gaussian_map": Case(
        given={"t": 0.1, "temperature": 2.0}, positive="temperature", reals="t"
    ),
    "control.descend": Case(given=TWO),
    "control.simulate": Case(
        _simulate,
        {
            **dict.fromkeys(("A", "B", "noise"), jnp.eye(2)),
            "x0": X,
            "weights": A,
            "states": Z[:2],
            "controls": Z[1:],
            "gains": jnp.stack([jnp.eye(2)] * 2),
            "own": jnp.stack([jnp.eye(2)] * 2),
        },
    ),
    "control.steer": Case(
        _steer,
        {
            **dict.fromkeys(("A", "B", "R", "S0", "S1"), jnp.eye(2)),
            "noise": jnp.eye(2) / 9,
            "m0": Z[0],
            "m1": Z[1],
            **dict.fromkeys(("mass0", "mass1", "rho_a", "rho_b"), 1.0),
        },
        "mass0 mass1 rho_a rho_b",
    ),
    "couplings.Assignment": Case(
        functools.partial(_paired, tx.couplings.Assignment()), {"x0": X, "x1": Z}
    ),
    "couplings.Entropic": Case(_entropic, {"x0": X, "x1": Z}, "epsilon"),
    "couplings.Exact": Case(functools.partial(_paired, tx.couplings.Exact()), {"x0": X, "x1": Y}),
    "couplings.Independent": Case(
        functools.partial(_paired, tx.couplings.Independent()), {"x0": X, "x1": Z}
    ),
    "couplings.SemiDiscrete": Case(
        lambda x0: _paired(
            tx.couplings.SemiDiscrete(calls.MADE[tx.ot.SemiDiscretePlan]()), x0, jnp.ones((4, 2))
        ),
        {"x0": X},
    ),
    "evolution.FixedSteps.nodes": Case(),
    "evolution.AdaptiveSteps": Case(
        lambda x0, rtol, atol: tx.sampling.flow(
            calls._field, x0, steps=tx.evolution.AdaptiveSteps(rtol, atol)
        ),
        {"x0": X, "rtol": 1e-2, "atol": 1e-2},
        "rtol atol",
    ),
    "evolution.record_times": Case(given={"times": None}),
    "fields.EmpiricalField": Case(
        lambda t, x, data, source_scale: tx.fields.EmpiricalField(data, source_scale=source_scale)(
            t, x
        ),
        {"t": jnp.array(0.5), "x": X[0], "data": Z},
        "source_scale",
    ),
    "fields.GaussianField": Case(
        lambda t, x, m0, S0: tx.fields.GaussianField(m0, S0, jnp.ones(2), jnp.eye(2))(t, x),
        {"t": jnp.array(0.5), "x": X[0], "m0": X[1], "S0": jnp.diag(B)},
    ),
    "fields.GaussianFlowMap": Case(
        lambda s, t, x, m0, S0: tx.fields.GaussianFlowMap(m0, S0, jnp.ones(2), jnp.eye(2))(s, t, x),
        {"s": jnp.array(0.2), "t": jnp.array(0.7), "x": X[0], "m0": X[1], "S0": jnp.diag(B)},
    ),
    "fields.LineFlowMap": Case(
        lambda s, t, x: tx.fields.LineFlowMap(**calls.SPECIAL["fields.LineFlowMap"])(s, t, x),
        {"s": jnp.array(0.2), "t": jnp.array(0.7), "x": X[0, :1]},
    ),
    "fields.Guided": Case(
        lambda t, x, strength: tx.fields.Guided(
            lambda t, x, label: calls._field(t, x) * label, strength, 0
        )(t, x, jnp.array(1)),
        {"t": jnp.array(0.5), "x": X[0]},
        reals="strength",
    ),
    "fields.ObservationGuided": Case(
        lambda t, x, observation, noise, source_scale: tx.fields.ObservationGuided(
            calls._field,
            tx.interpolants.Linear(),
            lambda x: x[:1],
            observation,
            noise,
            source_scale=source_scale,
        )(t, x),
        {"t": jnp.array(0.5), "x": X[0], "observation": A[:1]},
        "source_scale",
        "noise",
    ),
    "fields.MLP.__call__": Case(),
    "fields.ScoreOf": Case(
        lambda t, x, source_scale: tx.fields.ScoreOf(
            calls._field, tx.interpolants.Linear(), source_scale
        )(t, x),
        {"t": jnp.array(0.5), "x": X[0]},
        "source_scale",
    ),
    "fields.divergence": Case(given={"field": _bent}),
    "fields.upwind_step": Case(given={"duration": 0.01}, from_zero="duration"),
    "gaussians.Mixture": Case(
        lambda x, weights, means, covariances: tx.gaussians.Mixture(
            weights, means, covariances
        ).log_density(x),
        {"x": Y[0], "weights": A, "means": X, "covariances": jnp.tile(jnp.eye(2), (3, 1, 1))},
    ),
    "gaussians.bridge": Case(given={"t": 0.5}, positive="sigma", reals="t"),
    "gaussians.entropic_plan": Case(positive="epsilon"),
    "gaussians.log_density": Case(),
    "gaussians.debiased_divergence": Case(positive="epsilon"),
    "gaussians.unbalanced": Case(positive="mass0 mass1 rho_a rho_b"),
    "gaussians.geodesic": Case(reals="t"),
    "gaussians.transport_map": Case(),
    "gaussians.wasserstein2_squared": Case(),
    "geometry.Cosine.matrix": Case(),
    "geometry.PNorm": Case(
        lambda x, y, p: tx.geometry.PNorm(p).matrix(x, y), {"x": X, "y": Y, "p": 1.5}, "p"
    ),
    "geometry.PointCloud.mean_cost": Case(
        lambda x, y: tx.geometry.PointCloud(x, y).mean_cost(), {"x": X, "y": Y}
    ),
    "geometry.SquaredEuclidean.matrix": Case(),
    "gradient_flows.Drifting": Case(_drifting, {"x": X, "weights": A, "target": Y}, "bandwidth"),
    "gradient_flows.Langevin": Case(_langevin, {"x0": X}, from_zero="temperature"),
    "gradient_flows.MMD": Case(_mmd, {"x": X, "weights": A, "target": Y}, "bandwidth"),
    "gradient_flows.SmoothedEntropy": Case(_smoothed, {"x": X, "weights": A}, "bandwidth"),
    "gradient_flows.convex_flow": Case(  # Its residual: so few steps do not meet a tolerance.
        lambda x0, t1, temperature: (
            tx.gradient_flows.convex_flow(
                tx.gradient_flows.Potential(lambda x: jnp.sum(x**2)),
                tx.gradient_flows.ConvexPotential(2, 2, 1, key=jr.key(0)),
                x0,
                t1=t1,
                temperature=temperature,
                steps=1,
                max_steps=2,
            ).residuals
        ),
        {"x0": X},
        from_zero="t1 temperature",
    ),
    "gradient_flows.descent_loss": Case(given={"weights": jnp.full(4, 0.25)}, positive="step"),
    "gradient_flows.descent_parts": Case(positive="step"),
    "gradient_flows.energy_distance_squared": Case(
        lambda x, weights, target: tx.gradient_flows.energy_distance_squared(target)(x, weights),
        {"x": X, "weights": A, "target": Y},
    ),
    "gradient_flows.birth_death": Case(
        given=TWO | {"weights": jnp.full(4, 0.25), "num_rounds": 2, "threshold": 0.0},
        from_zero="t1 threshold",
    ),
    "gradient_flows.flow": Case(given=TWO | {"weights": jnp.full(4, 0.25)}, from_zero="t1"),
    "gradient_flows.gaussian_entropy": Case(),
    "gradient_flows.gaussian_flow": Case(given=TWO, from_zero="t1"),
    "interpolants.BrownianBridge": Case(
        lambda t, sigma: tx.interpolants.BrownianBridge(sigma).coefficients(t),
        {"t": jnp.array(0.3)},
        "sigma",
    ),
    "interpolants.Sigmoid": Case(
        lambda t, sharpness: tx.interpolants.Sigmoid(sharpness)(t),
        {"t": jnp.array(0.3)},
        "sharpness",
    ),
    "interpolants.VariancePreserving": Case(
        lambda t, rate_min, rate_max: tx.interpolants.VariancePreserving(
            rate_min, rate_max
        ).coefficients(t),
        {"t": jnp.array(0.3), "rate_min": 0.1, "rate_max": 2.0},
        "rate_min rate_max",
    ),
    "interpolants.Power": Case(
        lambda t, power: tx.interpolants.Power(power)(t), {"t": jnp.array(0.3)}, "power"
    ),
    "interpolants.VarianceExploding": Case(
        lambda t, sigma_min, sigma_max: tx.interpolants.VarianceExploding(
            sigma_min, sigma_max
        ).coefficients(t),
        {"t": jnp.array(0.3), "sigma_min": 0.1, "sigma_max": 2.0},
        "sigma_min sigma_max",
    ),
    "interpolants.from_score": Case(given={"t": jnp.array(0.3)}, positive="source_scale"),
    "interpolants.noised_target": Case(given={"t": jnp.array(0.3)}, positive="source_scale"),
    "learned_energies.Bumps": Case(
        lambda x, centres, bandwidth: tx.learned_energies.Bumps(centres, bandwidth)(x),
        {"x": X[0], "centres": Z},
        "bandwidth",
    ),
    "learned_energies.gradient_share": Case(given={"features": lambda x: x**3}),
    "learned_energies.linear_cka": Case(),
    "learned_energies.update_asymmetry": Case(given={"update": lambda x: x**3}),
    "losses.BetaTimes": Case(
        lambda a, b: tx.losses.BetaTimes(a, b)(3, A.dtype, key=jr.key(0)), {}, "a b"
    ),
    "losses.ImportanceTimes.updated": Case(
        lambda t, losses, rate: (
            tx.losses.ImportanceTimes(A).updated(t, losses, rate=rate).density(jnp.array(0.3))
        ),
        {"t": A, "losses": A + 1},
        from_zero="rate",
    ),
    "losses.LogitNormalTimes": Case(
        lambda mean, deviation: tx.losses.LogitNormalTimes(mean, deviation)(
            3, A.dtype, key=jr.key(0)
        ),
        {},
        "deviation",
        reals="mean",
    ),
    "losses.TimePairs": Case(
        lambda equal_fraction: tx.losses.TimePairs(equal_fraction=equal_fraction)(
            3, A.dtype, key=jr.key(0)
        ),
        {},
        from_zero="equal_fraction",
    ),
    "losses.consistency": Case(),
    "losses.flow_map_distillation": Case(),
    "losses.flow_matching": Case(),
    "losses.mean_flow": Case(from_zero="adaptive"),
    "losses.shortcut": Case(),
    "losses.noise_matching": Case(given={"network": _bent}, positive="source_scale"),
    "losses.score_matching": Case(given={"network": _bent}, positive="source_scale"),
    "mean_field.Network.__call__": Case(),
    "mean_field.linear_training": Case(given=TWO, from_zero="t1"),
    "mean_field.logistic_loss": Case(),
    "mean_field.Risk": Case(
        lambda x, y, ridge, inner: tx.mean_field.Risk(x, y, ridge=ridge)(
            tx.mean_field.Neurons(inner, Z[:, :1])
        ),
        {"x": X, "y": A[:, None], "inner": Z},
        from_zero="ridge",
    ),
    "mean_field.softmax_loss": Case(),
    "mean_field.train": Case(given=TWO, from_zero="t1"),
    "metrics.energy_distance": Case(),
    "metrics.mmd": Case(positive="bandwidth"),
    "metrics.path_energy": Case(),
    "metrics.straightness": Case(),
    "metrics.wasserstein2": Case(given={"x": X, "y": Y, "a": A, "b": B}),
    "ot.birkhoff": Case(positive="temperature"),
    "ot.exact": Case(_exact, {"x": X, "y": Y, "a": A, "b": B}),
    "ot.gaussian_potentials": Case(positive="epsilon"),
    "ot.sinkhorn_divergence": Case(given={"x": X, "y": Y}, positive="epsilon"),
    "ot.sliced_wasserstein": Case(),
    "ot.soft_sort": Case(positive="epsilon"),
    "ot.assignment": Case(
        lambda cost: X[:, 0].at[tx.ot.assignment(cost)].get(mode="fill"),
        {"cost": (X[:, None] + Z[None]).prod(-1)},
    ),
    "ot.soft_rank": Case(positive="epsilon"),
    "ot.GridDensity": Case(_density, {"masses": A, "low": jnp.zeros(1), "high": jnp.ones(1)}),
    "ot.semidiscrete": Case(_semidiscrete, {"y": X, "b": A, "epsilon": 0.5}, "epsilon"),
    "ot.solve": Case(
        _solve, {"x": X, "y": Y, "a": A, "b": B, "epsilon": 1.0, "rho": 1.0}, "epsilon rho"
    ),
    "ot.wasserstein_1d": Case(),
    "sampling.bits_per_dimension": Case(positive="bin_width"),
    "sampling.diffuse": Case(given=TWO | {"t0": 0.1, "t1": 0.9}, reals="t0 t1"),
    "sampling.exponential_flow": Case(
        given=TWO | {"t0": 0.1, "t1": 0.9}, positive="source_scale", reals="t0 t1"
    ),
    "sampling.few_step": Case(given={"grid": jnp.array([0.2, 0.9])}),
    "sampling.few_step_log_prob": Case(given={"grid": jnp.array([0.2, 0.9])}),
    "sampling.flow": Case(given=TWO | {"t0": 0.1, "t1": 0.9, "x0": X}, reals="t0 t1"),
    "sampling.hutchinson_log_prob": Case(given=TWO),
    "sampling.log_prob": Case(given=TWO),
    "sampling.push_forward": Case(given=TWO | {"t0": 0.1, "t1": 0.9}, reals="t0 t1"),
}
