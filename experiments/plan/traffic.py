"""Bytes that a compiled program moves to and from a device's memory, loops multiplied out.

Every instruction outside fusions reads its operands and writes its result; of what is sliced
only the slice counts. Caches, and memory on the chip that the compiler puts arrays into, are
left out: an estimate from above of the traffic with the device's main memory.
"""

import functools

from experiments.plan.programs import (
    CALLED,
    Computations,
    Instruction,
    num_bytes,
    number_of_trips,
    parse,
)

# Names for what is already there.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all iota partition-id replica-id "
    "opt-barrier copy-done".split()
)
_SLICES = ("dynamic-slice", "slice", "gather")


def traffic(text: str) -> float:
    """Bytes, given the text of the optimised HLO; open loops count one run of their body."""
    entry, computations = parse(text)

    @functools.cache
    def of_computation(name: str) -> float:
        inside = computations[name]
        return sum(of_instruction(one, inside) for one in inside.values())

    def of_instruction(one: Instruction, beside: dict[str, Instruction]) -> float:
        if one.opcode in _FREE or one.opcode.endswith("-done"):
            return 0
        called = [name for name in CALLED.findall(one.rest) if name in computations]
        if one.opcode == "while":
            return sum(map(of_computation, called)) * (number_of_trips(one, computations) or 1)
        if one.opcode in ("call", "conditional"):
            return sum(map(of_computation, called))
        if one.opcode == "fusion":
            return _of_fusion(one, computations, called[0])
        return _read_and_written(one, beside)

    return of_computation(entry)


def _read_and_written(one: Instruction, beside: dict[str, Instruction]) -> float:
    operands = [num_bytes(beside[name].shape) for name in one.operands if name in beside]
    if one.opcode in _SLICES:
        return 2 * num_bytes(one.shape)
    if one.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    return sum(operands) + num_bytes(one.shape)


def _of_fusion(one: Instruction, computations: Computations, called: str) -> float:
    """What the fused instructions read of the fusion's operands, and its result."""
    inside = computations[called]
    read = sum(_read_of(name, inside) for name, one in inside.items() if one.opcode == "parameter")
    updates = [
        num_bytes(inside[update.operands[1]].shape)
        for update in inside.values()
        if update.opcode == "dynamic-update-slice" and update.shape in one.shape
    ]
    return read + (sum(updates) if updates else num_bytes(one.shape))


def _read_of(parameter: str, inside: dict[str, Instruction]) -> float:
    """Bytes read of a fused computation's parameter: slices of it, or all."""
    users = [user for user in inside.values() if parameter in user.operands]
    sliced = all(
        user.opcode in (*_SLICES, "dynamic-update-slice") and user.operands[0] == parameter
        for user in users
    )
    if not sliced:
        return num_bytes(inside[parameter].shape)
    return sum(num_bytes(user.shape) for user in users if user.opcode in _SLICES)
