"""What the store asks of the file systems below it: their kind, and one sync for all."""

from __future__ import annotations

import ctypes
import os

__all__ = ["filesystem_type", "is_volatile", "sync_filesystem"]

_VOLATILE = ("tmpfs", "ramfs")
_syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


def filesystem_type(path: str) -> str:
    """Return the kind of the file system that `path` lies on (``ext4``, ``tmpfs``, ...), "" where it cannot be told."""
    try:
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            lines = mounts.readlines()
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in reversed(lines):  # what was mounted last hides what was there before
        fields, dash, rest = line.partition(" - ")
        if dash and fields.split()[2] == wanted:
            return rest.split()[0]
    return ""


def is_volatile(path: str) -> bool:
    """Tell whether what lies here is gone after a power cut, whatever was synced."""
    return filesystem_type(path) in _VOLATILE


def sync_filesystem(path: str) -> None:
    """Make durable everything that was written to the file system of `path`, by anybody (syncfs).

    Raises
    ------
    OSError
        Something of it could not be written.
    """
    if _syncfs is None:
        os.sync()
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(fd)
