"""Sampling and likelihood of the same networks in torch, as each library does it. Extra `peers`.

Each entrant is a function without arguments that returns the answer, a tensor.
"""
# pyright: reportMissingImports=false
# Only the extra `peers` installs torch, torchcfm with torchdyn and torchdiffeq, flow_matching.

import contextlib
import importlib
import io
import math
import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

import transportx as tx

Entrants = dict[str, Callable[[], Any]]


def require() -> None:
    """Import every peer, so that a missing one is known before the first run; use all cores.

    Raises:
        ModuleNotFoundError: One is not installed.
    """
    for name in ("torch", "torchcfm", "torchdiffeq", "torchdyn", "flow_matching"):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(os.cpu_count() or 1)


def tensors(tree: Any) -> Any:
    """The tree with tensors for its arrays."""
    import torch

    return jax.tree.map(
        lambda leaf: torch.from_numpy(np.array(leaf)), eqx.filter(tree, eqx.is_array)
    )


def plane_network(field: tx.fields.MLP) -> Any:
    """The network of torchcfm, three hidden layers, with the weights of ours."""
    import torch
    from torchcfm.models.models import MLP

    network = MLP(dim=field.dim, time_varying=True, w=len(field.layers[0].weight))
    linear = [layer for layer in network.net if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer, ours in zip(linear, tensors(field.layers), strict=True):
            layer.weight.copy_(ours.weight)
            layer.bias.copy_(ours.bias)
    return network


def velocity_of(network: Any) -> Callable[[Any, Any], Any]:
    """`velocity(t, x)` of a batch, from a network of points with their time appended."""
    import torch

    return lambda t, x: network(torch.cat([x, t.expand(len(x), 1)], dim=1))


def euler(field: tx.fields.MLP, points: Any, steps: int) -> Entrants:
    """Equal Euler steps from time 0 to 1."""
    import torch
    from torchdiffeq import odeint

    network, x = plane_network(field), tensors(points)
    velocity, times = velocity_of(network), torch.linspace(0, 1, steps + 1)
    node, solver = _node(network, solver="euler"), _flow_matching_solver(velocity)
    return {
        "torchdyn": _without_gradient(lambda: node.trajectory(x, t_span=times)[-1]),
        "torchdiffeq": _without_gradient(lambda: odeint(velocity, x, times, method="euler")[-1]),
        "flow_matching": lambda: solver.sample(x, step_size=1 / steps, method="euler"),
        "torch loop": loop(velocity, x, steps),
    }


def loop(velocity: Callable[[Any, Any], Any], x: Any, steps: int) -> Callable[[], Any]:
    """The same without a library of solvers."""
    import torch

    def run() -> Any:
        now = x
        for t in torch.arange(steps) / steps:
            now = now + velocity(t, now) / steps
        return now

    return _without_gradient(run)


def adaptive(field: tx.fields.MLP, points: Any, tol: float) -> Entrants:
    """Adaptive steps, one size for the batch, from time 0 to 1."""
    import torch
    from torchdiffeq import odeint

    network, x = plane_network(field), tensors(points)
    velocity, times = velocity_of(network), torch.linspace(0, 1, 2)
    solver = _flow_matching_solver(velocity)
    tolerances: dict[str, Any] = {"rtol": tol, "atol": tol}
    dopri, tsit = (_node(network, solver=name, **tolerances) for name in ("dopri5", "tsit5"))
    return {
        "torchdyn dopri5": _without_gradient(lambda: dopri.trajectory(x, t_span=times)[-1]),
        "torchdyn tsit5": _without_gradient(lambda: tsit.trajectory(x, t_span=times)[-1]),
        "torchdiffeq dopri5": _without_gradient(
            lambda: odeint(velocity, x, times, method="dopri5", **tolerances)[-1]
        ),
        "flow_matching dopri5": lambda: solver.sample(
            x, step_size=None, method="dopri5", **tolerances
        ),
    }


def likelihood(field: tx.fields.MLP, points: Any, steps: int) -> Entrants:
    """Log-densities by the exact divergence, equal Euler steps from time 1 back to 0."""
    import torch
    from torchdyn.core import NeuralODE
    from torchdyn.models import CNF
    from torchdyn.nn import Augmenter, DepthCat

    network, x = plane_network(field), tensors(points)
    solver = _flow_matching_solver(velocity_of(network))
    # torchdyn says on standard output that a CNF takes no time; DepthCat brings it.
    with contextlib.redirect_stdout(io.StringIO()):
        timed = torch.nn.Sequential(DepthCat(1), network)
        node = NeuralODE(CNF(timed), solver="euler", sensitivity="adjoint")
    augment, times = Augmenter(augment_idx=1, augment_dims=1), torch.linspace(1, 0, steps + 1)

    def torchdyn() -> Any:
        end = node.trajectory(augment(x), t_span=times)[-1]
        return _log_normal(end[:, 1:]) - end[:, 0]

    def flow_matching() -> Any:
        return solver.compute_likelihood(
            x, _log_normal, step_size=1 / steps, method="euler", exact_divergence=True
        )[1].detach()

    return {"torchdyn CNF": _without_gradient(torchdyn), "flow_matching": flow_matching}


def transformer(field: tx.fields.DiT, labels: Any) -> Callable[[Any, Any], Any]:
    """`velocity(t, x)` of a batch of images: our transformer, by torch's fused functions."""
    import torch
    from torch.nn import functional

    weights, classes = tensors(field), tensors(labels).long()
    heads, depth = field.blocks.heads, len(field.blocks.out.weight)
    patch, width = field.patch, field.positions.shape[1]
    height, breadth, channels = field.shape
    rows, columns = height // patch, breadth // patch

    def linear(x: Any, layer: Any, index: Any = ...) -> Any:
        return functional.linear(x, layer.weight[index], layer.bias[index])

    def modulate(tokens: Any, shift: Any, scale: Any) -> Any:
        return functional.layer_norm(tokens, (width,), eps=1e-6) * (1 + scale) + shift

    def condition(t: Any) -> Any:
        first, last = weights.time.layers
        angles = torch.pi * t * torch.arange(1, 1 + first.weight.shape[1] // 2)
        features = torch.cat([t[None], torch.cos(angles), torch.sin(angles)])
        time = linear(functional.silu(linear(features, first)), last)
        return functional.silu(time + weights.labels.weight[classes])[:, None]

    def attend(tokens: Any, k: int) -> Any:
        mixed = linear(tokens, weights.blocks.mix, k).unflatten(2, (3, heads, width // heads))
        queries, keys, values = mixed.permute(2, 0, 3, 1, 4)
        joined = functional.scaled_dot_product_attention(queries, keys, values)
        return linear(joined.transpose(1, 2).flatten(2), weights.blocks.out, k)

    def block(tokens: Any, given: Any, k: int) -> Any:
        changes = linear(given, weights.blocks.modulation, k).chunk(6, dim=2)
        tokens = tokens + changes[2] * attend(modulate(tokens, *changes[:2]), k)
        raised = linear(modulate(tokens, *changes[3:5]), weights.blocks.up, k)
        hidden = functional.gelu(raised, approximate="tanh")
        return tokens + changes[5] * linear(hidden, weights.blocks.down, k)

    def velocity(t: Any, x: Any) -> Any:
        grid = x.reshape(-1, rows, patch, columns, patch, channels).transpose(2, 3)
        tokens = linear(grid.reshape(len(x), rows * columns, -1), weights.embed)
        tokens, given = tokens + weights.positions, condition(t)
        for k in range(depth):
            tokens = block(tokens, given, k)
        shift, scale = linear(given, weights.modulation).chunk(2, dim=2)
        patches = linear(modulate(tokens, shift, scale), weights.project)
        grid = patches.reshape(-1, rows, columns, patch, patch, channels)
        return grid.transpose(2, 3).reshape(x.shape)

    return velocity


def _node(network: Any, **options: Any) -> Any:
    """A network in torchdyn's solver, as in torchcfm's examples."""
    from torchcfm.utils import torch_wrapper
    from torchdyn.core import NeuralODE

    return NeuralODE(torch_wrapper(network), sensitivity="adjoint", **options)


def _flow_matching_solver(velocity: Callable[[Any, Any], Any]) -> Any:
    from flow_matching.solver import ODESolver

    return ODESolver(velocity_model=lambda x, t: velocity(t, x))


def _without_gradient(run: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    return torch.no_grad()(run)


def _log_normal(x: Any) -> Any:
    return -(x**2).sum(dim=1) / 2 - x.shape[1] / 2 * math.log(2 * math.pi)
