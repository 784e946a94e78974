"""Losses and gradients by microbatches: one after the other, and side by side on devices."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh, PartitionSpec

from transportx import _checks, _numbers


def differentiate_parts(
    differentiate: Callable[..., Any], num: int, mesh: Mesh | None
) -> Callable[..., Any]:
    """The mean over `num` microbatches per device of what `differentiate` returns for each."""
    num_devices = 1 if mesh is None else mesh.size

    def mean_over_parts(field, batch, *, key):
        weights, static = eqx.partition(field, eqx.is_array)
        examples, rest = eqx.partition(batch, eqx.is_array)
        jax.tree.map(lambda leaf: _check_divides(leaf.shape[0], num, num_devices), examples)

        def total_here(weights, examples, key, device):
            def of_part(number, examples):
                batch = eqx.combine(examples, rest)
                field = eqx.combine(weights, static)
                return differentiate(field, batch, key=jr.fold_in(key, number))

            def add(total, part):
                # Sums of many parts are not in a half.
                found = _numbers.widened(of_part(*part))
                return jax.tree.map(jnp.add, total, found), None

            numbers = device * num + jnp.arange(num, dtype=jnp.int32)
            parts = numbers, jax.tree.map(lambda leaf: _in_blocks(leaf, num), examples)
            shapes = jax.eval_shape(of_part, *jax.tree.map(lambda leaf: leaf[0], parts))
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return jax.lax.scan(add, _numbers.widened(zeros), parts)[0]

        if mesh is None:
            total = total_here(weights, examples, key, 0)
        else:
            total = _over_devices(total_here, mesh)(weights, examples, key)
        return jax.tree.map(lambda leaf: leaf / (num * num_devices), total)

    return mean_over_parts


def _over_devices(total_here: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The sum over devices of what each finds for its own block of the examples."""
    (axis,) = mesh.axis_names

    def total(weights, examples, key):
        return jax.lax.psum(total_here(weights, examples, key, jax.lax.axis_index(axis)), axis)

    whole, over = PartitionSpec(), PartitionSpec(axis)
    # Derivatives are computed inside. With varying-axis checks on, the derivative with respect
    # to the replicated weights would be summed over the devices once per microbatch.
    return jax.shard_map(
        total, mesh=mesh, in_specs=(whole, over, whole), out_specs=whole, check_vma=False
    )


def _in_blocks(leaf: jax.Array, num: int) -> jax.Array:
    """Consecutive rows in blocks of one size, shape (num, rows / num, ...)."""
    return leaf.reshape(num, leaf.shape[0] // num, *leaf.shape[1:])


def _check_divides(size: int, num: int, num_devices: int) -> None:
    if size % num_devices:
        cure = "give a batch that they divide, or a mesh of fewer"
        _checks.reject("batch", f"has {size} examples for {num_devices} devices of `mesh`", cure)
    if size % (num * num_devices):
        where = f"a batch of {size}" + (f" on {num_devices} devices" if num_devices > 1 else "")
        cure = f"give a divisor of {size // num_devices}, the examples on a device"
        _checks.reject("num_microbatches", f"is {num} for {where}", cure)
