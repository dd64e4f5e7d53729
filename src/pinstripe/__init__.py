"""A parallel, compressed, checksummed, atomic file store that lives inside the job.

`open` gives an io object, `pinstripe.mpi` collective files; the rest are `os`'s functions by name. Importing starts nothing: no MPI, no network,
no thread.
"""

from .errors import (
    ArgumentError,
    ConditionError,
    ConflictError,
    DamageError,
    Error,
    FencedError,
    ForkedError,
    NamespaceError,
    NoStoreError,
    OutcomeUnknownError,
    RemoteError,
    StaleError,
    TargetError,
    UnsupportedError,
)
from .format.layout import Layout
from .options import Options
from .store.attributes import chmod, chown, copystat, getxattr, listxattr, removexattr, setxattr, utime
from .store.create import create
from .store.file import open_file as open
from .store.listing import exists, isdir, isfile, lexists, listdir, lstat, readlink, scandir, stat, walk
from .store.namespace import makedirs, mkdir, remove, rename, replace, rmdir, symlink, unlink
from .store.store import Store

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ConditionError",
    "ConflictError",
    "DamageError",
    "Error",
    "FencedError",
    "ForkedError",
    "Layout",
    "NamespaceError",
    "NoStoreError",
    "Options",
    "OutcomeUnknownError",
    "RemoteError",
    "StaleError",
    "Store",
    "TargetError",
    "UnsupportedError",
    "chmod",
    "chown",
    "copystat",
    "create",
    "exists",
    "getxattr",
    "isdir",
    "isfile",
    "lexists",
    "listdir",
    "listxattr",
    "lstat",
    "makedirs",
    "mkdir",
    "open",
    "readlink",
    "remove",
    "removexattr",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "setxattr",
    "stat",
    "symlink",
    "unlink",
    "utime",
    "walk",
]
