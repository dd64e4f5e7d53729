"""The nonblocking calls of `File`.

A write's exchange happens inside the call, in the caller's thread; compressing and writing go on in a thread that calls no MPI, so `Wait` is
local. The buffer stays untouched until then. A read is complete when the call returns.
"""

from __future__ import annotations

from typing import Any

from .agree import Operation
from .calls import Calls
from .request import Request

__all__ = ["NonblockingCalls"]


class NonblockingCalls(Calls):
    """Explicit offsets and individual pointers. An error of the arguments or of an exchange is raised by the call; one of a target by
    `Request.Wait` on the rank where it arose, and on all ranks by the next collective call."""

    def Iwrite_at(self, offset: int, buf: Any) -> Request:
        """Independent. Begin to write at an offset, in etypes."""
        return self._request(self._write_alone(offset, buf, deferred=True))

    def Iwrite_at_all(self, offset: int, buf: Any) -> Request:
        """Collective. Begin to write at an offset, in etypes. An error on one rank in this call is raised on all."""
        return self._request(self._write_together(Operation.write_at_all, offset, buf, deferred=True))

    def Iwrite(self, buf: Any) -> Request:
        """Independent. Begin to write at this rank's position, and move it."""
        nbytes = self._write_alone(self._position, buf, deferred=True)
        self._position += self._etypes(nbytes)
        return self._request(nbytes)

    def Iwrite_all(self, buf: Any) -> Request:
        """Collective. Begin to write at each rank's position, and move it. An error on one rank in this call is raised on all."""
        nbytes = self._write_together(Operation.write_all, self._position, buf, deferred=True)
        self._position += self._etypes(nbytes)
        return self._request(nbytes)

    def Iread_at(self, offset: int, buf: Any) -> Request:
        """Independent. Read at an offset, in etypes; the request is complete. An error is raised here."""
        return self._complete(self._read_alone(offset, buf))

    def Iread_at_all(self, offset: int, buf: Any) -> Request:
        """Collective. Read at an offset, in etypes; the request is complete. An error on one rank is raised on all."""
        return self._complete(self._read_together(Operation.read_at_all, offset, buf))

    def Iread(self, buf: Any) -> Request:
        """Independent. Read at this rank's position, and move it; the request is complete. An error is raised here."""
        nbytes = self._read_alone(self._position, buf)
        self._position += self._etypes(nbytes)
        return self._complete(nbytes)

    def Iread_all(self, buf: Any) -> Request:
        """Collective. Read at each rank's position, and move it; the request is complete. An error on one rank is raised on all."""
        nbytes = self._read_together(Operation.read_all, self._position, buf)
        self._position += self._etypes(nbytes)
        return self._complete(nbytes)
