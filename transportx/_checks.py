"""What can be refused before anything runs: one message each, naming argument and cure."""

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh
from jaxtyping import Array

from transportx._gate import gate as gate
from transportx._gate import reject as reject


def positive(argument: str, value: Any) -> None:
    """Refuse a Python number that is not positive; traced values pass."""
    if isinstance(value, numbers.Real) and not float(value) > 0:
        reject(argument, f"is {value}", "give a positive number")


def not_negative(argument: str, value: Any) -> None:
    """Refuse a Python number below zero, or NaN; traced values pass."""
    if isinstance(value, numbers.Real) and not float(value) >= 0:
        reject(argument, f"is {value}", "give zero or a positive number")


def scale(argument: str, value: Any) -> None:
    """Refuse a Python number that is not positive and finite; traced values pass."""
    if isinstance(value, numbers.Real) and not 0 < float(value) < math.inf:
        reject(argument, f"is {value}", "give a positive number")


def finite(argument: str, value: Any) -> None:
    """Refuse a Python number that is infinite or NaN; traced values pass."""
    if isinstance(value, numbers.Real) and not math.isfinite(value):
        reject(argument, f"is {value}", "give a finite number")


def below(argument: str, value: Any, other: str, bound: Any) -> None:
    """Refuse a Python number that is not below another; traced values pass."""
    if isinstance(value, numbers.Real) and isinstance(bound, numbers.Real) and not value < bound:
        reject(argument, f"is {value}", f"give a number below `{other}`, which is {bound}")


def fraction(argument: str, value: Any) -> None:
    """Refuse a Python number outside of [0, 1], or NaN; traced values pass."""
    if isinstance(value, numbers.Real) and not 0 <= float(value) <= 1:
        reject(argument, f"is {value}", "give a number in [0, 1]")


def positive_value(argument: str, value: Any, dtype: Any) -> Array:
    """A positive finite number as an array; NaN where it is another one, known at run time."""
    scale(argument, value)
    number = jnp.asarray(value, dtype)
    return jnp.where((number > 0) & (number < jnp.inf), number, jnp.nan)


def not_negative_value(argument: str, value: Any, dtype: Any) -> Array:
    """A finite number of at least zero as an array; NaN where it is another one, at run time."""
    not_negative(argument, value)
    finite(argument, value)
    number = jnp.asarray(value, dtype)
    return jnp.where((number >= 0) & (number < jnp.inf), number, jnp.nan)


def exponent(argument: str, value: Any) -> None:
    """Refuse a Python number below 1, or NaN; traced values pass."""
    if isinstance(value, numbers.Real) and not float(value) >= 1:
        reject(argument, f"is {value}", "give an exponent of at least 1")


def count(argument: str, value: Any, *, least: int = 1) -> None:
    """Refuse what is not an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        reject(argument, f"is {value!r}", f"give an integer of at least {least}")


def floating(argument: str, array: Array) -> None:
    """Refuse integer and boolean arrays where real numbers are needed."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        reject(argument, f"has dtype {array.dtype}", "convert it to a floating-point dtype")


def points(argument: str, array: Array) -> None:
    """Refuse what is not a non-empty cloud of points, shape (n, d)."""
    if array.ndim != 2 or 0 in array.shape:
        reject(argument, f"has shape {array.shape}", "give at least one point, shape (n, d)")
    floating(argument, array)


def point(argument: str, array: Array, other: str, cloud: Array) -> None:
    """Refuse what is not one point of the dimension of a cloud (n, d)."""
    if array.shape != cloud.shape[1:]:
        cure = f"give one point of shape {cloud.shape[1:]}, as in `{other}`, and batch with vmap"
        reject(argument, f"has shape {array.shape}", cure)


def batch(argument: str, array: Array) -> None:
    """Refuse what is not a non-empty batch of examples, shape (b, ...)."""
    if array.ndim == 0 or array.shape[0] == 0:
        reject(argument, f"has shape {array.shape}", "give at least one example, shape (b, ...)")
    floating(argument, array)


def same_shape(argument: str, array: Array, other: str, reference: Array) -> None:
    """Refuse two arrays whose shapes differ."""
    if array.shape != reference.shape:
        reject(
            argument,
            f"has shape {array.shape} but `{other}` has shape {reference.shape}",
            "give both the same shape",
        )


def shaped(argument: str, array: Array, shape: tuple[int, ...], meaning: str) -> None:
    """Refuse any other shape than the one that `meaning` asks for."""
    if array.shape != shape:
        reject(argument, f"has shape {array.shape}", f"give {meaning}, shape {shape}")


def same_dimension(argument: str, array: Array, other: str, reference: Array) -> None:
    """Refuse two arrays whose examples differ in shape."""
    if array.shape[1:] != reference.shape[1:]:
        reject(
            argument,
            f"has examples of shape {array.shape[1:]} but those of `{other}` have "
            f"{reference.shape[1:]}",
            "give examples of one shape",
        )


def same_size(argument: str, array: Array, other: str, reference: Array) -> None:
    """Refuse two arrays whose leading axes differ."""
    if np.ndim(array) == 0:
        reject(argument, f"holds {array!r}", f"give arrays with one row per example of `{other}`")
    if array.shape[0] != reference.shape[0]:
        reject(
            argument,
            f"has {array.shape[0]} examples but `{other}` has {reference.shape[0]}",
            "give as many of each",
        )


def own_axis(mesh: Mesh, axis: str) -> None:
    """Refuse an axis over which arrays may not be laid any more: that of a `shard_map`."""
    if mesh.axis_types[mesh.axis_names.index(axis)] is AxisType.Manual:
        reject("mesh", f"has axis {axis!r} of type Manual", "give axes of type Auto or Explicit")


def one_axis(mesh: Mesh) -> None:
    """Refuse a mesh that is not one row of devices."""
    if len(mesh.axis_names) != 1:
        reject("mesh", f"has axes {mesh.axis_names}", "give a mesh of one axis")
    own_axis(mesh, mesh.axis_names[0])


def divided(argument: str, array: Array, mesh: Mesh | None) -> None:
    """Refuse a number of rows that the devices of a mesh do not divide."""
    if mesh is None:
        return
    one_axis(mesh)
    if array.ndim and array.shape[0] % mesh.size:
        cure = f"add points of weight zero up to a multiple of {mesh.size}, the devices of `mesh`"
        reject(argument, f"has {array.shape[0]} points", cure)


def velocity(field_output: Array, x: Array, argument: str = "field") -> None:
    """Refuse a field whose output would be broadcast against its point."""
    if np.shape(field_output) != x.shape:
        reject(
            argument,
            f"returns shape {np.shape(field_output)} at a point of shape {x.shape}",
            "return dx/dt, one number per coordinate",
        )


def two_times(argument: str, u: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called `u(s, t, x, args)`, as a field of one time."""
    try:
        signature = inspect.signature(u)
    except (TypeError, ValueError):  # Functions written in C may have none.
        return
    try:
        signature.bind(*"stxa")
    except TypeError:
        cure = "give a flow map `u(s, t, x, args)` of two times"
        reject(argument, f"has the signature {signature}", cure)


def ordered_times(s: Array, t: Array) -> tuple[Array, Array]:
    """Two times with 0 <= s <= t <= 1: others are refused if known, and NaN where traced."""
    ordered = (s >= 0) & (s <= t) & (t <= 1)
    if not isinstance(ordered, Tracer) and not np.all(ordered):
        backwards = bool(np.any(s > t))
        problem = f"is {s}, after `t` = {t}" if backwards else f"is {s} with `t` = {t}"
        reject("s", problem, "give times with 0 <= s <= t <= 1")
    return jnp.where(ordered, s, jnp.nan), jnp.where(ordered, t, jnp.nan)


def number(argument: str, output: Any) -> None:
    """Refuse a function whose output is not one number."""
    if np.shape(output) != ():
        reject(argument, f"returns shape {np.shape(output)}", "return one number, of shape ()")


def label(argument: str, labels: Array) -> None:
    """Refuse labels that are not integers: booleans and real numbers are not classes."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        reject(argument, f"has dtype {labels.dtype}", "give integer labels")


def label_value(argument: str, value: Any, labels: Array) -> None:
    """Refuse an integer that the labels' dtype cannot represent."""
    count(argument, value, least=np.iinfo(np.int64).min)
    info = np.iinfo(labels.dtype)
    if not info.min <= value <= info.max:
        cure = f"give labels of a wider dtype than {labels.dtype}"
        reject(argument, f"is {value}, beyond {info.min} to {info.max}", cure)
