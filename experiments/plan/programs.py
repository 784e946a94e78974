"""What a compiled program does: its arithmetic and what it sends, loops multiplied out.

XLA's own `cost_analysis` counts the body of a loop once. This reads the program's text, in
which a loop of known length says how often it runs, or counts up to a constant. Loops that run
until something holds (a solve's) count once and are reported; of a choice the dearest branch
counts.
"""

import collections
import functools
import math
import re
from typing import NamedTuple

from jax.stages import Compiled

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
# One operation for each number of the result, transcendental ones too.
_ELEMENTWISE = frozenset(
    "abs add atan2 cbrt ceil cosine divide erf exponential exponential-minus-one floor log "
    "log-plus-one logistic maximum minimum multiply negate power remainder rsqrt sign sine sqrt "
    "subtract tan tanh".split()
)
# What takes no more numbers of its operands than it makes.
_NUMBER_BY_NUMBER = _ELEMENTWISE | {"bitcast", "broadcast", "compare", "convert", "copy", "reshape"}
_NUMBER_BY_NUMBER |= {"select", "slice", "transpose"}
# A collective of TPUs that was begun by an earlier instruction, and goes on beside this one's work.
_GOES_ON = re.compile(r'"async_collective_fusion_config":\{"flag_start":"(?!-1")')
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CHOICES = re.compile(r"(?:true|false)_computation=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Work(NamedTuple):
    """What one device does when the program runs.

    Attributes:
        flops: Operations on floating and integer numbers, a multiplication and an addition
            of a product counted as two.
        sent: Bytes that each kind of collective brings to a device, every time it runs.
        largest: Bytes of the largest array that each kind of collective makes.
        open_loops: Loops whose length is not known, each counted as one run of its body.
    """

    flops: float
    sent: dict[str, float]
    largest: dict[str, float]
    open_loops: int

    def times(self, count: int) -> "Work":
        """So many runs of it."""
        sent = {kind: count * size for kind, size in self.sent.items()}
        return Work(count * self.flops, sent, self.largest, self.open_loops)

    def plus(self, other: "Work") -> "Work":
        """This, then that."""
        sent = collections.Counter(self.sent) + collections.Counter(other.sent)
        largest = dict(other.largest)
        for kind, size in self.largest.items():
            largest[kind] = max(size, largest.get(kind, 0))
        loops = self.open_loops + other.open_loops
        return Work(self.flops + other.flops, dict(sent), largest, loops)


_NOTHING = Work(0, {}, {}, 0)


class Instruction(NamedTuple):
    """A line of a program: what it makes, by what, of what, and its other attributes."""

    root: bool
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str


def work(program: Compiled) -> Work:
    """What a compiled program does on each device."""
    return work_of_text(program.as_text() or "")


def work_of_text(text: str) -> Work:
    """What a program does, given the text of its optimised HLO."""
    entry, computations = parse(text)

    @functools.cache
    def of_computation(name: str) -> Work:
        shapes = {name: one.shape for name, one in computations[name].items()}
        parts = (of_instruction(one, shapes) for one in computations[name].values())
        return functools.reduce(Work.plus, parts, _NOTHING)

    def of_fusion(name: str) -> Work:
        # Nothing inside is made but what is asked for: of what is sliced, the slice.
        parts, counted = computations[name], needed(computations[name])
        found = of_computation(name)
        spared = sum(
            _count(one.shape) - counted.get(made, 0)
            for made, one in parts.items()
            if one.opcode in _ELEMENTWISE
        )
        return found._replace(flops=found.flops - spared)

    def of_instruction(one: Instruction, shapes: dict[str, str]) -> Work:
        own = _own_work(one, shapes)
        # What is applied number by number counts with the instruction that applies it.
        if own is not None:
            return own
        if one.opcode == "conditional":
            names = [
                n.strip(" %") for found in _BRANCHES.findall(one.rest) for n in found.split(",")
            ]
            branches = [of_computation(name) for name in names or _CHOICES.findall(one.rest)]
            return max(branches, key=lambda branch: branch.flops)
        of = of_fusion if one.opcode == "fusion" else of_computation
        inside = [of(name) for name in CALLED.findall(one.rest)]
        found = functools.reduce(Work.plus, inside, _NOTHING)
        if one.opcode != "while":
            return found
        trips = number_of_trips(one, computations)
        if trips is None:
            return found._replace(open_loops=found.open_loops + 1)
        return found.times(trips)

    return of_computation(entry)


Computations = dict[str, dict[str, Instruction]]


def parse(text: str) -> tuple[str, Computations]:
    """The name of the first computation to run, and the instructions of all."""
    entry, computations, here = "", {}, {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            here = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            root, name, shape, opcode, rest = found.groups()
            # A constant keeps its number, which stands where others have operands.
            end = 0 if opcode == "constant" else _closing(rest)
            names = tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
            here[name] = Instruction(root is not None, shape, opcode, names, rest[end:])
    return entry, computations


def _closing(text: str) -> int:
    """Where the bracket closes that was opened before this text."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return place
    return len(text)


def needed(fused: dict[str, Instruction]) -> dict[str, float]:
    """How many numbers of each array in a fusion its result takes."""
    counts: dict[str, float] = {}
    for name, one in reversed(fused.items()):
        taken = counts.setdefault(name, _count(one.shape) if one.root else 0)
        for operand in set(one.operands):
            whole = _count(fused[operand].shape)
            each = min(whole, taken) if one.opcode in _NUMBER_BY_NUMBER else whole
            counts[operand] = max(counts.get(operand, 0), each)
    return counts


def number_of_trips(loop: Instruction, computations: Computations) -> int | None:
    """How often a loop runs, where that is known: said by the compiler, or counted from zero."""
    if said := _TRIPS.search(loop.rest):
        return int(said[1])
    condition = computations[re.findall(r"condition=%?([\w.\-]+)", loop.rest)[0]]
    test = next(one for one in condition.values() if one.root)
    if test.opcode != "compare" or "direction=LT" not in test.rest:
        return None
    limit = condition[test.operands[1]]
    return int(limit.rest[: _closing(limit.rest)]) if limit.opcode == "constant" else None


def _own_work(one: Instruction, shapes: dict[str, str]) -> Work | None:
    """The work of an instruction that is not made of computations; None for others."""
    opcode = one.opcode.removesuffix("-start")
    if opcode in COLLECTIVES:
        if _GOES_ON.search(one.rest):
            return _NOTHING
        size = _received(one, opcode, shapes)
        return Work(0, {opcode: size}, {opcode: size}, 0)
    if one.opcode in _ELEMENTWISE:
        return _NOTHING._replace(flops=_count(one.shape))
    if one.opcode in ("reduce", "reduce-window"):
        inputs = one.operands[: len(one.operands) // 2]
        return _NOTHING._replace(flops=sum(_count(shapes[name]) for name in inputs))
    if one.opcode == "dot":
        contracted = re.findall(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        left = _sizes(shapes[one.operands[0]])
        depth = math.prod(left[int(axis)] for axis in contracted[0].split(",") if axis)
        return _NOTHING._replace(flops=2 * _count(one.shape) * depth)
    if one.opcode == "convolution":
        return _NOTHING._replace(flops=_of_convolution(one, shapes))
    return None


def _of_convolution(one: Instruction, shapes: dict[str, str]) -> float:
    """Operations of a convolution; products with its padding do not count."""
    image, kernel, result = re.findall(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)[0]
    sizes = [_sizes(shapes[name]) for name in one.operands[:2]]
    across, weights = (
        dict(zip(image, sizes[0], strict=True)),
        dict(zip(kernel, sizes[1], strict=True)),
    )
    made = dict(zip(result, _sizes(one.shape), strict=True))
    flops = 2.0 * made["b"] * made["f"] * weights["i"]
    window = dict(
        re.findall(r"(\w+)=([\d_x\-]+)", "".join(re.findall(r"window=\{(.*?)\}", one.rest)))
    )
    for axis in sorted(set(image) - set("bf")):
        place = int(axis)

        def entry(name: str, default: str, place: int = place) -> str:
            return window[name].split("x")[place] if name in window else default

        stride, inner, outer = (
            int(entry(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(entry("pad", "0_0").split("_")[0])
        reached = (
            out * stride + tap * outer - low
            for out in range(made[axis])
            for tap in range(weights[axis])
        )
        flops *= sum(at % inner == 0 and 0 <= at // inner < across[axis] for at in reached)
    return flops


def _received(one: Instruction, kind: str, shapes: dict[str, str]) -> float:
    """Bytes of a collective's result; of one that starts, its type holds more than that."""
    operands = sum(num_bytes(shapes[name]) for name in one.operands)
    if not one.opcode.endswith("-start") or kind == "all-reduce":
        return num_bytes(one.shape)
    return num_bytes(one.shape) - operands if kind == "all-gather" else operands


def _sizes(shape: str) -> list[int]:
    return [int(size) for size in _ARRAY.findall(shape)[0][1].split(",") if size]


def _count(shape: str) -> float:
    return sum(math.prod(int(s) for s in sizes.split(",") if s) for _, sizes in _arrays(shape))


def num_bytes(shape: str) -> float:
    """Bytes of an array, or of all those of a tuple."""
    return sum(
        math.prod(int(s) for s in sizes.split(",") if s) * _width(kind) / 8
        for kind, sizes in _arrays(shape)
    )


def _arrays(shape: str) -> list[tuple[str, str]]:
    return [found for found in _ARRAY.findall(shape) if found[0] != "token"]


def _width(kind: str) -> int:
    """Bits of a number of this type, as in f32 or f8e4m3fn."""
    if kind in _BITS:
        return _BITS[kind]
    return int(re.findall(r"\d+", kind)[0])
