"""A staggered grid: densities in cells, velocities on the faces between them."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks, _numbers

Cells = Float[Array, "..."]
Faces = tuple[Float[Array, "..."], ...]


@_checks.gate
class Box(eqx.Module):
    """A staggered grid of equal cells on a box in one or two dimensions, with walls.

    Densities live in the cells, velocities and fluxes on the inner faces between them; nothing
    flows through the walls.

    Attributes:
        shape: Number of cells along each axis, at least two.
        lengths: Side lengths of the box, positive, in units of the points.

    Example:
        >>> box = tx.fields.Box((4, 2), (8.0, 2.0))
        >>> box.spacing, box.volume, box.centres().shape
        ((2.0, 1.0), 2.0, (4, 2, 2))
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    lengths: tuple[float, ...] = eqx.field(static=True)

    def __check_init__(self):
        if len(self.shape) not in (1, 2) or len(self.lengths) != len(self.shape):
            problem = f"has {len(self.shape)} axes and `lengths` has {len(self.lengths)}"
            _checks.reject("shape", problem, "give one or two axes, with a length each")
        for size in self.shape:
            _checks.count("shape", size, least=2)
        for length in self.lengths:
            _checks.scale("lengths", length)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Width of a cell along each axis."""
        return tuple(length / size for length, size in zip(self.lengths, self.shape, strict=True))

    @property
    def volume(self) -> float:
        """Length or area of a cell."""
        volume = 1.0
        for width in self.spacing:
            volume *= width
        return volume

    def centres(self) -> Float[Array, "... d"]:
        """Midpoints of the cells, the box centred on the origin."""
        axes = [
            jnp.linspace((width - length) / 2, (length - width) / 2, size)
            for size, width, length in zip(self.shape, self.spacing, self.lengths, strict=True)
        ]
        return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)

    @_checks.gate
    def divergence(self, flux: Faces) -> Cells:
        """Divergence of a flux in each cell: the outflow over the volume of the cell.

        Args:
            flux: Normal fluxes on the inner faces, one array per axis.

        Example:
            >>> box = tx.fields.Box((3,), (3.0,))
            >>> box.divergence((jnp.array([1.0, 1.0]),)).tolist()
            [1.0, 0.0, -1.0]
        """
        check_faces(self, "flux", flux)
        total = jnp.zeros(self.shape, flux[0].dtype)
        for axis, (through, width) in enumerate(zip(flux, self.spacing, strict=True)):
            walls = [(1, 1) if k == axis else (0, 0) for k in range(len(self.shape))]
            total = total + jnp.diff(jnp.pad(through, walls), axis=axis) / width
        return total

    @_checks.gate
    def gradient(self, potential: Cells) -> Faces:
        """Slopes of a potential across the inner faces: minus the adjoint of `divergence`.

        Args:
            potential: One number per cell.

        Returns:
            One array of slopes per axis.

        Example:
            >>> box = tx.fields.Box((3,), (3.0,))
            >>> box.gradient(jnp.array([0.0, 1.0, 4.0]))[0].tolist()
            [1.0, 3.0]
        """
        _checks.shaped("potential", potential, self.shape, "one number per cell")
        return tuple(
            jnp.diff(potential, axis=axis) / width for axis, width in enumerate(self.spacing)
        )

    @_checks.gate
    def on_faces(self, density: Cells) -> Faces:
        """Density on the inner faces: the mean of the cells on both sides.

        Args:
            density: One number per cell.

        Returns:
            One array per axis.
        """
        _checks.shaped("density", density, self.shape, "one number per cell")
        return tuple(
            (after(density, axis) + before(density, axis)) / 2 for axis in range(len(self.shape))
        )

    @_checks.gate
    def solve_poisson(self, source: Cells) -> Cells:
        """Solve the Poisson equation with walls by a discrete cosine transform.

        Args:
            source: One number per cell; its mean is left out.

        Returns:
            The potential of mean zero whose Laplacian is the source less its mean.

        Example:
            >>> box, source = tx.fields.Box((4,), (4.0,)), jnp.array([1.0, 0.0, 0.0, -1.0])
            >>> laplacian = box.divergence(box.gradient(box.solve_poisson(source)))
            >>> bool(jnp.allclose(laplacian, source, atol=1e-5))
            True
        """
        _checks.shaped("source", source, self.shape, "one number per cell")
        modes = jax.scipy.fft.dctn(source)
        symbol = jnp.zeros(self.shape, source.dtype)
        for axis, (size, width) in enumerate(zip(self.shape, self.spacing, strict=True)):
            waves = jnp.arange(size, dtype=source.dtype) * (jnp.pi / size)
            shape = [-1 if k == axis else 1 for k in range(len(self.shape))]
            symbol = symbol + ((2 * jnp.cos(waves) - 2) / width**2).reshape(shape)
        constant = symbol == 0
        modes = jnp.where(constant, 0, modes / jnp.where(constant, 1, symbol))
        return jax.scipy.fft.idctn(modes)


def check_faces(box: Box, argument: str, values: Faces) -> None:
    """Refuse velocities that would be broadcast against the faces between cells."""
    axes = range(len(box.shape))
    shapes = [tuple(n - (k == axis) for k, n in enumerate(box.shape)) for axis in axes]
    given = [jnp.shape(v) for v in values]
    if given != shapes:
        cure = f"give one number per inner face, an array per axis: shapes {shapes}"
        _checks.reject(argument, f"has shapes {given}", cure)


def check_density(box: Box, density: Cells, rate: Cells) -> None:
    """Refuse arrays of another shape than the cells, and half precision."""
    for name, array in (("density", density), ("rate", rate)):
        if array.shape != box.shape:
            cure = f"give one number per cell, {box.shape}"
            _checks.reject(name, f"has shape {array.shape}", cure)
        _checks.floating(name, array)
        if _numbers.is_half(array):
            cure = "convert it to float32: halves do not hold a curve of densities"
            _checks.reject(name, f"has dtype {array.dtype}", cure)


def before(density: Cells, axis: int) -> Cells:
    """At every inner face, the density of the cell before it."""
    return jax.lax.slice_in_dim(density, 0, density.shape[axis] - 1, axis=axis)


def after(density: Cells, axis: int) -> Cells:
    """At every inner face, the density of the cell after it."""
    return jax.lax.slice_in_dim(density, 1, density.shape[axis], axis=axis)
