"""Hints: keyword arguments, `MPI.Info` keys and the environment, as one value. The table is docs/reference/hints.md."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from mpi4py import MPI

from ..errors import ArgumentError
from ..format.layout import Layout
from ..options import Options

__all__ = ["ALIASES", "INFO_PREFIX", "Hints"]

INFO_PREFIX = "pinstripe_"

ALIASES = {
    "striping_unit": "stripe_bytes",
    "striping_factor": "stripe_count",
    "cb_buffer_size": "batch_bytes",
    "romio_cb_write": "exchange_write",
    "romio_cb_read": "exchange_read",
}
"""Keys of the MPI standard and of ROMIO that mean one of ours."""

_LAYOUT = tuple(field.name for field in dataclasses.fields(Layout))
_OPTIONS = tuple(field.name for field in dataclasses.fields(Options))
_CHANGEABLE = ("exchange_write", "exchange_read", "overlap", "shared_memory")
_ROMIO_WORDS = {"automatic": "auto", "enable": "always", "disable": "never"}


@dataclasses.dataclass(frozen=True, slots=True)
class Hints:
    """What a collective file is opened with; equal on all ranks.

    Attributes
    ----------
    options : Options
        As for serial files.
    layout : dict
        Changes to the layout that a new file inherits; nothing to a file that is there.
    """

    options: Options
    layout: dict[str, Any]

    def __post_init__(self) -> None:
        Layout.make(None, **self.layout)  # refuses what cannot be

    @classmethod
    def make(cls, given: Mapping[str, Any] | None = None, **defaults: Any) -> Hints:
        """Take each hint from `given`, else an option from ``PINSTRIPE_NAME`` in the environment, else from `defaults`.

        Raises
        ------
        ArgumentError
            A name that is no hint, or a value that it cannot have.
        """
        values = {name: value for name, value in (given or {}).items() if value is not None}
        unknown = values.keys() - {*_LAYOUT, *_OPTIONS}
        if unknown:
            raise ArgumentError(
                f"unknown hint {', '.join(sorted(unknown))}: the hints are {', '.join((*_OPTIONS, *_LAYOUT))}"
            )
        for name, value in defaults.items():
            if f"PINSTRIPE_{name.upper()}" not in os.environ:
                values.setdefault(name, value)
        return cls(
            Options.make({name: values[name] for name in _OPTIONS if name in values}),
            {name: values[name] for name in _LAYOUT if name in values},
        )

    @classmethod
    def from_info(cls, info: MPI.Info, **defaults: Any) -> Hints:
        """Take hints from an `MPI.Info`: ours with the prefix ``pinstripe_``, and the standard's and ROMIO's that mean the same.

        Keys of others are ignored, as MPI says. A standard key whose value is not usable here is ignored too.
        """
        values: dict[str, Any] = {}
        if info != MPI.INFO_NULL:
            for key, name in ALIASES.items():
                value = info.Get(key)
                if value is not None and _usable(name, _ROMIO_WORDS.get(value, value)):
                    values[name] = _ROMIO_WORDS.get(value, value)
            for number in range(info.Get_nkeys()):
                key = info.Get_nthkey(number)
                if key.startswith(INFO_PREFIX):
                    values[key.removeprefix(INFO_PREFIX)] = info.Get(key)
        return cls.make(values, **defaults)

    def changed(self, info: MPI.Info) -> Hints:
        """Return these hints with what `info` says of those that can change while a file is open."""
        if info == MPI.INFO_NULL:
            return self
        given = type(self).from_info(info)
        keys = [info.Get_nthkey(number) for number in range(info.Get_nkeys())]
        named = {ALIASES.get(key, key.removeprefix(INFO_PREFIX)) for key in keys}
        changes = {name: getattr(given.options, name) for name in _CHANGEABLE if name in named}
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **changes))

    def to_info(self, layout: Layout) -> MPI.Info:
        """Return the hints in use, the file's real layout among them, as a new `MPI.Info`; the caller frees it."""
        values = {**dataclasses.asdict(self.options), **dataclasses.asdict(layout)}
        info = MPI.Info.Create()
        for name, value in values.items():
            if value is not None:
                info.Set(INFO_PREFIX + name, str(value))
        romio = {ours: theirs for theirs, ours in _ROMIO_WORDS.items()}
        for key, name in ALIASES.items():
            info.Set(key, romio.get(str(values[name]), str(values[name])))
        return info


def _usable(name: str, value: str) -> bool:
    try:
        Hints.make({name: value})
    except ArgumentError:
        return False
    return True
