"""A good call of everything public, made from annotations: what tests of bad input start from."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import AbstractArray, Bool, Int, PRNGKeyArray, PyTree, ScalarLike

import transportx as tx
from transportx.geometry import internal
from transportx.ot._semidiscrete_plan import CellAudit

NUMBERS = set(typing.get_args(ScalarLike))
KEYS = set(typing.get_args(PRNGKeyArray))
_SIZES = {"n": 4, "m": 4, "b": 4, "k": 3, "j": 5, "h": 2, "nodes": 6, "width": 3, "_": 4}
_DIM = 2
# What the library calls by itself: methods by which dynamics, merges and solvers are extended.
_PROTOCOL = set(
    "answer empty push energy_and_dissipation func init join measure network order rates refine "
    "risk_and_dissipation share start step velocities".split()
)

# What rooms share among themselves, not meant for users.
_PLUMBING = set(
    "ot.Problem ot.Scaling ot.Iterate sampling.RK4 evolution.RK4 evolution.check_times "
    "evolution.integrate evolution.integrate_batch".split()
)


class Call(typing.NamedTuple):
    """Something public, its annotated arguments, and a good value of each that is needed."""

    name: str
    function: Callable[..., Any]
    hints: dict[str, Any]
    arguments: dict[str, Any]

    def __call__(self, **changed: Any) -> Any:
        return self.function(**(self.arguments | changed))


def rooms() -> dict[str, types.ModuleType]:
    """The public rooms of the library by name."""
    return {
        name: room
        for name, room in vars(tx).items()
        if isinstance(room, types.ModuleType) and room.__name__ == f"transportx.{name}"
        if not name.startswith("_")
    }


def calls(room: str) -> Iterator[Call]:
    """Good calls of every public function, constructor and method of a room."""
    seen = set()
    for name, thing in sorted(vars(rooms()[room]).items()):
        if name.startswith("_") or not callable(thing) or typing.get_origin(thing):
            continue
        if f"{room}.{name}" in _PLUMBING or (inspect.isclass(thing) and not _constructible(thing)):
            continue
        yield _call(f"{room}.{name}", thing)
        if inspect.isclass(thing):
            yield from _methods(f"{room}.{name}", thing, seen)


def _constructible(cls):
    answer = issubclass(cls, tuple | Exception | eqx.Enumeration)
    return issubclass(cls, eqx.Module) and not inspect.isabstract(cls) and not answer


def _methods(name, cls, seen):
    try:
        instance = _call(name, cls)()
    except Exception:  # The constructor's own row says so.
        return
    for key in sorted(dir(cls)):
        method = inspect.getattr_static(cls, key)
        public = key == "__call__" or not (key.startswith("_") or key in _PROTOCOL)
        if not (public and inspect.isfunction(inspect.unwrap(method)) and callable(method)):
            continue
        where = (method.__module__, method.__qualname__)
        if where not in seen:
            seen.add(where)
            yield _call(f"{name}.{key}", getattr(instance, key))


def _call(name, function):
    hints = hints_of(function)
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.name in hints]
    given = SPECIAL.get(name, {})
    arguments = {key: good(name, key, hints[key]) for key in needed if key not in given}
    return Call(name, function, hints, arguments | given)


def hints_of(function: Any) -> dict[str, Any]:
    """The annotations of the parameters that have a name."""
    raw = function
    if inspect.isclass(function):
        raw = function.__new__ if issubclass(function, tuple) else function.__init__
    raw = inspect.unwrap(getattr(raw, "__func__", raw))
    hints = typing.get_type_hints(raw) if inspect.isfunction(raw) else {}
    parameters = inspect.signature(function).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: hints[p.name] for p in parameters if p.name in hints and p.kind in named}


def good(call: str, name: str, hint: Any) -> Any:
    """A good value of one argument."""
    for key in (f"{call.split('.')[0]}.{name}", name):
        if key in NAMED:
            return NAMED[key]
    options = options_of(hint)
    if KEYS <= options:
        return jr.key(0)
    if options & {float} or NUMBERS <= options:
        return 0.5
    made = (_by_type(name, option) for option in _in_order(hint))
    return next((value for value in made if value is not None), None)


def options_of(hint: Any) -> set[Any]:
    """The members of a union, or the one annotation."""
    return set(_in_order(hint))


def _in_order(hint):
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _by_type(name, hint):
    if is_array(hint):
        return _array(name, hint)
    if hint is int:
        return 2
    if hint is bool:
        return False
    if typing.get_origin(hint) is collections.abc.Callable:
        return FUNCTIONS.get(name, jnp.tanh)
    if typing.get_origin(hint) is tuple:
        inner = [h for h in typing.get_args(hint) if h is not ...]
        inner = inner * 2 if ... in typing.get_args(hint) else inner
        return tuple(good("", name, h) for h in inner)
    if inspect.isclass(hint) and issubclass(hint, PyTree):
        return None
    if inspect.isclass(hint):
        made = (make for cls, make in MADE.items() if issubclass(cls, hint))
        return next(made, lambda: _instance(hint))()
    return None


def is_array(hint: Any) -> bool:
    """Whether an annotation is that of an array with named axes."""
    return inspect.isclass(hint) and issubclass(hint, AbstractArray)


def _array(name, hint):
    axes = hint.dim_str.split()
    shape = tuple(
        size
        for axis in axes
        for size in ((_DIM,) if axis == "..." else () if axis[0] == "*" else (_size(axis),))
    )
    if hint.dtype is Int:
        return jnp.zeros(shape, jnp.int32)
    if hint.dtype is Bool:
        return jnp.ones(shape, bool)
    values = jr.uniform(jr.key(len(name)), shape, minval=0.2, maxval=0.8)
    if len(shape) >= 2 and shape[-1] == shape[-2] and axes[-1] == axes[-2]:
        return values @ jnp.swapaxes(values, -1, -2) / 4 + jnp.broadcast_to(
            jnp.eye(shape[-1]), shape
        )
    if "weights" in name or name in ("a", "b", "masses", "masses0"):
        return jnp.full(shape, 1 / max(shape[-1:], default=1))
    return jnp.sort(values) if name.startswith("times") else values


def _size(axis):
    return int(axis) if axis.isdigit() else _SIZES.get(axis, _DIM)


def _attention():
    return tx.attention.Attention(jnp.eye(2)[None], jnp.eye(2)[None], jnp.eye(2)[None])


def _instance(wanted):
    """One of the first public class of this kind that has a good call."""
    for room, module in rooms().items():
        for name, cls in sorted(vars(module).items()):
            if inspect.isclass(cls) and issubclass(cls, wanted) and not inspect.isabstract(cls):
                return _call(f"{room}.{name}", cls)()
    return None


def _field(t, x, args=None):
    return -x * (1 + jnp.mean(t))


def _energy(t, x, args=None):
    return jnp.sum(x**2) * (1 + t)


def _plan():
    x, y = jnp.arange(8.0).reshape(4, 2), jnp.ones((4, 2))
    solver = tx.ot.Sinkhorn(max_steps=2)
    return tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=1.0, solver=solver)


def _semidiscrete():
    options = {"init": jnp.zeros(4), "num_steps": 2, "batch": 16, "num_audit": 16}
    return tx.ot.semidiscrete(_normal, jnp.ones((4, 2)), key=jr.key(0), tol=2.0, **options)


def _normal(*, key, num):
    return jr.normal(key, (num, 2))


def _exact_plan():
    return tx.ot.exact(tx.geometry.PointCloud(jnp.arange(8.0).reshape(4, 2), jnp.ones((4, 2))))


def _layers():
    return jax.vmap(tx.mean_field.Network)(jnp.ones((3, 4, 2)), jnp.ones((3, 4, 2)))


def _line(masses):
    return tx.gradient_flows.Entropy(1 / masses)


_BOX = tx.fields.Box((4, 4), (1.0, 1.0))
_CELLS = jnp.ones((4, 4)) + jnp.arange(4.0)[None, :] / 10
_FACES = (jnp.ones((3, 4)), jnp.ones((4, 3)))
_RATE = _CELLS - jnp.mean(_CELLS)
_ON_LINE = tx.gaussians.Mixture(jnp.ones(2) / 2, jnp.arange(2.0)[:, None], jnp.ones((2, 1, 1)))

# What stands for an annotated class.
MADE: dict[type, Callable[[], Any]] = {
    tx.geometry.SquaredEuclidean: tx.geometry.SquaredEuclidean,
    tx.geometry.PointCloud: lambda: tx.geometry.PointCloud(jnp.ones((4, 2)), jnp.ones((4, 2))),
    internal.SumExp: internal.SumExp,
    tx.ot.Newton: tx.ot.Newton,
    tx.ot.EntropicPlan: _plan,
    tx.ot.SemiDiscretePlan: _semidiscrete,
    CellAudit: lambda: _semidiscrete().audit,
    tx.ot.ExactPlan: _exact_plan,
    tx.ot.PairMasses: lambda: tx.ot.PairMasses(jnp.arange(4), jnp.arange(4), jnp.ones(4) / 4),
    tx.interpolants.Linear: tx.interpolants.Linear,
    tx.couplings.Independent: tx.couplings.Independent,
    tx.gradient_flows.Potential: lambda: tx.gradient_flows.Potential(lambda x: jnp.sum(x**2)),
    tx.gradient_flows.Wasserstein: tx.gradient_flows.Wasserstein,
    tx.attention.Softmax: tx.attention.Softmax,
    tx.attention.Attention: _attention,
    diffrax.Tsit5: diffrax.Tsit5,
    optax.GradientTransformation: lambda: optax.sgd(0.1),
    jax.sharding.Mesh: lambda: jax.sharding.Mesh(jax.devices()[:1], ("x",)),
    tx.mean_field.Network: lambda: tx.mean_field.Network(jnp.ones((4, 2)), jnp.ones((4, 2))),
    tx.mean_field.ResidualNetwork: lambda: tx.mean_field.ResidualNetwork(_layers()),
    tx.Status: lambda: tx.Status.CONVERGED,
    jax.Array: lambda: jnp.eye(2)[None],
}
# What stands for a function of this name.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "field": _field,
    "u": lambda s, t, x, args=None: jnp.tanh(x) * (1 + s) * (1 + t),
    "teacher": _field,
    "sampler": _normal,
    "generator": lambda z, args=None: 2 * z,
    "functional_of_batch": tx.gradient_flows.energy_distance_squared,
    "network": lambda t, x, args=None: jnp.tanh(x) * t,
    "score": _field,
    "log_likelihood": _energy,
    "energy": lambda x, weights=None: jnp.sum(x**2),
    "noise": lambda t: t * (1 - t),
    "convert": tx.interpolants.from_velocity,
    "warp": lambda t: t**2,
    "base_log_prob": lambda x: -jnp.sum(x**2),
    "log_density": lambda x: -jnp.sum(x**2),
    "source_log_density": lambda x: -jnp.sum(x**2),
    "potential": lambda x: jnp.sum(x**2),
    "loss": lambda field, batch, *, key: jnp.sum(batch),
    "grid": tx.sampling.uniform_grid,
    "otherwise": lambda *args: args[1],
    "value": lambda h, x: jnp.sum(x**2),
    "function": lambda *args: args[0],
}
NAMED: dict[str, Any] = {"dtype": jnp.float32}
SPECIAL: dict[str, dict[str, Any]] = {
    **{
        f"attention.{mixing}.on_{law}": {"query": jnp.eye(2), "key": jnp.eye(2)}
        for mixing in ("L2", "LinearAttention", "Softmax", "Unnormalised")
        for law in ("gaussian", "mixture")
    },
    "attention.TokenField": {"attention": _attention()},
    "control.steer": {
        "target": tx.control.GaussianMeasure(0.5, jnp.ones(2), 9 * jnp.eye(2)),
    },
    "control.value_transport": {"points": (jnp.ones((4, 2)), jnp.eye(2), jnp.ones((4, 2)))},
    "fields.Box": {"shape": (4, 4), "lengths": (1.0, 1.0)},
    "fields.Box.divergence": {"flux": _FACES},
    "fields.Box.gradient": {"potential": _CELLS},
    "fields.Box.on_faces": {"density": _CELLS},
    "fields.Box.solve_poisson": {"source": _RATE},
    "fields.DiT": {"shape": (2, 2, 2), "num_labels": 3, "patch": 1},
    "fields.DiT.__call__": {"args": jnp.array(1)},
    "fields.DiTFlowMap": {"shape": (2, 2, 2), "num_labels": 3, "patch": 1},
    "fields.DiTFlowMap.__call__": {"args": jnp.array(1)},
    "fields.LineFlowMap": {"field": tx.fields.MixtureField(_ON_LINE, _ON_LINE)},
    "fields.ObservationGuided": {"operator": lambda x: x[:2]},
    "fields.EnergyGuided": {"energy": lambda x, args: jnp.sum(x**2)},
    "fields.dacorogna_moser": {"box": _BOX, "density": _CELLS, "rate": _RATE},
    "fields.diagnose_field": {"box": _BOX, "density": _CELLS, "rate": _RATE, "velocity": _FACES},
    "fields.flux_null": {"box": _BOX, "density": _CELLS, "stream": jnp.ones((3, 3))},
    "fields.least_squares": {"box": _BOX, "density": _CELLS, "rate": _RATE},
    "fields.solve_least_squares": {"box": _BOX, "density": _CELLS, "rate": _RATE},
    "fields.project_onto_gradients": {"box": _BOX, "density": _CELLS, "velocity": _FACES},
    "fields.upwind_step": {"box": _BOX, "density": _CELLS, "velocity": _FACES},
    "geometry.PNorm": {"p": 1.5},
    "geometry.Pointwise": {"function": lambda x, y: jnp.sum((x - y) ** 2)},
    "gradient_flows.CellBox": {"low": (-1.0,), "high": (1.0,), "shape": (4,)},
    "gradient_flows.PorousMedium": {"exponent": 2.0},
    "gradient_flows.Interaction": {"kernel": lambda x, y: jnp.sum((x - y) ** 2)},
    "gradient_flows.MMD": {"kernel": lambda x, y: jnp.exp(-jnp.sum((x - y) ** 2))},
    "gradient_flows.gaussian_flow": {"energy": tx.gradient_flows.gaussian_entropy},
    "gradient_flows.line_flow": {"nodes0": jnp.arange(5.0), "functional": _line},
    "losses.drop_labels": {"labels": jnp.arange(4)},
    "losses.latent_noise_matching": {
        "path": tx.interpolants.Noised(tx.interpolants.Linear(), tx.interpolants.BridgeNoise(1.0))
    },
    "learned_energies.fit_displacements": {"features": jnp.tanh},
    "learned_energies.fit_first_order": {
        "features": jnp.tanh,
        "displacements": tx.learned_energies.Displacements(
            jnp.ones((2, 4, 2)), jnp.ones((2, 4, 2)), jnp.ones((2, 4)), tx.Status.CONVERGED
        ),
    },
    "learned_energies.fit_weak_form": {"features": jnp.tanh},
    "mean_field.Risk.batch": {"rows": jnp.arange(2)},
    "mean_field.linear_training": {"moments": jnp.eye(4)},
    "mean_field.ResidualRisk": {"depth": 3},
    "mean_field.train": {"risk": tx.mean_field.Risk(jnp.full((4, 2), 0.3), jnp.full((4, 2), 0.5))},
    "training.fit": {"draw_batch": lambda *, key: None, "num_steps": 1},
    "mean_field.ResidualNetwork": {"layers": _layers()},
    "mean_field.RectifiedPower": {"degree": 2},
    "ot.GridDensity": {"masses": jnp.ones((4, 3)), "low": jnp.zeros(2), "high": jnp.ones(2)},
    "sampling.Reflow": {"draw_sources": lambda *, key: (jr.normal(key, (4, 2)), None)},
    "sampling.KarrasGrid.__call__": {"num_steps": 4},
}
