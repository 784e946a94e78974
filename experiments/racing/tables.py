"""Tables of a race, in Markdown."""

from typing import Any

from experiments.racing.race import GRADIENTS


def show(table: dict[str, Any], summary: dict[str, Any]) -> None:
    """Print everything in Markdown."""
    _show_times(table)
    _show_summary(summary, len(table))
    _show_audit(table)
    _show_derivatives(table)
    _show_absences(table)


def _show_absences(table: dict[str, Any]) -> None:
    for name, row in table.items():
        for reason in row["absent"]:
            print(f"{name}: without {reason}")
        for entrant, found in row["derivatives"].items():
            for kind, figures in found.items():
                if "absent" in figures:
                    print(f"{name}: {entrant}, {kind}: {figures['absent']}")


def _show_times(table: dict[str, Any]) -> None:
    libraries = ("transportx", "ott", "POT", "GeomLoss")
    peers = ("ott best", "ott default")
    _print_row("cell", *(f"{library}, ms" for library in libraries), *(f"x {p}" for p in peers))
    _print_row(*["---"] * (1 + len(libraries) + len(peers)))
    for name, row in table.items():
        times = [_time(row, library) for library in libraries]
        _print_row(name, *times, *(_ratio(row["times_faster"].get(peer)) for peer in peers))


def _time(row: dict[str, Any], library: str) -> str:
    if library not in row["best"]:
        entered = any(name.startswith(library) for name in row["entrants"])
        return "not reached" if entered else "absent"
    name = row["best"][library]
    setting = name.removeprefix(library).strip()
    return f"{1e3 * row['seconds'][name]['median']:.4g} ({setting})"


def _show_summary(summary: dict[str, Any], cells: int) -> None:
    print()
    _print_row("times faster than", "geometric mean", "least", "cells where both passed")
    _print_row(*["---"] * 4)
    for peer, figures in summary.items():
        mean, least = figures["geometric_mean"], figures["least"]
        _print_row(peer, f"{mean:.2f}", f"{least:.2f}", f"{figures['cells']} of {cells}")


def _show_audit(table: dict[str, Any]) -> None:
    print()
    _print_row("cell", "entrant", "knob", "audited error", "ms", "compile s", "temp MiB")
    _print_row(*["---"] * 7)
    for name, row in table.items():
        for entrant, found in row["entrants"].items():
            error = f"{found['error']:.2e}{'' if found['reached'] else ', not reached'}"
            spread = row["seconds"].get(entrant)
            took = "" if spread is None else f"{1e3 * spread['median']:.4g}"
            _print_row(name, entrant, f"{found['knob']:.4g}", error, took, *_compiling(found))


def _compiling(found: dict[str, Any]) -> tuple[str, str]:
    if "compile_seconds" not in found:
        return "", ""
    return f"{found['compile_seconds']:.2f}", _mebibytes(found["temporary_bytes"])


def _show_derivatives(table: dict[str, Any]) -> None:
    print()
    _print_row("cell", "entrant", *(f"{name} / forward" for name in GRADIENTS))
    _print_row(*["---"] * (2 + len(GRADIENTS)))
    for name, row in table.items():
        for entrant, found in row["derivatives"].items():
            cells = (_gradient(found[kind]) for kind in GRADIENTS)
            _print_row(name, entrant, *cells)
    print()


def _gradient(found: dict[str, Any]) -> str:
    if "absent" in found:
        return "absent"
    return f"{_ratio(found['ratio'])}, {_mebibytes(found['temporary_bytes'])} MiB"


def _ratio(spread: dict[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f}"


def _print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")
