"""The caller's memory: any buffer specification that mpi4py takes, as packed bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..errors import ArgumentError
from ..kernels import copy_extents
from .datatypes import typemap
from .extents import Access, Typemap

__all__ = ["Memory", "memory_of"]

Bytes = npt.NDArray[np.uint8]

_CPU = 1  # DLPack's device types: the processor, and
_HOST = (_CPU, 3, 11)  # memory that it can reach, pinned for a GPU
_PACK_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """`count` instances of a type in a buffer.

    Attributes
    ----------
    data : uint8 array
        The buffer.
    element : Typemap
        The first instance, where it lies in the buffer.
    count : int
    """

    data: Bytes
    element: Typemap
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of data, holes not counted."""
        return self.count * self.element.size

    @property
    def width(self) -> int:
        """Bytes of a basic element, for the byte shuffle; 0 = unknown."""
        return self.element.width

    @property
    def direct(self) -> bool:
        """Whether the data is one run in memory, so that nothing must be packed."""
        return not self.nbytes or (self.element.offsets.size == 1 and (self.count == 1 or self.element.solid))

    def packed(self) -> Bytes:
        """Return the data without holes: the caller's own memory if it has none, else a copy."""
        if self.direct:
            return self._run()
        out = np.empty(self.nbytes, np.uint8)
        for start, stop, offsets, lengths in self._runs():
            copy_extents(self.data, offsets, out[start:stop], np.cumsum(lengths) - lengths, lengths)
        return out

    def landing(self) -> Bytes:
        """Return where a read puts packed bytes: the caller's own memory, or a buffer for `unpack`."""
        return self._run() if self.direct else np.empty(self.nbytes, np.uint8)

    def unpack(self, packed: Bytes, nbytes: int) -> None:
        """Spread the first `nbytes` of what `landing` gave over the caller's memory; nothing to do if it is that."""
        if self.direct:
            return
        for start, stop, offsets, lengths in self._runs(nbytes):
            copy_extents(packed[start:stop], np.cumsum(lengths) - lengths, self.data, offsets, lengths)

    def _run(self) -> Bytes:
        if not self.nbytes:
            return np.zeros(0, np.uint8)
        first = int(self.element.offsets[0])
        return self.data[first : first + self.nbytes]

    def _runs(self, nbytes: int | None = None) -> Any:
        nbytes = self.nbytes if nbytes is None else nbytes
        access = Access.through(self.element, 0, 0, nbytes)
        # Bounded by pieces as well as bytes: a piece takes 16 bytes of plan.
        step = max(1, min(_PACK_BYTES, self.element.size * max(1, (1 << 20) // self.element.offsets.size)))
        for start in range(0, nbytes, step):
            stop = min(nbytes, start + step)
            yield (start, stop, *access.slice(start, stop))


def memory_of(spec: Any, *, write: bool) -> Memory:
    """Read a buffer specification: ``buf``, ``[buf, type]``, ``[buf, count]``, ``[buf, count, type]``, ``[buf, (count, displacement), type]``.

    Parameters
    ----------
    spec
        As in mpi4py; a displacement counts extents of the type. None is no data.
    write : bool
        Whether the call will write into the memory.

    Raises
    ------
    ArgumentError
        Not such a thing, too small, read-only where it is to be filled, or memory of a device.
    """
    if spec is None:
        return Memory(np.zeros(0, np.uint8), Typemap.basic(1), 0)
    buffer, count, displacement, datatype = spec, None, 0, None
    if isinstance(spec, list | tuple):
        buffer, count, displacement, datatype = _parts(spec)
    if buffer is None or isinstance(buffer, MPI.BottomType):
        return _absolute(count, displacement, datatype)
    data, item, width = _flat(buffer, write)
    element = Typemap.basic(item, width) if datatype is None else typemap(datatype)
    origin = displacement * element.extent
    if count is None:
        room = data.size - origin
        if element.extent <= 0 or room < 0 or room % element.extent:
            raise ArgumentError(
                f"a buffer of {data.size} bytes at displacement {displacement} does not hold "
                f"whole elements of {element.extent} bytes: give a count"
            )
        count = room // element.extent
    _check(data.size, origin, element, count)
    return Memory(data, dataclasses.replace(element, offsets=element.offsets + origin), count)


def _parts(spec: Any) -> tuple[Any, int | None, int, MPI.Datatype | None]:
    buffer, count, displacement, datatype = None, None, 0, None
    if len(spec) == 1:
        (buffer,) = spec
    elif len(spec) == 2:
        buffer, second = spec
        if isinstance(second, MPI.Datatype | str):
            datatype = second
        else:
            count = second
    elif len(spec) == 3:
        buffer, count, datatype = spec
    elif len(spec) == 4:
        buffer, count, displacement, datatype = spec
    else:
        raise ArgumentError("a buffer is buf, [buf, type], [buf, count] or [buf, count, type]")
    if isinstance(count, list | tuple):
        if len(count) != 2:
            raise ArgumentError("a count is a number, or a pair (count, displacement)")
        count, displacement = count
    if isinstance(datatype, str):
        datatype = MPI.Datatype.fromcode(datatype)
    if datatype is not None and not isinstance(datatype, MPI.Datatype):
        raise ArgumentError(f"{datatype!r} is no datatype")
    count = None if count is None else int(count)
    if count is not None and count < 0:
        raise ArgumentError(f"count={count}: must not be negative")
    return buffer, count, int(displacement or 0), datatype


def _flat(buffer: Any, write: bool) -> tuple[Bytes, int, int]:
    """Return a buffer's bytes, the size of its items and the width of their elements."""
    device = getattr(buffer, "__dlpack_device__", None)
    foreign = device is not None and not isinstance(buffer, np.ndarray) and int(device()[0]) not in _HOST
    if foreign or (hasattr(buffer, "__cuda_array_interface__") and device is None):
        raise ArgumentError("the buffer lies in a device's memory: copy it to the host first")
    try:
        view = MPI.buffer.frombuffer(buffer, readonly=not write)
        item, width = _item(buffer, view)
        return _bytes(view), item, width
    except (BufferError, TypeError, ValueError) as error:
        what = "a contiguous, writable buffer" if write else "a contiguous buffer"
        raise ArgumentError(f"{type(buffer).__name__} is not {what}: {error}") from None


def _bytes(view: Any) -> Bytes:
    return np.frombuffer(view, np.uint8)


def _item(buffer: Any, view: MPI.buffer) -> tuple[int, int]:
    if isinstance(buffer, np.ndarray):
        return max(1, buffer.dtype.itemsize), _width(buffer.dtype)
    try:
        seen = memoryview(buffer)
        return max(1, seen.itemsize), _width(np.dtype(seen.format)) if seen.format else 0
    except (TypeError, ValueError, BufferError):
        return max(1, view.itemsize), 0


def _width(dtype: np.dtype[Any]) -> int:
    """Bytes of one number; plain bytes may be anything, so they count as unknown."""
    dtype = dtype.subdtype[0] if dtype.subdtype else dtype
    if dtype.kind == "c":
        return dtype.itemsize // 2
    if dtype.kind in "iufmM" and dtype.itemsize > 1:
        return dtype.itemsize
    return 0


def _absolute(count: int | None, displacement: int, datatype: MPI.Datatype | None) -> Memory:
    """Read a specification whose datatype holds absolute addresses."""
    if datatype is None or count is None:
        if not count:
            return Memory(np.zeros(0, np.uint8), Typemap.basic(1), 0)
        raise ArgumentError("a buffer of absolute addresses needs a count and a datatype")
    element = typemap(datatype)
    if not count or not element.size:
        return Memory(np.zeros(0, np.uint8), element, 0)
    first, last = displacement * element.extent, (displacement + count - 1) * element.extent
    low = int(element.offsets.min()) + min(first, last)
    high = int((element.offsets + element.lengths).max()) + max(first, last)
    data = _bytes(MPI.buffer.fromaddress(low, high - low))
    return Memory(data, dataclasses.replace(element, offsets=element.offsets + (first - low)), count)


def _check(size: int, origin: int, element: Typemap, count: int) -> None:
    if not count or not element.size:
        return
    far = (count - 1) * element.extent
    low = origin + int(element.offsets.min()) + min(0, far)
    high = origin + int((element.offsets + element.lengths).max()) + max(0, far)
    if low < 0 or high > size:
        raise ArgumentError(f"a buffer of {size} bytes is too small: {count} elements take bytes {low} to {high}")
