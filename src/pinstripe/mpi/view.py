"""View: which bytes of a file a rank sees, as MPI defines it."""

from __future__ import annotations

import dataclasses

import numpy as np
from mpi4py import MPI

from .datatypes import typemap
from .extents import Access, Typemap
from .rank_error import MPIError

__all__ = ["View"]


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A displacement, and a file type repeated from there on.

    Attributes
    ----------
    displacement : int
        Bytes.
    tile : Typemap
        The file type.
    etype_bytes : int
        Size of the elementary type: the unit of offsets and positions.
    """

    displacement: int = 0
    tile: Typemap = dataclasses.field(default_factory=lambda: Typemap.basic(1))
    etype_bytes: int = 1

    @classmethod
    def of(cls, displacement: int, etype: MPI.Datatype, filetype: MPI.Datatype, *, writable: bool) -> View:
        """Make the view of a displacement and two datatypes.

        Raises
        ------
        MPIError
            The file type is not made of elementary types, its displacements fall or are negative, or it overlaps
            itself and the file is open for writing.
        """
        tile, unit = typemap(filetype), etype.Get_size()
        if displacement < 0:
            raise MPIError(f"the view's displacement {displacement} is negative", MPI.ERR_ARG)
        if unit == 0 or tile.size % unit:
            raise MPIError(
                f"a file type of {tile.size} bytes is not made of elementary types of {unit} bytes", MPI.ERR_TYPE
            )
        if tile.offsets.size:
            falls = bool((np.diff(tile.offsets) < 0).any())
            if falls or int(tile.offsets[0]) < 0:
                raise MPIError("the displacements in a file type must not be negative and must not fall", MPI.ERR_TYPE)
            if writable and not _apart(tile):
                raise MPIError("a file type that overlaps itself cannot be written through", MPI.ERR_TYPE)
        return cls(displacement, tile, unit)

    def access(self, offset: int, nbytes: int) -> Access:
        """Return the access of `nbytes` from `offset` (in etypes) on."""
        return Access.through(self.tile, self.displacement, offset * self.etype_bytes, nbytes)

    def byte_offset(self, offset: int) -> int:
        """Return the place in the file of etype `offset` of the view."""
        size = self.tile.size
        if not size:
            return self.displacement
        return self.access(offset, 1).lo

    def etypes_below(self, size: int) -> int:
        """Return how many etypes of the view begin below byte `size` of the file: where SEEK_END counts from."""
        if not self.tile.size or size <= self.displacement:
            return 0
        tiles = (size - self.displacement) // max(1, self.tile.extent) + 1
        return -(-self.access(0, tiles * self.tile.size).readable(size) // self.etype_bytes)


def _apart(tile: Typemap) -> bool:
    return bool((tile.offsets[1:] >= tile.offsets[:-1] + tile.lengths[:-1]).all())
