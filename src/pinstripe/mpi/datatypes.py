"""MPI datatypes taken apart: from a handle to its type map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from .extents import Typemap
from .rank_error import MPIError

__all__ = ["typemap"]

_COMPLEX = (
    MPI.C_FLOAT_COMPLEX,
    MPI.C_DOUBLE_COMPLEX,
    MPI.C_LONG_DOUBLE_COMPLEX,
    MPI.CXX_FLOAT_COMPLEX,
    MPI.CXX_DOUBLE_COMPLEX,
    MPI.CXX_LONG_DOUBLE_COMPLEX,
    MPI.COMPLEX,
    MPI.DOUBLE_COMPLEX,
)


def typemap(datatype: MPI.Datatype) -> Typemap:
    """Return where the bytes of one instance of `datatype` lie, whatever it is made of.

    Raises
    ------
    MPIError
        The null datatype, or a constructor that is not known here.
    """
    if datatype == MPI.DATATYPE_NULL:
        raise MPIError("the datatype is null", MPI.ERR_TYPE)
    base, combiner, params = datatype.decode()
    if combiner == "NAMED" or combiner.startswith("F90_"):
        return _predefined(datatype)
    if combiner == "STRUCT":
        members = params["datatypes"]
        made = _struct([_inner(member) for member in members], params)
    else:
        make = _CONSTRUCTORS.get(combiner)
        if make is None:
            raise MPIError(f"a datatype made by {combiner} is not supported", MPI.ERR_UNSUPPORTED_OPERATION)
        made = make(_inner(base), params)
    lower, extent = datatype.Get_extent()  # the library's: alignment of structures is its own business
    return made.resized(lower, extent)


def _inner(datatype: MPI.Datatype) -> Typemap:
    """Take a part of another datatype apart; its handle was made for us, so it is given back."""
    made = typemap(datatype)
    if not datatype.is_predefined:
        datatype.Free()
    return made


def _predefined(datatype: MPI.Datatype) -> Typemap:
    size = datatype.Get_size()
    lower, extent = datatype.Get_extent()
    _, true_extent = datatype.Get_true_extent()
    if datatype in _COMPLEX:
        return Typemap.basic(size, size // 2)
    if size == true_extent:
        return Typemap.basic(size).resized(lower, extent)
    # A pair such as SHORT_INT: the second, an int, stands aligned at the end.
    second = MPI.INT.Get_size()
    offsets, lengths = np.array([0, true_extent - second]), np.array([size - second, second])
    return Typemap(offsets.astype(np.int64), lengths.astype(np.int64), lower, extent, 0)


def _struct(members: list[Typemap], params: dict[str, Any]) -> Typemap:
    rows = zip(members, params["displacements"], params["blocklengths"], strict=True)
    return Typemap.joined([member.placed([start], [count]) for member, start, count in rows])


def _vector(inner: Typemap, count: int, blocklength: int, stride_bytes: int) -> Typemap:
    return inner.placed(np.arange(count) * stride_bytes, np.full(count, blocklength))


def _darray(inner: Typemap, params: dict[str, Any]) -> Typemap:
    """Return the part of a distributed array that one process of a grid holds. The grid is in row-major order always."""
    sizes, grid = params["gsizes"], params["psizes"]
    where = np.unravel_index(params["rank"], grid) if len(grid) else ()
    dims = list(zip(sizes, params["distribs"], params["dargs"], grid, where, strict=True))
    if params["order"] == MPI.ORDER_C:
        dims.reverse()
    block, step = inner, inner.extent
    for size, distribution, argument, processes, place in dims:
        block_length = argument
        if distribution == MPI.DISTRIBUTE_NONE:
            block_length = size
        elif argument == MPI.DISTRIBUTE_DFLT_DARG:
            block_length = 1 if distribution == MPI.DISTRIBUTE_CYCLIC else -(-size // processes)
        starts = np.arange(int(place) * block_length, size, max(1, block_length * processes))
        counts = np.minimum(block_length, size - starts)
        block = block.resized(0, step).placed(starts * step, counts)
        step *= size
    return block


_CONSTRUCTORS: dict[str, Callable[[Typemap, dict[str, Any]], Typemap]] = {
    "DUP": lambda inner, _: inner,
    "RESIZED": lambda inner, _: inner,
    "CONTIGUOUS": lambda inner, p: inner.placed([0], [p["count"]]),
    "VECTOR": lambda inner, p: _vector(inner, p["count"], p["blocklength"], p["stride"] * inner.extent),
    "HVECTOR": lambda inner, p: _vector(inner, p["count"], p["blocklength"], p["stride"]),
    "INDEXED": lambda inner, p: inner.placed(np.array(p["displacements"]) * inner.extent, p["blocklengths"]),
    "HINDEXED": lambda inner, p: inner.placed(p["displacements"], p["blocklengths"]),
    "INDEXED_BLOCK": lambda inner, p: inner.placed(np.array(p["displacements"]) * inner.extent, p["blocklength"]),
    "HINDEXED_BLOCK": lambda inner, p: inner.placed(p["displacements"], p["blocklength"]),
    "SUBARRAY": lambda inner, p: inner.subarray(
        p["sizes"], p["subsizes"], p["starts"], "C" if p["order"] == MPI.ORDER_C else "F"
    ),
    "DARRAY": _darray,
}
