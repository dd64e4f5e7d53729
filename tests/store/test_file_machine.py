"""The file API against a dictionary of bytearrays, in any order of calls."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import pinstripe
from pinstripe.kernels import crc64
from pinstripe.store.collect import collect_store

STRIPE = 64 << 10
MOST = 6 * STRIPE
OPTIONS: dict[str, Any] = {
    "grace_s": 0.0,
    "durability": "none",
    "cache_bytes": 1 << 20,
    "batch_bytes": 2 * STRIPE,
    "inline_bytes": 2000,
}
names = st.sampled_from(["a", "b", "c"])
offsets = st.one_of(st.integers(0, MOST), st.integers(0, 6).map(lambda k: k * STRIPE))
pieces = st.tuples(st.integers(0, 255), st.one_of(st.integers(0, 300), st.integers(0, 2 * STRIPE + 5)))


def content(piece: tuple[int, int]) -> bytes:
    """Bytes that compress, and differ from piece to piece."""
    seed, length = piece
    return bytes((seed + k * k) % 251 for k in range(64)) * (length // 64) + bytes([seed]) * (length % 64)


class Machine(RuleBasedStateMachine):
    """At most one file is open at a time; `model` holds what is published, `draft` what the open file has."""

    @initialize()
    def make(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="pinstripe-machine-"))
        self.store = pinstripe.create(
            self.place / "s", [str(self.place / "t0"), str(self.place / "t1")], stripe_bytes=STRIPE, block_bytes=16 << 10
        )
        self.model: dict[str, bytes] = {}
        self.older: dict[tuple[str, int], bytes] = {}
        self.file: Any = None
        self.name = ""
        self.draft = bytearray()

    def path(self, name: str) -> str:
        return str(self.place / "s" / name)

    @precondition(lambda self: self.file is None)
    @rule(name=names, mode=st.sampled_from(["r+b", "wb", "w+b", "xb", "ab"]), raw=st.booleans())
    def open(self, name: str, mode: str, raw: bool) -> None:
        there = name in self.model
        arguments: dict[str, Any] = {**OPTIONS, **({"buffering": 0} if raw else {})}
        if (mode == "r+b" and not there) or (mode == "xb" and there):
            with pytest.raises(FileExistsError if there else FileNotFoundError):
                pinstripe.open(self.path(name), mode, **arguments)
            return
        self.file, self.name = pinstripe.open(self.path(name), mode, **arguments), name
        self.appends = mode == "ab"
        self.reads = "+" in mode
        self.draft = bytearray(self.model.get(name, b"") if mode in ("r+b", "ab") else b"")

    @precondition(lambda self: self.file is not None)
    @rule(offset=offsets, piece=pieces)
    def write(self, offset: int, piece: tuple[int, int]) -> None:
        data = content(piece)
        self.file.seek(offset)
        assert self.file.write(data) == len(data)
        if self.appends:
            offset = len(self.draft)
        if data and offset > len(self.draft):
            self.draft.extend(bytes(offset - len(self.draft)))
        self.draft[offset : offset + len(data)] = data

    @precondition(lambda self: self.file is not None and not self.appends)
    @rule(size=offsets)
    def truncate(self, size: int) -> None:
        self.file.truncate(size)
        self.draft = self.draft[:size] + bytes(max(0, size - len(self.draft)))

    @precondition(lambda self: self.file is not None and self.reads)
    @rule(offset=offsets, length=st.integers(0, 3 * STRIPE))
    def read(self, offset: int, length: int) -> None:
        self.file.seek(offset)
        assert self.file.read(length) == self.draft[offset : offset + length]

    @precondition(lambda self: self.file is not None)
    @rule()
    def sync(self) -> None:
        self.file.sync()
        self.publish()

    @precondition(lambda self: self.file is not None)
    @rule()
    def close(self) -> None:
        self.file.close()
        self.publish()
        self.file = None

    @precondition(lambda self: self.file is not None)
    @rule()
    def leave_by_an_exception(self) -> None:
        with pytest.raises(KeyError), self.file:
            raise KeyError
        self.file = None

    def publish(self) -> None:
        self.model[self.name] = bytes(self.draft)

    @precondition(lambda self: self.file is None)
    @rule(name=names)
    def remove(self, name: str) -> None:
        if name not in self.model:
            with pytest.raises(FileNotFoundError):
                pinstripe.remove(self.path(name))
            return
        pinstripe.remove(self.path(name))
        del self.model[name]

    @precondition(lambda self: self.file is None)
    @rule(old=names, new=names)
    def replace(self, old: str, new: str) -> None:
        if old not in self.model:
            return
        pinstripe.replace(self.path(old), self.path(new))
        self.model[new] = self.model[old] if old == new else self.model.pop(old)

    @rule()
    def collect(self) -> None:
        collect_store(self.store)

    @invariant()
    def readers_see_what_is_published(self) -> None:
        if not hasattr(self, "model"):
            return
        assert pinstripe.listdir(str(self.place / "s")) == sorted(self.model) or set(
            pinstripe.listdir(str(self.place / "s"))
        ) == set(self.model)
        for name, expected in self.model.items():
            with pinstripe.open(self.path(name), "rb", buffering=0) as file:
                assert file.read() == expected
                header = file.session.base.header
                assert header is None or header.data_crc == crc64(expected)
            assert pinstripe.stat(self.path(name)).st_size == len(expected)

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        if self.file is not None:
            self.file.discard()
            self.file.close()
        for name in self.model:
            pinstripe.remove(self.path(name))
        collect_store(self.store)
        left = [path for k in range(2) for path in (self.place / f"t{k}").rglob("*.*.*")]
        shutil.rmtree(self.place)
        assert not left, "removed files left segments behind"


Machine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=18, deadline=None, suppress_health_check=list(HealthCheck)
)
TestFileMachine = Machine.TestCase
