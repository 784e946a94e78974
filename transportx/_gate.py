"""The gate of every public function and module: arguments are what their annotations say."""

import collections.abc
import functools
import inspect
import math
import numbers
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray, Bool, Float, Int, PRNGKeyArray, PyTree, ScalarLike

Checked = TypeVar("Checked", bound=Callable[..., Any])

_UNIONS = (typing.Union, types.UnionType)
_FLOAT, _WHOLE = jnp.floating, jnp.integer
# Of each jaxtyping dtype: what to accept, what to ask for, what to convert to.
_KINDS = {
    Float: (_FLOAT, "array of real numbers", "a floating-point dtype"),
    Int: (_WHOLE, "array of integers", "an integer dtype"),
    Bool: (jnp.bool_, "array of booleans", "a boolean dtype"),
}


def reject(argument: str, problem: str, cure: str) -> NoReturn:
    """Raise the `ValueError` that every refusal in transportx looks like."""
    raise ValueError(f"`{argument}` {problem}; {cure}.")


def gate(thing: Checked) -> Checked:
    """Decorate a public function or module: refuse arguments that their annotations exclude.

    The annotations say what a reader needs to know (``Float[Array, "n d"]``, ``ScalarLike``,
    ``AbstractGeometry``); the gate holds callers to them, axes of one name agreeing across
    arguments, and hands numpy arrays on as jax arrays. It looks at types, dtypes and shapes
    alone, so it works on tracers and costs microseconds per call. Arrays of no entries are
    refused, but to a module, which may stand for none of something.
    """
    function: Any = thing
    if inspect.isclass(function):
        function.__init__ = _gated(function.__init__, empty=True)
        return thing
    return cast(Checked, _gated(function, empty=False))


def _gated(function: Callable[..., Any], *, empty: bool) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def gated(*args, **kwargs):
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own words for missing and unknown names
        given, sizes = bound.arguments, _Sizes(empty=empty)
        for name, hint in _hints(function).items():
            if name in given:
                given[name] = conform(name, given[name], hint, sizes)
        return function(*bound.args, **bound.kwargs)

    return gated


def conform(argument: str, value: Any, hint: Any, sizes: "_Sizes") -> Any:
    """The value as its annotation asks for it; `sizes` collects named axes.

    Raises:
        ValueError: The value is of another type, dtype or shape.
    """
    try:
        return _conform(argument, value, hint, sizes)
    except _Refusal as refusal:
        problem, cure = refusal.args
    return reject(argument, problem, cure)


class _Sizes(dict[str, tuple[Any, str]]):
    """The size of each named axis, with the argument that had it; whether none is a size."""

    def __init__(self, *, empty: bool):
        super().__init__()
        self.empty = empty


class _Refusal(Exception):
    """(problem, cure) of one value under one annotation."""


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's named parameters."""
    raw = inspect.unwrap(function)
    try:
        hints = typing.get_type_hints(raw)
    except NameError:  # A forward reference to a name that no module holds.
        hints = raw.__annotations__
    named = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(raw).parameters.values()
    return {p.name: hints[p.name] for p in parameters if p.name in hints and p.kind not in named}


def _conform(argument, value, hint, sizes):
    options = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    if value is None and (types.NoneType in options or hint is None):
        return None
    merged = [option for option in options if option is not types.NoneType]
    if isinstance(value, jax.Array | np.ndarray):
        # Beside an annotation of arrays, that of pytrees is for what is no array itself.
        arrays = [option for option in merged if not _is_subclass(option, PyTree)]
        merged = arrays if any(_is_subclass(o, AbstractArray) for o in arrays) else merged
    for union, check in ((PRNGKeyArray, _key), (ScalarLike, _real)):
        parts = typing.get_args(union)
        if set(parts) <= set(merged):
            merged = [check] + [option for option in merged if option not in parts]
    refusals = []
    for option in merged:
        try:
            return _single(argument, value, option, sizes)
        except _Refusal as refusal:
            refusals.append(refusal.args)
    first, *others = dict.fromkeys(cure for _, cure in refusals)
    cure = " or ".join([first, *(other.removeprefix("give ") for other in others)])
    raise _Refusal(refusals[0][0], cure)


def _single(argument, value, hint, sizes):
    """One value under one annotation that is no union."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in (_key, _real):
        return hint(value)
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return _array(argument, value, hint, sizes)
    if hint in (int, float, bool):
        return {int: _integer, float: _float, bool: _boolean}[hint](value)
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return _instance(value, callable(value), "a function")
    if origin in (tuple, collections.abc.Sequence):
        return _several(argument, value, inner, sizes)
    if origin is typing.Literal:
        return _instance(value, value in inner, "one of " + ", ".join(map(repr, inner)))
    if isinstance(hint, type) and issubclass(hint, PyTree):
        return _pytree(argument, value, hint, sizes)
    if inspect.isclass(hint) and hint not in (Any, object):
        return _instance(value, isinstance(value, hint), _examples(hint))
    return value


def _instance(value, fits, wanted):
    if not fits:
        raise _Refusal(described(value), f"give {wanted}")
    return value


def _pytree(argument, value, hint, sizes):
    """Arrays that are all as the leaves' annotation says, where it says more than `Array`."""
    leaves, structure = jax.tree.flatten(value)
    _instance(value, not any(map(_wordy, leaves)), "a pytree of arrays")
    leaf = getattr(hint, "leaftype", None)
    if not (inspect.isclass(leaf) and issubclass(leaf, AbstractArray)):
        return value
    if not leaves:
        raise _Refusal(f"holds no array, but {structure}", "give a pytree of arrays")
    return jax.tree.unflatten(structure, [_array(argument, one, leaf, sizes) for one in leaves])


def _several(argument, value, inner, sizes):
    if not isinstance(value, tuple | list):
        raise _Refusal(described(value), "give a tuple")
    hints = (inner[0],) * len(value) if inner[-1:] == (...,) or len(inner) == 1 else inner
    if len(hints) != len(value):
        raise _Refusal(f"has {len(value)} entries", f"give {len(hints)}")
    pairs = enumerate(zip(value, hints, strict=True))
    return tuple(conform(f"{argument}[{i}]", item, hint, sizes) for i, (item, hint) in pairs)


def _array(argument, value, hint, sizes):
    """A jax array of the dtype and axes that `hint` names, from a jax or numpy array."""
    kind, noun, target = _KINDS.get(hint.dtype, (np.generic, "array", "a number's dtype"))
    axes = hint.dim_str.split()
    wanted = f"shape ({', '.join(axes)}{',' * (len(axes) == 1)})"
    if not axes and isinstance(value, numbers.Real) and kind is not jnp.bool_:
        value = jnp.asarray(_integer(value) if kind is _WHOLE else float(_real(value)))
    if type(value) is np.ndarray and value.dtype.kind not in "OSUMmV":
        value = jnp.asarray(value)
    if not isinstance(value, jax.Array):
        table = hasattr(value, "to_numpy")
        source = f"`{argument}.to_numpy()`" if table else f"a jax or numpy {noun}"
        raise _Refusal(described(value), f"give {source}, {wanted}")
    halves_and_more = value.dtype.itemsize > 1 or kind is not _FLOAT
    if not jnp.issubdtype(value.dtype, kind) or not halves_and_more:
        raise _Refusal(f"has dtype {value.dtype}", f"convert it to {target}")
    _fit_axes(argument, value, axes, wanted, sizes)
    return value


def _fit_axes(argument, value, axes, wanted, sizes):
    """Refuse a wrong number of axes, empty ones, and sizes that disagree with their names."""
    spread = next((i for i, axis in enumerate(axes) if axis == "..." or axis[0] == "*"), None)
    has = f"has shape {value.shape}"
    if spread is None and value.ndim != len(axes):
        batch = value.ndim > len(axes) and 1 not in value.shape
        raise _Refusal(has, f"give {wanted}" + batch * ", and batch with jax.vmap")
    if (value.size == 0 and not sizes.empty) or (spread is not None and value.ndim < len(axes) - 1):
        raise _Refusal(has, f"give at least one example, {wanted}")
    tail = 0 if spread is None else len(axes) - spread - 1
    named = list(zip(axes[:spread], value.shape, strict=False))
    named += list(zip(axes[len(axes) - tail :], value.shape[value.ndim - tail :], strict=True))
    for axis, size in named:
        _agree(axis, size, argument, has, wanted, sizes)
    if spread is not None and axes[spread] != "...":
        middle = value.shape[spread : value.ndim - tail]
        _agree(axes[spread], middle, argument, has, wanted, sizes)


def _agree(axis, size, argument, has, wanted, sizes):
    """Refuse an axis whose size is not the one that its name says or had elsewhere."""
    if axis.isdigit() and size != int(axis):
        raise _Refusal(has, f"give {wanted}")
    if not axis.lstrip("*").isidentifier() or axis == "_":
        return
    known, owner = sizes.setdefault(axis, (size, argument))
    if size != known:
        where = f", as in `{owner}`" if owner != argument else ""
        raise _Refusal(has, f"give {wanted} with {axis.lstrip('*')} = {known}{where}")


def _key(value):
    if type(value) is np.ndarray and value.dtype == np.uint32:
        value = jnp.asarray(value)
    typed = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    raw = isinstance(value, jax.Array) and value.dtype == jnp.uint32 and value.shape in {(2,), (4,)}
    return _instance(value, (typed and value.ndim == 0) or raw, "one key, as `jax.random.key(0)`")


def _real(value):
    """A Python number that is not NaN, or a floating-point array without axes."""
    if isinstance(value, np.generic) or (type(value) is np.ndarray and value.ndim == 0):
        value = value.item()
    if not isinstance(value, jax.Array) or value.ndim > 0:
        return _float(value, "a number or an array of shape ()")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise _Refusal(f"has dtype {value.dtype}", "convert it to a floating-point dtype")
    return value


def _float(value, wanted="a Python number"):
    """A Python number that is not NaN and that a float can hold."""
    value = value.item() if isinstance(value, np.generic) else value
    _instance(value, isinstance(value, numbers.Real) and not isinstance(value, bool), wanted)
    try:
        number = float(value)
    except OverflowError:
        number = math.nan
    if math.isnan(number):
        raise _Refusal(described(value), "give a number that a float can hold, not NaN")
    return value if isinstance(value, int) and abs(value) < 2**31 else number


def _integer(value):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)
    return int(_instance(value, whole and abs(int(value)) < 2**63, "an integer"))


def _boolean(value):
    return bool(_instance(value, isinstance(value, bool | np.bool_), "True or False"))


def described(value: Any) -> str:
    """What a refused value is, in the words of a message."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"has dtype {value.dtype} and shape {value.shape}"
    if inspect.isclass(value):
        return f"is the class `{value.__name__}`, not an instance"
    if value is None or isinstance(value, numbers.Number | str):
        return f"is {value!r:.60}"
    return f"is of type {type(value).__name__}"


def _examples(wanted):
    """How to make an instance: up to four public classes, with the arguments they need."""
    found = [cls for cls in _family(wanted) if not inspect.isabstract(cls)]
    public = [cls for cls in found if _public_name(cls)]
    if not public:
        return f"one of type {wanted.__name__}"
    return "one of " + ", ".join(f"`{_public_name(cls)}`" for cls in public[:4])


def _family(cls):
    return [cls, *(kin for child in cls.__subclasses__() for kin in _family(child))]


def _public_name(cls):
    package, *rest = cls.__module__.split(".")
    room = sys.modules.get(f"{package}.{rest[0]}") if rest else None
    if package != "transportx" or getattr(room, cls.__name__, None) is not cls:
        return ""
    parameters = inspect.signature(cls).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    return f"tx.{rest[0]}.{cls.__name__}({', '.join(needed)})"


def _is_subclass(hint, base):
    return isinstance(hint, type) and issubclass(hint, base)


def _wordy(leaf):
    return isinstance(leaf, str | bytes)
