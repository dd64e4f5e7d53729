"""Files whose bytes lie in a bucket. This is the only layer that imports boto3 and botocore, and it does so with the first request.

Each function stands in its own module, which is imported when the name is first used: a command that needs one of them starts without the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent import Agent
    from .exporting import export, stage_out
    from .importing import import_objects
    from .links import link, unlink
    from .releasing import release
    from .restoring import restore, stage_in
    from .syncing import sync

__all__ = [
    "Agent",
    "export",
    "import_objects",
    "link",
    "release",
    "restore",
    "stage_in",
    "stage_out",
    "sync",
    "unlink",
]

_HOMES = {
    "Agent": "agent",
    "export": "exporting",
    "stage_out": "exporting",
    "import_objects": "importing",
    "link": "links",
    "unlink": "links",
    "release": "releasing",
    "restore": "restoring",
    "stage_in": "restoring",
    "sync": "syncing",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)
