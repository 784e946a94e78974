"""How much memory this process has held."""

import resource
import sys

_MEBIBYTE = 2**20


def peak_mebibytes() -> float:
    """Most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MEBIBYTE if sys.platform == "darwin" else 1024)
