"""Telling other ranks small values, as JSON: plans and findings, never data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .team import Team

__all__ = ["gather_json", "tell_json"]


def tell_json(team: Team, value: Any, root: int = 0) -> Any:
    """Collective. Give every rank the value that `root` has."""
    told = team.broadcast(_encoded(value) if team.rank == root else None, root)
    return json.loads(told)


def gather_json(team: Team, value: Any) -> list[Any] | None:
    """Collective. Give rank 0 the values of all ranks, in rank order; None elsewhere."""
    gathered = team.gather(np.frombuffer(_encoded(value), np.uint8))
    return None if gathered is None else [json.loads(array.tobytes()) for array in gathered]


def _encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
