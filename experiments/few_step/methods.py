"""The methods: what each trains, on which batches, and how it samples."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

import transportx as tx
import transportx.gradient_flows as gf
from experiments.data import points
from experiments.few_step.config import Config

EVALUATIONS = (1, 2, 4, 8, 100)
FIELD = "flow matching"
_PATH = tx.interpolants.Linear()
_START, _END = 0.0, 1.0


class Method(NamedTuple):
    """One row: a network, its loss and batches, and its sampler.

    Attributes:
        network: The untrained network.
        loss: `loss(network, batch, key=key)`.
        draw: `draw(key=key) -> batch`.
        sample: `sample(network, x0, evaluations, key) -> x1`.
        evaluations: How many it may take.
    """

    network: Any
    loss: Callable[..., Array]
    draw: Callable[..., Any]
    sample: Callable[..., Array]
    evaluations: tuple[int, ...] = EVALUATIONS


class Pairs(eqx.Module):
    """Independent points of both laws, and as many sources more for who wants two batches."""

    source: points.Law
    target: points.Law
    size: int

    def __call__(self, *, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        keys = jr.split(key, 3)
        x0, second = (self.source(self.size, key=k) for k in keys[:2])
        return x0, self.target(self.size, key=keys[2]), second


def pairs(config: Config, size: int) -> Pairs:
    """Batches of this size of the laws of a config."""
    return Pairs(points.LAWS[config.data.source], points.LAWS[config.data.target], size)


def from_data(config: Config, key: PRNGKeyArray) -> Iterator[tuple[str, Method]]:
    """Methods that need data alone, by name; the field of the flow first."""
    draw = pairs(config, config.training.batch)
    times = tx.losses.TimePairs(equal_fraction=config.flow_maps.equal_fraction)

    def trained_by(loss, **options):
        def of_batch(network, batch, *, key):
            x0, x1, _ = batch
            return loss(network, _PATH, x0, x1, key=key, **options)

        return of_batch

    field = tx.fields.MLP(2, **_sizes(config), key=key)
    yield FIELD, Method(field, trained_by(tx.losses.flow_matching), draw, _by_flow)
    adaptive = config.flow_maps.adaptive
    maps = {
        "mean flow": trained_by(tx.losses.improved_mean_flow, times=times, adaptive=adaptive),
        "shortcut": trained_by(tx.losses.shortcut, times=times),
    }
    for name, loss in maps.items():
        yield name, Method(_flow_map(config, key), loss, draw, _by_map)
    consistency = trained_by(tx.losses.consistency)
    again = eqx.Partial(_by_consistency, draw.source)
    yield "consistency", Method(_flow_map(config, key), consistency, draw, again)
    generator = _flow_map(config, key)
    for name, functional in _functionals(config).items():
        loss = eqx.Partial(_descend, functional, config.descent.step, config.descent.second_batch)
        fresh = pairs(config, config.descent.batch)
        yield f"descent, {name}", Method(generator, loss, fresh, _by_generator, (1,))


def from_field(config: Config, field: Any, key: PRNGKeyArray) -> Iterator[tuple[str, Method]]:
    """Methods that start from the trained field of the flow."""
    draw = pairs(config, config.training.batch)
    times = tx.losses.TimePairs(equal_fraction=config.flow_maps.equal_fraction)

    def straightened(network, batch, *, key):
        return tx.losses.flow_matching(network, _PATH, *batch, key=key)

    def distilled(network, batch, *, key):
        x0, x1, _ = batch
        options = {"teacher": field, "times": times, "key": key}
        return tx.losses.flow_map_distillation(network, _PATH, x0, x1, **options)

    steps = tx.evolution.FixedSteps(_REFLOW_STEPS, tx.sampling.RK4())
    reflow = tx.sampling.Reflow(field, _Sources(draw), steps)
    second = tx.fields.MLP(2, **_sizes(config), key=key)
    yield "reflow", Method(second, straightened, reflow, _by_flow)
    yield "distillation", Method(_flow_map(config, key), distilled, draw, _by_map)


# Of fourth order: 40 evaluations, whose error is far below that of the field.
_REFLOW_STEPS = 10


class _Sources(eqx.Module):
    """The sources of a batch, which have no conditions."""

    draw: Pairs

    def __call__(self, *, key: PRNGKeyArray) -> tuple[Array, None]:
        return self.draw.source(self.draw.size, key=key), None


def _sizes(config: Config) -> dict[str, Any]:
    network = config.network
    return {
        "width": network.width,
        "depth": network.depth,
        "num_frequencies": network.frequencies,
    }


def _flow_map(config: Config, key: PRNGKeyArray) -> tx.fields.MLPFlowMap:
    return tx.fields.MLPFlowMap(2, **_sizes(config), key=key)


def _functionals(config: Config) -> dict[str, Callable[..., gf.AbstractFunctional]]:
    """What generators descend, in units of the spread of the data."""
    x, y = (points.LAWS[config.data.target](2000, key=jr.key(k)) for k in (0, 1))
    unit = float(jnp.mean(jnp.sum((x - y) ** 2, axis=1)))
    made: dict[str, Any] = {
        f"Sinkhorn divergence, epsilon {epsilon:g}": eqx.Partial(
            gf.SinkhornDivergenceTo, epsilon=epsilon * unit, solver=tx.ot.Newton(tol=1e-2)
        )
        for epsilon in config.descent.epsilons
    }
    made |= {
        f"drifting, bandwidth {width:g}": eqx.Partial(
            gf.Drifting, kernel=gf.Laplace(width * unit**0.5)
        )
        for width in config.descent.bandwidths
    }
    made["energy distance"] = gf.energy_distance_squared
    return made


def generate(network: Any, z: Float[Array, "2"], args: None = None) -> Float[Array, "2"]:
    """A flow map used as a generator: from the first time to the last at once."""
    return z + network(jnp.asarray(_START, z.dtype), jnp.asarray(_END, z.dtype), z, args)


def _descend(functional, step, second_batch, network, batch, *, key):
    z, x1, second = batch
    generator = eqx.Partial(generate, network)
    return gf.descent_loss(
        functional, generator, z, x1, step=step, z_self=second if second_batch else None
    )


def _by_flow(field, x0, num, key):
    return tx.sampling.flow(field, x0, steps=num)


def _by_map(flow_map, x0, num, key):
    return tx.sampling.few_step(flow_map, x0, grid=num)


def _by_generator(network, x0, num, key):
    return jax.vmap(eqx.Partial(generate, network))(x0)


def _by_consistency(source, flow_map, x0, num, key):
    """To the end; then back to later and later times with fresh noise, and to the end again."""

    def to_end(s, x):
        end = jnp.asarray(_END, x.dtype)
        return x + (end - s) * jax.vmap(lambda x: flow_map(s, end, x))(x)

    def again(x1, round_):
        s = (round_ / num).astype(x0.dtype)
        noise = source(x0.shape[0], key=jr.fold_in(key, round_))
        return to_end(s, (1 - s) * noise + s * x1), None

    x1 = to_end(jnp.asarray(_START, x0.dtype), x0)
    return jax.lax.scan(again, x1, jnp.arange(1, num))[0]
