"""Two real photographs that come inside scikit-learn: their colours and their edges."""

from typing import Literal

import numpy as np

Name = Literal["china", "flower"]

# Rows and columns of the pagoda in "china", and the share of its pixels that count as edges.
_PAGODA = (slice(20, 420), slice(60, 360))
_EDGE_SHARE = 0.2


def load(name: Name) -> np.ndarray:
    """The photograph, shape (427, 640, 3), in [0, 1]."""
    from sklearn.datasets import load_sample_image

    return (load_sample_image(f"{name}.jpg") / 255).astype(np.float32)


def pagoda_edges() -> np.ndarray:
    """Pixels where brightness changes fastest, shape (k, 2): centred, y up, within about 1."""
    down, right = np.gradient(load("china").mean(axis=2))
    strength = np.hypot(down, right)[_PAGODA]
    rows, columns = np.nonzero(strength > np.quantile(strength, 1 - _EDGE_SHARE))
    points = np.stack([columns, -rows], axis=1)
    return (points - points.mean(axis=0)) / (strength.shape[0] / 2)
